"""Commands whose standard output cannot be written: one line, a failure, and no lost secret without a word."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backing_servers import ROOT, START_SECONDS, pdapt

CREATE = "keys create --owner a"
PRINTING = ["keys list", "keys list --json", "backup copy.db", "--help", "--version", "keys --help", "keys --version"]
PRINTING += ["config", "config --json", "doctor --port 1 --skip host", "completion bash", "help keys"]
CANNOT = "pdapt.py: standard output cannot be written: "
FULL, CLOSED = f"{CANNOT}No space left on device; ", f"{CANNOT}it is closed; "
READ_ONLY, NO_READER = f"{CANNOT}Bad file descriptor; ", f"{CANNOT}nothing reads it; "
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """`pdapt.py` with these words and redirections in a shell, in a folder with a store and one key."""
    assert pdapt(tmp_path, *CREATE.split(), "--new-store").returncode == 0

    def run(words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        command = ["/bin/sh", "-c", f"exec {sys.executable} {shlex.quote(str(ROOT / 'pdapt.py'))} {words}"]
        return subprocess.run(
            command,
            cwd=tmp_path,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    return run


def keys(folder: Path) -> str:
    """Return the keys that the store lists."""
    return pdapt(folder, "keys", "list", "--json").stdout


def key_id(folder: Path) -> str:
    """Return the id of the only key."""
    (found,) = re.findall(r'"id": "(\w+)"', keys(folder))
    return str(found)


@pytest.mark.parametrize("words", PRINTING)
@pytest.mark.parametrize(("redirection", "line"), [(">/dev/full", FULL), (">&-", CLOSED)])
def test_unwritable_output_is_reported_in_one_line(shell: Shell, words: str, redirection: str, line: str) -> None:
    done = shell(f"{words} {redirection}")

    assert (done.returncode, done.stdout) == (1, "")
    told = [each for each in done.stderr.splitlines() if not each.startswith("store: ")]
    assert len(told) == 1, done.stderr
    assert told[0].startswith(line)


@pytest.fixture
def pipe_without_reader() -> Iterator[int]:
    """The end to write to of a pipe that nothing reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("words", ["keys list", "--help"])
def test_output_that_nothing_reads_ends_quietly(shell: Shell, words: str, pipe_without_reader: int) -> None:
    done = shell(words, pipe_without_reader)

    assert done.returncode == 128 + signal.SIGPIPE
    assert [line for line in done.stderr.splitlines() if not line.startswith("store: ")] == []


@pytest.mark.parametrize(
    ("redirection", "line"), [(">/dev/full", FULL), (">&-", CLOSED), ("1</dev/null", READ_ONLY), ("", NO_READER)]
)
@pytest.mark.parametrize("words", [CREATE, "keys rotate {id}"])
def test_no_key_is_changed_that_could_not_be_shown(
    shell: Shell, tmp_path: Path, words: str, redirection: str, line: str, pipe_without_reader: int
) -> None:
    before = keys(tmp_path)
    done = shell(f"{words.format(id=key_id(tmp_path))} {redirection}", pipe_without_reader)

    assert done.returncode == 1
    assert done.stderr.startswith(f"{line}nothing was changed; ")
    assert done.stderr.count("\n") == 1
    assert keys(tmp_path) == before


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_key_is_printed_though_no_message_can_be(shell: Shell, redirection: str) -> None:
    done = shell(f"{CREATE} {redirection}")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"gs_\w+\n", done.stdout)
