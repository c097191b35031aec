"""docs/leases.md matches the service: every example in it is run."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer

import pytest

from guidsvc_client import Client
from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, service
from tests.support.scripted_server import Request, response, scripted_server

TEXT = (ROOT / "docs" / "leases.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n```http\n(.*?)\n```|```sh\n(\w+=\$\(curl .*?\))\n```", TEXT, re.DOTALL)
SECONDS = 60
"""Time limit for the output of a process."""
CURL = f"""#!{sys.executable}
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
words, options, headers = sys.argv[1:], {{}}, {{"Content-Type": "application/x-www-form-urlencoded"}}
while words:
    word = words.pop(0)
    if word == "-H":
        name, _, value = words.pop(0).partition(": ")
        headers[name] = value
    elif word in ("-m", "-o", "-w", "-X", "-D", "-d"):
        options[word] = words.pop(0)
    elif word not in ("-fsS", "-sS", "-s"):
        url = word
data = options["-d"].encode() if "-d" in options else None
status, text, code, head = "000", "", 0, ""
try:
    with urlopen(Request(url, data, headers, method=options.get("-X", "GET")), timeout=30) as response:
        status, text, head = str(response.status), response.read().decode(), str(response.headers)
except HTTPError as error:
    status, code, head = str(error.code), 22 if "-fsS" in sys.argv else 0, str(error.headers)
except URLError:
    code = 7
if "-D" in options and head:
    print(f"HTTP/1.1 {{status}} Reason\\r\\n{{head}}", end="")
if "-o" not in options:
    print(text, end="")
print(options.get("-w", "").replace("%{{http_code}}", status), end="")
sys.exit(code)
"""
"""A replacement for curl with the options of the scripts, for machines without curl."""


def program(folder: Path, name: str) -> Path:
    """Write a program of the guide to a file."""
    (text,) = [block for block in re.findall(r"```(?:sh|python)\n(.*?)```", TEXT, re.DOTALL) if f"# {name}\n" in block]
    path = folder / name
    path.write_text(text)
    return path


def test_lease_examples_answer_as_documented(tmp_path: Path) -> None:
    variables = {"AT": "http://127.0.0.1:8888"}
    assert len(EXAMPLES) - 1 == TEXT.count("```http") == TEXT.count("```sh\ncurl ") > 6
    with service(tmp_path) as server:
        for line, expected, assignment in EXAMPLES:
            if assignment:
                variables |= curl.run_assignment(assignment, server.port, tmp_path, variables)
                continue
            printed = curl.run(line, server.port, tmp_path, variables)
            head, _, text = expected.partition("\n\n")
            status, *headers = head.splitlines()
            assert str(printed.status) == status, (line, printed.text)
            for name, value in (header.split(": ", 1) for header in headers):
                assert re.fullmatch(curl.pattern(value), printed.headers[name] or ""), (line, name)
            assert re.fullmatch(curl.pattern(text), printed.text.rstrip("\n"), re.DOTALL), (line, printed.text)


@contextmanager
def running(folder: Path, port: int, name: str, *arguments: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program of the guide. It is killed at the end of the block."""
    (folder / "curl").write_text(CURL)
    (folder / "curl").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    environment = os.environ | {"AT": f"http://127.0.0.1:{port}", "PATH": path} | variables
    interpreter = "sh" if name.endswith(".sh") else sys.executable
    command = [interpreter, str(program(folder, name)), *arguments]
    with subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def live(port: int, folder: Path) -> list[str]:
    """Return the live GUIDs."""
    text = curl.run("curl http://127.0.0.1:8888/guid", port, folder).text
    return re.findall(r'"guid":"([0-9A-F]{32})"', text)


def until_live(port: int, folder: Path, count: int) -> list[str]:
    """Wait until `count` GUIDs are live; return them."""
    deadline = time.monotonic() + SECONDS
    while len(guids := live(port, folder)) != count:
        assert time.monotonic() < deadline, guids
        time.sleep(0.05)
    return guids


def line_of(process: "subprocess.Popen[str]", start: str) -> str:
    """Wait until a program prints a line with this start; return the rest of the line."""
    assert process.stdout is not None
    limit = Timer(SECONDS, process.kill)
    limit.start()
    while not (line := process.stdout.readline()).startswith(start):
        assert line, "it has ended"
    limit.cancel()
    return line.removeprefix(start).strip()


def delete(port: int, folder: Path, guid: str) -> None:
    """Delete a lease."""
    assert curl.run(f"curl -X DELETE http://127.0.0.1:8888/guid/{guid}", port, folder).status == 204


def test_shell_worker_returns_the_status_of_its_command(tmp_path: Path) -> None:
    with service(tmp_path) as server:
        command = ("sh", "-c", "sleep 1; exit 3")
        with running(tmp_path, server.port, "worker.sh", *command, BEAT="0.2") as process:
            assert process.wait(SECONDS) == 3
        assert live(server.port, tmp_path) == [], "it deleted its lease"


def test_shell_worker_stops_when_its_lease_is_lost(tmp_path: Path) -> None:
    with (
        service(tmp_path) as server,
        running(tmp_path, server.port, "worker.sh", "sleep", str(SECONDS), BEAT="0.2") as process,
    ):
        delete(server.port, tmp_path, *until_live(server.port, tmp_path, 1))
        assert process.wait(SECONDS) == 75


COMMANDS = {
    "a command with a child": "sleep 600 & echo pid $!; wait",
    "a command that ignores TERM": "trap '' TERM; sleep 600 & echo pid $!; wait; wait",
}


