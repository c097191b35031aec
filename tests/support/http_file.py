"""docs/guidsvc.http: the examples of docs/api.md, as requests for the HTTP clients of editors.

`python -m tests.support.http_file` writes it. Editors have no common way to take a variable from a response, so a
comment asks the reader to set it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT

PAGE = ROOT / "docs" / "api.md"
FILE = ROOT / "docs" / "guidsvc.http"
EXAMPLE = re.compile(
    r"```sh\n(?:(?P<request>curl .*?)\n```\n```http\n|(?P<name>\w+)=\$\((?P<assigned>curl .*?) \| .*?\)\n```)",
    re.DOTALL,
)
VARIABLES = {"AT": "{{at}}", "GUID": "{{guid}}", "KEY": "{{key}}", "VERSION": "{{version}}", "ID": "{{id}}"}
FROM_RESPONSE = {"VERSION": "`version` of the response", "ID": "`id` of the key of alice"}
"""The variables that the page takes from a response."""

_HEAD = """\
# The requests of docs/api.md, for an editor: REST Client for VS Code, the HTTP client of JetBrains, or httpyac.
# Start the service with `make run`, then send the requests from top to bottom.
# This file is written by: .venv/bin/python -m tests.support.http_file

@at = {at}
@guid = {guid}
# For the requests with a key, start the service with `make run ARGS="--access keys"`. This prints the key:
#   .venv/bin/python pdapt.py keys create --owner operations --scopes admin
@key = gs_...
# Comments of the requests below say when to set these:
@version = 0
@id = 0
"""


class Example(NamedTuple):
    """A request of the page: its title, its content, and the variable that is taken from the response, if any."""

    title: str
    request: curl.Request
    variable: str


def examples() -> Iterator[Example]:
    """Yield the requests of the page, in order."""
    text = PAGE.read_text()
    for match in EXAMPLE.finditer(text):
        line = match["request"] or match["assigned"]
        yield Example(_title(text[: match.start()]), curl.parse(line, VARIABLES), match["name"] or "")


def render() -> str:
    """Return the text of the file."""
    first = curl.assignments(PAGE.read_text().partition("```sh\n")[2].partition("```")[0])
    head = _HEAD.format(at=first["AT"], guid=first["GUID"])
    return "\n".join([head, *map(_block, examples())])


def _title(text_before: str) -> str:
    """Return the first sentence of the paragraph that introduces an example, or else the heading above it."""
    heading = re.findall(r"^#+ (.+)$", text_before, re.MULTILINE)[-1]
    paragraph = " ".join(text_before.rstrip().rpartition("\n\n")[2].split())
    if not paragraph.endswith(":"):
        return str(heading)
    sentence = re.split(r"(?<=[.:]) (?=[A-Z`])", paragraph)[0]
    return re.sub(r"\[([^]]*)\]\([^)]*\)|\*\*", r"\1", sentence).rstrip(".:")


def _block(example: Example) -> str:
    request, variable = example.request, example.variable
    note = f"# Set @{variable.lower()} to the {FROM_RESPONSE[variable]}.\n" if variable else ""
    headers = {"Content-Type": "application/json"} if request.body is not None else {}
    fields = "".join(f"{name}: {value}\n" for name, value in (headers | dict(request.headers)).items())
    body = "" if request.body is None else f"\n{_body(request.body)}\n"
    return f"### {example.title}\n{note}{request.method} {request.url}\n{fields}{body}"


def _body(body: str) -> str:
    return f"< ./{body[1:]}" if body.startswith("@") else body.rstrip("\n")


class ParsedRequest(NamedTuple):
    """A request that was parsed from the file."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str


def read(text: str) -> Iterator[ParsedRequest]:
    """Yield the requests in the text of the file, as an editor would parse them."""
    for block in re.split(r"^### .*\n(?:# .*\n)?", text, flags=re.MULTILINE)[1:]:
        head, _, body = block.partition("\n\n")
        start, *lines = head.strip().splitlines()
        method, _, url = start.partition(" ")
        yield ParsedRequest(method, url, dict(line.split(": ", 1) for line in lines), body.rstrip("\n"))


if __name__ == "__main__":
    FILE.write_text(render())
