"""Commands whose standard output cannot be written: one line, an error code, and no secret lost silently."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backing_servers import pdapt
from tests.support.forked_shell import run_shell

CREATE = "keys create --owner a"
PRINTING = ["keys list", "keys list --json", "backup copy.db", "--help", "--version", "keys --help", "keys --version"]
PRINTING += ["config", "config --json", "doctor --port 1 --skip host", "completion bash", "help keys"]
CANNOT = "pdapt.py: standard output cannot be written: "
FULL, CLOSED = f"{CANNOT}No space left on device; ", f"{CANNOT}it is closed; "
READ_ONLY, NO_READER = f"{CANNOT}Bad file descriptor; ", f"{CANNOT}nothing reads it; "
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run `pdapt.py` in a shell with arguments and redirections, in a folder with a store and one key."""
    assert pdapt(tmp_path, *CREATE.split(), "--new-store").returncode == 0

    def run(arguments: str, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
        return run_shell(f"guidsvc {arguments}", tmp_path, stdout=stdout)

    return run


def keys(folder: Path) -> str:
    """Return the output of `keys list`."""
    return pdapt(folder, "keys", "list", "--json").stdout


def key_id(folder: Path) -> str:
    """Return the id of the only key."""
    (match,) = re.findall(r'"id": "(\w+)"', keys(folder))
    return str(match)


@pytest.mark.parametrize(
    ("arguments", "redirection", "line"),
    [
        *((arguments, ">/dev/full", FULL) for arguments in PRINTING),
        *((arguments, ">&-", CLOSED) for arguments in ("keys list --json", "--help", "config")),
    ],
)
def test_unwritable_output_is_reported_in_one_line(shell: Shell, arguments: str, redirection: str, line: str) -> None:
    result = shell(f"{arguments} {redirection}")

    assert (result.returncode, result.stdout) == (1, "")
    messages = [message for message in result.stderr.splitlines() if not message.startswith("store: ")]
    assert len(messages) == 1, result.stderr
    assert messages[0].startswith(line)


@pytest.fixture
def pipe_without_reader() -> Iterator[int]:
    """The write end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("arguments", ["keys list", "--help"])
def test_output_that_nothing_reads_ends_quietly(shell: Shell, arguments: str, pipe_without_reader: int) -> None:
    result = shell(arguments, pipe_without_reader)

    assert result.returncode == 128 + signal.SIGPIPE
    assert [line for line in result.stderr.splitlines() if not line.startswith("store: ")] == []


@pytest.mark.parametrize(
    ("redirection", "line"), [(">/dev/full", FULL), (">&-", CLOSED), ("1</dev/null", READ_ONLY), ("", NO_READER)]
)
@pytest.mark.parametrize("arguments", [CREATE, "keys rotate {id}"])
def test_key_that_cannot_be_shown_is_not_changed(
    shell: Shell, tmp_path: Path, arguments: str, redirection: str, line: str, pipe_without_reader: int
) -> None:
    keys_before = keys(tmp_path)
    result = shell(f"{arguments.format(id=key_id(tmp_path))} {redirection}", pipe_without_reader)

    assert result.returncode == 1
    assert result.stderr.startswith(f"{line}nothing was changed; ")
    assert result.stderr.count("\n") == 1
    assert keys(tmp_path) == keys_before


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_key_is_printed_if_standard_error_is_unwritable(shell: Shell, redirection: str) -> None:
    result = shell(f"{CREATE} {redirection}")

    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"gs_\w+\n", result.stdout)
