"""Every example of docs/events.md works as documented. tests/browser runs its JavaScript."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL
from threading import Timer
from typing import Any

from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, Service, service, wait_until
from tests.support.event_reader import SSE, reading
from tests.support.scripted_server import Request, response, scripted_server

TEXT = (ROOT / "docs" / "events.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n```http\n(.*?)\n```|```sh\n(\w+=\$\(curl .*?\))\n```", TEXT, re.DOTALL)
AT = "http://127.0.0.1:8888"
GUID = "7D1F0C52A6E84B9B8C3E5A1B2D4F6E70"
OTHER = "0" * 32
SECONDS = 60
"""Time limit for the next line that a program prints."""
CURL = f"""#!{sys.executable}
import sys
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen
words, headers, url = iter(sys.argv[1:]), {{}}, ""
for word in words:
    if word == "-H":
        name, _, value = next(words).partition(": ")
        headers[name] = value
    elif word not in ("-s", "-N", "-f"):
        url = word
try:
    with urlopen(Request(url, headers=headers), timeout=60) as response:
        for line in response:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
except HTTPError as error:
    if "-f" in sys.argv:
        sys.exit(22)
    sys.stdout.buffer.write(error.read())
except (HTTPException, OSError):
    sys.exit(7)
"""
"""A replacement for curl with the options of the script, for machines without curl."""


def test_event_examples_respond_as_documented(tmp_path: Path) -> None:
    variables = {"AT": AT}
    assert len(EXAMPLES) == TEXT.count("```sh\n") - 2 == TEXT.count("```http") + 1 > 7
    with service(tmp_path) as running:
        for line, documented, assignment in EXAMPLES:
            if assignment:
                variables |= curl.run_assignment(assignment, running.port, tmp_path, variables)
                change(running, tmp_path, "a change after the stock was taken")
            elif " -N " in line:
                asyncio.run(follow(line, documented, running.port, variables))
            else:
                check(line, documented, curl.run(line, running.port, tmp_path, variables))


def change(running: Service, folder: Path, user: str) -> None:
    """Create another GUID."""
    assert curl.run(f'curl -X PUT -d \'{{"user": "{user}"}}\' {AT}/guid', running.port, folder).status == 201


def check(line: str, documented: str, printed: curl.Printed) -> None:
    """Compare a response with the one in the page."""
    head, _, text = documented.partition("\n\n")
    status, *headers = head.splitlines()
    assert str(printed.status) == status, (line, printed.text)
    for name, value in (header.split(": ", 1) for header in headers):
        assert re.fullmatch(curl.pattern(value), printed.headers[name] or ""), (line, name)
    assert re.fullmatch(curl.pattern(text), printed.text.rstrip("\n"), re.DOTALL), (line, printed.text)


async def follow(line: str, documented: str, port: int, variables: dict[str, str]) -> None:
    """Read the part of a stream that the page shows."""
    url = re.sub(r"\$(\w+)", lambda found: variables[found[1]], line.split('"')[1])
    kind = line.partition("Accept: ")[2].partition("'")[0]
    async with reading(port, url.removeprefix(f"{AT}/events"), {"Accept": kind}) as stream:
        head, _, text = documented.partition("\n\n")
        parts = text.split("\n\n") if kind == SSE["Accept"] else text.splitlines()
        assert str(stream.status) == head.splitlines()[0]
        for name, value in (header.split(": ", 1) for header in head.splitlines()[1:]):
            assert stream.headers[name] == value
        for part in parts:
            assert re.fullmatch(curl.pattern(part), await stream.text()), part


@contextmanager
def program(folder: Path, port: int, name: str = "follow.py") -> Iterator["subprocess.Popen[str]"]:
    """Run a program of the guide. That in Python saves its copy after each event."""
    (text,) = [block for block in re.findall(r"```\w+\n(.*?)```", TEXT, re.DOTALL) if f"# {name}\n" in block]
    (folder / name).write_text(text)
    (folder / "curl").write_text(CURL)
    (folder / "curl").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    environment = os.environ | {"AT": f"http://127.0.0.1:{port}", "SAVE_SECONDS": "0", "PATH": path}
    command = ["sh" if name.endswith(".sh") else sys.executable, str(folder / name)]
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, SIGKILL)


def next_words(process: "subprocess.Popen[str]") -> list[str]:
    """Return the words of the next line that a program prints: the event, and the GUIDs of its copy."""
    assert process.stdout is not None
    limit = Timer(SECONDS, process.kill)
    limit.start()
    line = process.stdout.readline()
    limit.cancel()
    return line.split()


def next_event(process: "subprocess.Popen[str]", folder: Path) -> tuple[str, str]:
    """Return the type and the GUID of the next event that the program in shell prints, once it has saved the cursor."""
    event = json.loads(" ".join(next_words(process)))
    wait_until(lambda: (folder / "cursor").read_text().strip() == event["cursor"], "the cursor")
    return event["type"], event["guid"]


def put(running: Service, folder: Path, guid: str, body: str = '{"user": "a"}') -> None:
    """Create or change a GUID."""
    assert curl.run(f"curl -X PUT -d '{body}' {AT}/guid/{guid}", running.port, folder).status in (200, 201)


def saved_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records in the file of the program."""
    _, records = json.loads((folder / "copy.json").read_text())
    return records  # type: ignore[no-any-return]