def until_gone(pid: int) -> None:
    """Wait until a process has ended. A zombie counts as ended."""
    deadline = time.monotonic() + SECONDS
    with suppress(FileNotFoundError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, pid
            time.sleep(0.05)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Let the scripts trap INT, even if the tests run in the background and ignore it."""
    previous_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous_handler)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_stopped_shell_worker_leaves_no_process_or_lease(tmp_path: Path, command: str, end: signal.Signals) -> None:
    """Ctrl+C sends INT to the group of the script. TERM goes to the script alone."""
    with service(tmp_path) as server:
        with running(tmp_path, server.port, "worker.sh", "sh", "-c", command, BEAT="0.2") as process:
            child = int(line_of(process, "pid "))
            (os.killpg if end == signal.SIGINT else os.kill)(process.pid, end)
            assert process.wait(SECONDS) == 128 + end
            until_gone(child)
        assert live(server.port, tmp_path) == []


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_shell_worker_without_lease_stops_all_processes(tmp_path: Path, command: str) -> None:
    with (
        service(tmp_path) as server,
        running(tmp_path, server.port, "worker.sh", "sh", "-c", command, BEAT="0.2") as process,
    ):
        child = int(line_of(process, "pid "))
        delete(server.port, tmp_path, *until_live(server.port, tmp_path, 1))
        assert process.wait(SECONDS) == 75
        until_gone(child)


def test_python_worker_holds_its_lease_until_it_is_done(tmp_path: Path) -> None:
    """For longer than the lease would live without renewals."""
    with service(tmp_path) as server:
        variables = {"TTL": "4", "TASK_SECONDS": "0.25"}
        with running(tmp_path, server.port, "worker.py", "20", **variables) as process:
            guids = until_live(server.port, tmp_path, 1)
            line_of(process, "task 18")
            assert live(server.port, tmp_path) == guids
            assert process.wait(SECONDS) == 0
        assert live(server.port, tmp_path) == [], "it deleted its lease"


def test_python_worker_stops_when_its_lease_is_lost(tmp_path: Path) -> None:
    with service(tmp_path) as server:
        variables = {"TTL": "4", "TASK_SECONDS": "0.1"}
        with running(tmp_path, server.port, "worker.py", "100000", **variables) as process:
            line_of(process, "task 1")
            delete(server.port, tmp_path, *until_live(server.port, tmp_path, 1))
            assert process.wait(SECONDS) == 1


def token(process: "subprocess.Popen[str]") -> int:
    """Wait until a candidate leads, and return its token."""
    return int(line_of(process, "token "))


@pytest.mark.parametrize("name", ["leader.py", "leader.sh"])
def test_candidate_takes_over_with_a_higher_fencing_token(tmp_path: Path, name: str) -> None:
    with service(tmp_path) as server, running(tmp_path, server.port, name, "first", TTL="4") as first:
        tokens = [token(first)]
        with running(tmp_path, server.port, name, "second", TTL="4") as second:
            tokens.append(token(first))
            first.kill()
            tokens += [token(second), token(second)]
        assert tokens == sorted(set(tokens))


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["leader.py", "leader.sh"])
def test_stopped_leader_revokes_its_lease(tmp_path: Path, name: str, end: signal.Signals) -> None:
    """The lease would last longer than the test: the successor need not wait for its expiry."""
    with service(tmp_path) as server:
        with running(tmp_path, server.port, name, "first", TTL="8") as first:
            first_token = token(first)
            os.killpg(first.pid, end)
            assert first.wait(SECONDS) == 128 + end
        assert live(server.port, tmp_path) == []
        with running(tmp_path, server.port, name, "second", TTL="8") as second:
            assert token(second) > first_token


@pytest.mark.parametrize("name", ["leader.py", "leader.sh"])
def test_leader_says_that_its_lease_is_lost(tmp_path: Path, name: str) -> None:
    with service(tmp_path) as server, running(tmp_path, server.port, name, "first", TTL="4") as first:
        token(first)
        delete(server.port, tmp_path, "1EADE400000000000000000000000001")
        line_of(first, "lost")
        token(first)


async def test_leader_counts_the_time_that_a_renewal_grants(tmp_path: Path) -> None:
    """Not the `ttl`: a limit of its life may end the lease sooner."""
    renewal = {"granted": "0", "capped": True}

    def answer(request: Request) -> bytes:
        is_claim = request.method == "PUT"
        return response(
            201 if is_claim else 200, json.dumps({} if is_claim else renewal).encode(), ETag=f'"{len(server.requests)}"'
        )

    async with scripted_server(answer) as server:
        with running(tmp_path, server.port, "leader.py", "first", TTL="2") as first:
            assert await asyncio.to_thread(token, first) == 1
            assert first.stdout is not None
            assert await asyncio.to_thread(first.stdout.readline) == "lost\n"


@pytest.mark.parametrize("name", ["leader.py", "leader.sh"])
def test_candidate_leaves_nothing_of_the_last_holder(tmp_path: Path, name: str) -> None:
    """A client that looks for its own holder must not find it in the lease of the candidate."""
    with service(tmp_path) as server, Client(server.url) as guids:
        guid = "1EADE400000000000000000000000001"
        guids.put(guid, user="last holder", expire=0, metadata={"holder": "of a client"})
        with running(tmp_path, server.port, name, "first", TTL="8") as first:
            token(first)
            record = guids.get(guid)
    assert (record.user, record.metadata) == ("first", {})
