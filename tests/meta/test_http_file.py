"""docs/guidsvc.http contains the requests of docs/api.md, which test_api_docs.py runs."""

import re

from tests.support import curl_examples as curl
from tests.support.http_file import FILE, FROM_RESPONSE, PAGE, VARIABLES, examples, read, render


def test_file_is_made_of_the_page() -> None:
    assert FILE.read_text() == render(), "python -m tests.support.http_file"


def test_file_has_every_request_of_the_page() -> None:
    page = PAGE.read_text()

    assert len(list(read(FILE.read_text()))) == page.count("```sh\ncurl ") + page.count("=$(curl ")


def test_requests_in_the_file_equal_those_of_the_page() -> None:
    for sent, example in zip(read(FILE.read_text()), examples(), strict=True):
        request = example.request
        body = "" if request.body is None else request.body.rstrip("\n")
        assert (sent.method, sent.url) == (request.method, request.url)
        assert sent.body == (f"< ./{body[1:]}" if body.startswith("@") else body)
        assert sent.headers.items() >= request.headers.items()
        assert set(sent.headers) - set(request.headers) <= {"Content-Type"}


def test_file_says_which_variables_to_take_of_a_response() -> None:
    variables = re.findall(r"^# Set @(\w+) to", FILE.read_text(), re.MULTILINE)

    assert variables == [example.variable.lower() for example in examples() if example.variable]
    assert {name.upper() for name in variables} == FROM_RESPONSE.keys()


def test_variables_are_set_before_they_are_used() -> None:
    defined: set[str] = set()
    for line in FILE.read_text().splitlines():
        used = set(re.findall(r"\{\{(\w+)\}\}", line))
        assert used <= defined, line
        defined |= set(re.findall(r"^@(\w+) = ", line))
    assert {name.lower() for name in VARIABLES} == defined
    assert curl.assignments("AT=http://127.0.0.1:8888")["AT"] in FILE.read_text()
