"""docs/events.md says what the service does: every example in it is run. Its JavaScript runs in tests/browser."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, Service, service
from tests.support.event_reader import SSE, reading

TEXT = (ROOT / "docs" / "events.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n```http\n(.*?)\n```|```sh\n(\w+=\$\(curl .*?\))\n```", TEXT, re.DOTALL)
AT = "http://127.0.0.1:8888"
GUID = "7D1F0C52A6E84B9B8C3E5A1B2D4F6E70"


def test_event_examples_answer_as_documented(tmp_path: Path) -> None:
    variables = {"AT": AT}
    assert len(EXAMPLES) == TEXT.count("```sh\n") - 1 == TEXT.count("```http") + 1 > 7
    with service(tmp_path) as running:
        for line, promised, assignment in EXAMPLES:
            if assignment:
                variables |= curl.run_assignment(assignment, running.port, tmp_path, variables)
                change(running, tmp_path, "a change after the stock was taken")
            elif " -N " in line:
                asyncio.run(follow(line, promised, running.port, variables))
            else:
                check(line, promised, curl.run(line, running.port, tmp_path, variables))


def change(running: Service, folder: Path, user: str) -> None:
    """Create another GUID."""
    assert curl.run(f'curl -X PUT -d \'{{"user": "{user}"}}\' {AT}/guid', running.port, folder).status == 201


def check(line: str, promised: str, printed: curl.Printed) -> None:
    """Check an answer against what the page promises."""
    head, _, text = promised.partition("\n\n")
    status, *headers = head.splitlines()
    assert str(printed.status) == status, (line, printed.text)
    for name, value in (header.split(": ", 1) for header in headers):
        assert re.fullmatch(curl.pattern(value), printed.headers[name] or ""), (line, name)
    assert re.fullmatch(curl.pattern(text), printed.text.rstrip("\n"), re.DOTALL), (line, printed.text)


async def follow(line: str, promised: str, port: int, variables: dict[str, str]) -> None:
    """Read as much of a stream as the page shows."""
    url = re.sub(r"\$(\w+)", lambda found: variables[found[1]], line.split('"')[1])
    kind = line.partition("Accept: ")[2].partition("'")[0]
    async with reading(port, url.removeprefix(f"{AT}/events"), {"Accept": kind}) as stream:
        head, _, text = promised.partition("\n\n")
        parts = text.split("\n\n") if kind == SSE["Accept"] else text.splitlines()
        assert str(stream.status) == head.splitlines()[0]
        for name, value in (header.split(": ", 1) for header in head.splitlines()[1:]):
            assert stream.headers[name] == value
        for part in parts:
            assert re.fullmatch(curl.pattern(part), await stream.text()), part


@contextmanager
def program(folder: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """Run the program in Python of the guide."""
    (text,) = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "# follow.py\n" in block]
    (folder / "follow.py").write_text(text)
    environment = os.environ | {"AT": f"http://127.0.0.1:{port}"}
    command = [sys.executable, str(folder / "follow.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_python_client_keeps_a_copy_over_a_restart(tmp_path: Path) -> None:
    """It continues where it was, and knows what is there at each event."""
    with service(tmp_path) as running:
        curl.run(f'curl -X PUT -d \'{{"user": "a"}}\' {AT}/guid/{GUID}', running.port, tmp_path)
        with program(tmp_path, running.port) as process:
            assert process.stdout is not None
            assert process.stdout.readline().split() == ["stock", GUID]
            other = "0" * 32
            curl.run(f'curl -X PUT -d \'{{"user": "b"}}\' {AT}/guid/{other}', running.port, tmp_path)
            assert process.stdout.readline().split() == ["guid.created", other, GUID]
            assert running.stop() == 0
            running.start()
            curl.run(f"curl -X DELETE {AT}/guid/{GUID}", running.port, tmp_path)
            assert process.stdout.readline().split() == ["guid.deleted", other]
