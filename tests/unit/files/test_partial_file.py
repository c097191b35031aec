"""Partial files: removed at their end, and those of killed processes by the next one."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guidsvc.files.partial_file import partial_file
from tests.support.backing_servers import ROOT

WRITER = """
import sys
from pathlib import Path
from guidsvc.files.partial_file import partial_file
with partial_file(Path(sys.argv[1])) as path:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").write_text("half")
    print(path, flush=True)
    sys.stdin.read()
"""


@contextmanager
def writer(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has a partial file until its standard input ends; its name is the first line of the output."""
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def first_line(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().rstrip("\n"))


def test_files_of_a_killed_process_are_removed_by_the_next(tmp_path: Path) -> None:
    with writer(tmp_path / "yesterday.db") as process:
        left = first_line(process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 5

    with partial_file(tmp_path / "today.db"):
        assert not list(tmp_path.glob(f"{left.name}*"))


def test_files_of_a_running_process_stay(tmp_path: Path) -> None:
    with writer(tmp_path / "a") as process:
        path = first_line(process)
        names = set(tmp_path.iterdir())
        for _ in range(2):  # the first one leaves nothing that could be taken for unlocked
            with partial_file(tmp_path / "a") as other:
                other.write_text("whole")
                other.replace(tmp_path / "a")
        assert set(tmp_path.iterdir()) == {*names, tmp_path / "a"}
        assert path.read_text() == "half"
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_foreign_files_stay(tmp_path: Path) -> None:
    name = f".a.{'0' * 16}.part"
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f"{name}-owner").symlink_to("precious")
    os.mkfifo(tmp_path / f".b.{'0' * 16}.part-owner")
    (tmp_path / name).write_text("of a file system without locks, or of another program")
    (tmp_path / ".c.part-owner").touch()
    names = set(tmp_path.iterdir())
    with partial_file(tmp_path / "a"):
        pass

    assert set(tmp_path.iterdir()) == names
    assert (tmp_path / "precious").read_text() == "precious"


def test_file_removed_before_it_is_locked_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may find it unlocked in that moment."""
    lock, locked = fcntl.flock, list[int]()

    def late_lock(descriptor: int, kind: int) -> None:
        if not locked:
            (owner,) = tmp_path.glob(".a.*-owner")
            owner.unlink()
        locked.append(descriptor)
        lock(descriptor, kind)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late_lock)
        with partial_file(tmp_path / "a"):
            assert len(locked) == 2
            assert len(list(tmp_path.glob(".a.*-owner"))) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 255, "鍵" * 85, "\udcff"])
def test_every_name_of_a_target_is_possible(tmp_path: Path, name: str) -> None:
    with partial_file(tmp_path / name) as path:
        path.write_text("whole")
        path.replace(tmp_path / name)

    assert (tmp_path / name).read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), partial_file(tmp_path / "missing" / "a"):
        pass
