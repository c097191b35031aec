"""Commands whose standard output is full, closed, or has no reader any more."""

import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from guidsvc_client import Client, NotFound
from tests.support.backing_servers import Service
from tests.support.forked_shell import run_shell

FULL = "standard output cannot be written: No space left on device"
CLOSED = "standard output cannot be written: it is closed"


def shell(line: str, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line in which `guidsvc` is the program."""
    return run_shell(line, folder, {"GUIDSVC_URL": url, "XDG_STATE_HOME": str(folder)})


@pytest.mark.parametrize("words", ["ls", "ls -o json", "ls -o table", "whoami", "status", "export -", "ls --curl"])
@pytest.mark.parametrize(("redirection", "line"), [(">/dev/full", FULL), (">&-", CLOSED)])
def test_output_that_cannot_be_written_is_reported(
    running: Service, tmp_path: Path, words: str, redirection: str, line: str
) -> None:
    with Client(running.url) as client:
        client.create(user="a")
    done = shell(f"guidsvc {words} {redirection}", running.url, tmp_path)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"pdapt.py: {line}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_change_that_cannot_be_printed_is_not_made(running: Service, tmp_path: Path, redirection: str) -> None:
    guid = uuid4().hex.upper()
    done = shell(f"guidsvc put {guid} --user a {redirection}", running.url, tmp_path)

    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    with Client(running.url) as client, pytest.raises(NotFound):
        client.get(guid)
    made = shell(f"guidsvc put {guid} --user a >&2 && guidsvc rm {guid} >&-", running.url, tmp_path)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("words", ["export -", "ls", "ls -o json", "ls -o table", "watch --since oldest"])
def test_reader_that_leaves_ends_the_command_quietly(running: Service, tmp_path: Path, words: str) -> None:
    with Client(running.url) as client:
        list(client.put_many({"user": "a", "metadata": {"text": "x" * 500}} for _ in range(600)))
    done = shell(f"guidsvc {words} | head -n 1 >&2; exit ${{PIPESTATUS[0]}}", running.url, tmp_path)

    assert done.returncode == 141
    assert len(done.stderr.splitlines()) == 1


def test_progress_is_not_shown_without_a_terminal(running: Service, tmp_path: Path) -> None:
    done = shell("guidsvc export all && guidsvc import all --quiet && guidsvc check --seconds 1", running.url, tmp_path)

    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