def test_python_client_keeps_its_copy_across_a_restart(tmp_path: Path) -> None:
    """It continues at its cursor, and its copy is correct after each event."""
    with service(tmp_path) as running:
        put(running, tmp_path, GUID)
        with program(tmp_path, running.port) as process:
            assert next_words(process) == ["stock", GUID]
            put(running, tmp_path, OTHER)
            assert next_words(process) == ["guid.created", OTHER, GUID]
            assert running.stop() == 0
            running.start()
            curl.run(f"curl -X DELETE {AT}/guid/{GUID}", running.port, tmp_path)
            assert next_words(process) == ["guid.deleted", OTHER]


def test_python_client_resumes_from_its_file(tmp_path: Path) -> None:
    """It gets the changes since its end from the feed, without reading the whole list again."""
    with service(tmp_path) as running:
        put(running, tmp_path, GUID)
        with program(tmp_path, running.port) as process:
            assert next_words(process) == ["stock", GUID]
        put(running, tmp_path, OTHER)
        with program(tmp_path, running.port) as process:
            assert next_words(process) == ["resume", GUID]
            assert next_words(process) == ["guid.created", OTHER, GUID]


def test_shell_client_continues_at_its_cursor(tmp_path: Path) -> None:
    """It does so after a restart of its own, and of the service."""
    with service(tmp_path) as running:
        with program(tmp_path, running.port, "follow.sh") as process:
            wait_until((tmp_path / "cursor").exists, "the stock")
            put(running, tmp_path, GUID)
            assert next_event(process, tmp_path) == ("guid.created", GUID)
            assert running.stop() == 0
            running.start()
            put(running, tmp_path, OTHER)
            assert next_event(process, tmp_path) == ("guid.created", OTHER)
        curl.run(f"curl -X DELETE {AT}/guid/{GUID}", running.port, tmp_path)
        with program(tmp_path, running.port, "follow.sh") as process:
            assert next_event(process, tmp_path) == ("guid.deleted", GUID)


def test_shell_client_takes_stock_again_if_events_are_gone(tmp_path: Path) -> None:
    (tmp_path / "cursor").write_text("AgAAAAAAAAAAAAAAAAAA")
    with service(tmp_path) as running:
        put(running, tmp_path, GUID)
        with program(tmp_path, running.port, "follow.sh") as process:
            wait_until((tmp_path / "guids.ndjson").exists, "the stock")
            put(running, tmp_path, OTHER)
            assert next_event(process, tmp_path) == ("guid.created", OTHER)
    assert GUID in (tmp_path / "guids.ndjson").read_text()


def test_python_client_starts_before_the_service(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        put(running, tmp_path, GUID)
        assert running.stop() == 0
        with program(tmp_path, running.port) as process:
            running.start()
            assert next_words(process) == ["stock", GUID]


def test_python_client_removes_purged_guids(tmp_path: Path) -> None:
    """The purge event has the same version as the record in the copy."""
    with service(tmp_path, "--retention", "1") as running:
        put(running, tmp_path, OTHER)
        put(running, tmp_path, GUID)
        with program(tmp_path, running.port) as process:
            assert next_words(process) == ["stock", OTHER, GUID]
            put(running, tmp_path, GUID, '{"expire": 0}')
            assert next_words(process) == ["guid.updated", OTHER, GUID]
            assert next_words(process) == ["guid.expired", OTHER, GUID]
            assert next_words(process) == ["guid.purged", OTHER]


def test_python_copy_has_the_same_members_after_an_event(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        put(running, tmp_path, GUID)
        with program(tmp_path, running.port) as process:
            next_words(process)
            before = saved_records(tmp_path)[GUID]
            put(running, tmp_path, GUID, '{"user": "b"}')
            assert next_words(process) == ["guid.updated", GUID]
            deadline = time.monotonic() + SECONDS
            while (after := saved_records(tmp_path)[GUID]) == before:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert after == before | {"user": "b", "version": after["version"]}
    assert before.keys() == {"guid", "expire", "user", "version"}


async def test_python_client_waits_as_long_as_retry_after_says(tmp_path: Path) -> None:
    """It does so while it reads the list too, and waits longer than after a broken connection."""
    times: list[float] = []
    again = asyncio.Event()

    def answer(_request: Request) -> bytes:
        times.append(time.monotonic())
        if len(times) > 1:
            again.set()
        return response(429, b"{}", Retry_After="3")

    async with scripted_server(answer) as server:
        with program(tmp_path, server.port):
            await asyncio.wait_for(again.wait(), SECONDS)
    assert times[1] - times[0] >= 3
