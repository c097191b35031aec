"""docs/leases.md says what the service does: every example in it is run."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, service

TEXT = (ROOT / "docs" / "leases.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n```http\n(.*?)\n```", TEXT, re.DOTALL)
SECONDS = 60
"""Time limit of what a process is to print."""
CURL = f"""#!{sys.executable}
import sys
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
words, options = sys.argv[1:], {{}}
while words:
    word = words.pop(0)
    if word in ("-m", "-o", "-w", "-X", "-H", "-d"):
        options[word] = words.pop(0)
    elif word not in ("-fsS", "-sS"):
        url = word
kind = options.get("-H", ": application/x-www-form-urlencoded").partition(": ")[2]
data = options["-d"].encode() if "-d" in options else None
status, text, code = "000", "", 0
try:
    with urlopen(Request(url, data, {{"Content-Type": kind}}, method=options["-X"]), timeout=30) as response:
        status, text = str(response.status), response.read().decode()
except HTTPError as error:
    status, code = str(error.code), 0 if "-w" in options else 22
except URLError:
    code = 7
if "-o" not in options:
    print(text, end="")
print(options.get("-w", "").replace("%{{http_code}}", status), end="")
sys.exit(code)
"""
"""What curl does with the options of the script, for machines that have no curl."""


def program(folder: Path, name: str) -> Path:
    """Write a program of the guide to a file."""
    (text,) = [block for block in re.findall(r"```(?:sh|python)\n(.*?)```", TEXT, re.DOTALL) if f"# {name}\n" in block]
    path = folder / name
    path.write_text(text)
    return path


def test_lease_examples_answer_as_documented(tmp_path: Path) -> None:
    variables = {"AT": "http://127.0.0.1:8888"}
    assert len(EXAMPLES) == TEXT.count("```http") == TEXT.count("```sh\ncurl ") > 6
    with service(tmp_path) as running:
        for line, promised in EXAMPLES:
            printed = curl.run(line, running.port, tmp_path, variables)
            head, _, text = promised.partition("\n\n")
            status, *headers = head.splitlines()
            assert str(printed.status) == status, (line, printed.text)
            for name, value in (header.split(": ", 1) for header in headers):
                assert re.fullmatch(curl.pattern(value), printed.headers[name] or ""), (line, name)
            assert re.fullmatch(curl.pattern(text), printed.text.rstrip("\n"), re.DOTALL), (line, printed.text)


@contextmanager
def worker(folder: Path, port: int, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the shell script of the guide with a command."""
    (folder / "curl").write_text(CURL)
    (folder / "curl").chmod(0o755)
    environment = os.environ | {
        "AT": f"http://127.0.0.1:{port}",
        "BEAT": "0.2",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(["sh", str(program(folder, "worker.sh")), *command], env=environment, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def live(port: int, folder: Path) -> list[str]:
    """Return the GUIDs that are live."""
    text = curl.run("curl http://127.0.0.1:8888/guid", port, folder).text
    return re.findall(r'"guid":"([0-9A-F]{32})"', text)


def until_live(port: int, folder: Path, count: int) -> list[str]:
    """Wait until so many GUIDs are live, and return them."""
    deadline = time.monotonic() + SECONDS
    while len(guids := live(port, folder)) != count:
        assert time.monotonic() < deadline, guids
        time.sleep(0.05)
    return guids


def test_shell_worker_returns_the_status_of_its_command(tmp_path: Path) -> None:
    with service(tmp_path) as running, worker(tmp_path, running.port, "sh", "-c", "sleep 1; exit 3") as process:
        assert process.wait(SECONDS) == 3
        assert live(running.port, tmp_path) == [], "it deleted its lease"


def test_shell_worker_stops_when_its_lease_is_lost(tmp_path: Path) -> None:
    with service(tmp_path) as running, worker(tmp_path, running.port, "sleep", str(SECONDS)) as process:
        (guid,) = until_live(running.port, tmp_path, 1)
        assert curl.run(f"curl -X DELETE http://127.0.0.1:8888/guid/{guid}", running.port, tmp_path).status == 204
        assert process.wait(SECONDS) == 75


@contextmanager
def candidate(folder: Path, port: int, name: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a candidate of the guide with a short lease."""
    environment = os.environ | {"AT": f"http://127.0.0.1:{port}", "TTL": "4"}
    command = [sys.executable, str(program(folder, "leader.py")), name]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def token(process: "subprocess.Popen[str]") -> int:
    """Wait until a candidate leads, and return its token."""
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("token "):
        assert line, "it has ended"
    return int(line.split()[1])


def test_candidate_takes_over_with_a_higher_fencing_token(tmp_path: Path) -> None:
    with service(tmp_path) as running, candidate(tmp_path, running.port, "first") as first:
        tokens = [token(first)]
        with candidate(tmp_path, running.port, "second") as second:
            tokens.append(token(first))
            first.kill()
            tokens += [token(second), token(second)]
        assert tokens == sorted(set(tokens))
