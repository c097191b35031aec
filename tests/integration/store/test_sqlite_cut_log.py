"""A write-ahead log with a damaged frame, behind which SQLite drops transactions."""

import errno
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from guidsvc.store.sqlite.backup import back_up
from guidsvc.store.sqlite.recovery import cut_log
from guidsvc.store.sqlite.recovery.cut_log import MAX_COPIES, save_cut_log
from guidsvc.store.sqlite.recovery.log_frames import LogIndex, dropped_commits
from guidsvc.store.sqlite.store import open_keys_of, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.factories import record
from tests.support.killed_program import run_until_killed

WRITES = 20
FRAME_BYTES = 24 + 4096


def guid(number: int) -> str:
    return f"{number:032X}"


@pytest.fixture
async def killed(path: Path, tmp_path: Path, clock: FakeClock) -> Path:
    """The log and the file of a store with WRITES records, as a process that is killed leaves them."""
    left = tmp_path / "left"
    left.mkdir()
    async with open_sqlite(path, exclusive=True) as store:
        for number in range(WRITES):
            await store.records.swap(None, record(clock(), guid=guid(number)))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", left / f"{path.name}{suffix}")
    return left / path.name


def wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


async def lost_records(path: Path) -> int:
    """Return how many records the store lacks."""
    async with open_sqlite(path, exclusive=True) as store:
        return [await store.records.get(guid(number)) for number in range(WRITES)].count(None)


def copies(path: Path) -> list[Path]:
    return list(path.parent.glob("*.damaged-*"))


async def test_whole_log_is_not_copied(killed: Path) -> None:
    assert save_cut_log(killed) is None
    assert copies(killed) == []
    assert await lost_records(killed) == 0


async def test_log_with_a_damaged_frame_is_copied(
    killed: Path, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("write-ahead log damaged")
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)
    before = wal.read_bytes()
    lost = await lost_records(killed)

    (copy,) = copies(killed)
    assert copy.read_bytes() == before
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert lost > 3
    (line,) = [line for line in caplog.messages if "write-ahead log damaged, writes are lost" in line]
    assert re.search(rf"transactions\W+{lost}\b", line), line
    assert await lost_records(killed) == lost
    assert len(copies(killed)) == 1, "the next start finds nothing"


async def test_damaged_log_is_reported_by_one_of_several_processes(
    killed: Path, clock: FakeClock, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one goes on in the log, behind which the dropped transactions are left."""
    expected_logs.add("write-ahead log damaged")
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)
    async with open_sqlite(killed, exclusive=False) as first:
        await first.records.swap(None, record(clock(), guid="E" * 32))
        async with open_sqlite(killed, exclusive=False) as second:
            await second.records.swap(None, record(clock(), guid="F" * 32))
            assert await first.records.get("F" * 32) is not None
    assert len([line for line in caplog.messages if "write-ahead log damaged" in line]) == 1
    assert len(copies(killed)) == 1


async def test_damaged_log_with_a_reader_is_reported_once(
    killed: Path, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader prevents that the log begins anew."""
    expected_logs.add("write-ahead log damaged")
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)
    with closing(sqlite3.connect(killed)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        for _ in range(2):
            async with open_sqlite(killed, exclusive=False):
                pass
    assert len([line for line in caplog.messages if "write-ahead log damaged" in line]) == 1
    assert len(copies(killed)) == 1


@pytest.mark.parametrize("is_damaged", [False, True])
def test_copy_that_a_killed_process_left_is_removed(killed: Path, *, is_damaged: bool) -> None:
    wal = wal_of(killed)
    unfinished = wal.with_name(f"{wal.name}.damaged-{wal.read_bytes()[16:24].hex()}.12345")
    unfinished.write_bytes(b"half")
    if is_damaged:
        flip(wal, wal.stat().st_size // 2)
    cut = save_cut_log(killed)
    assert [str(copy) for copy in copies(killed)] == ([] if cut is None else [cut.copy])
    assert (cut is not None) == is_damaged


def test_newest_copies_of_damaged_logs_stay(killed: Path) -> None:
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)
    earlier = [wal.with_name(f"{wal.name}.damaged-{number:016x}") for number in range(MAX_COPIES)]
    for age, copy in enumerate(earlier, start=1):
        copy.write_bytes(b"log")
        os.utime(copy, ns=(0, age))
    cut = save_cut_log(killed)
    assert cut is not None
    assert sorted(map(str, copies(killed))) == sorted([*map(str, earlier[1:]), cut.copy])


def test_size_of_a_copied_log_is_limited(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)
    monkeypatch.setattr(cut_log, "MAX_COPY_BYTES", wal.stat().st_size - 1)
    cut = save_cut_log(killed)
    assert cut is not None
    assert cut.copy == "none: the log has 0 MiB, more than 0 MiB"
    assert copies(killed) == []


def test_unfinished_copy_of_the_log_is_removed(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would pass for a copy that was reported."""
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)

    def fail(_: object, target: Any) -> None:
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full_disk:
        full_disk.setattr(shutil, "copyfileobj", fail)
        cut = save_cut_log(killed)
    assert cut is not None
    assert cut.copy.startswith("none: ")
    assert copies(killed) == []


KILLED_COPY = """
import shutil, sys
from pathlib import Path
from guidsvc.store.sqlite.recovery.cut_log import save_cut_log
shutil.copyfileobj = kill
save_cut_log(Path(sys.argv[1]))
"""


def test_copy_of_a_killed_process_hides_no_loss(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)
    run_until_killed(KILLED_COPY, str(killed))
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in a container, in which each start has the same process id
    cut = save_cut_log(killed)

    assert cut is not None
    assert [str(path) for path in copies(killed)] == [cut.copy]


@pytest.mark.parametrize("offset", [0, 24], ids=["magic number", "checksum"])
def test_damaged_header_of_the_log_is_noticed(killed: Path, offset: int) -> None:
    flip(wal_of(killed), offset)
    cut = save_cut_log(killed)

    assert cut is not None
    assert cut.transactions >= WRITES


async def test_torn_end_of_the_log_is_no_loss(killed: Path) -> None:
    """A process that dies in the middle of a commit leaves that. The commit was not acknowledged."""
    wal = wal_of(killed)
    wal.write_bytes(wal.read_bytes()[: -FRAME_BYTES // 2])

    assert save_cut_log(killed) is None


async def test_log_in_use_is_not_copied(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=True) as store:
        for number in range(WRITES):
            await store.records.swap(None, record(clock(), guid=guid(number)))
            assert save_cut_log(path) is None


@contextmanager
def writer(path: Path) -> Iterator[None]:
    """Hold a store open in another process, in the middle of a transaction."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('begun', flush=True)\n"
        "sys.stdin.read()\n"
        "connection.execute('ROLLBACK')\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        yield  # the end of its input ends it


def can_write(path: Path) -> bool:
    """Return whether another process could write the store now."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
        "try:\n"
        "    connection.execute('BEGIN IMMEDIATE')\n"
        "except sqlite3.OperationalError as error:\n"
        "    sys.exit(error.sqlite_errorname)\n"
    )
    found = subprocess.run([sys.executable, "-c", program, str(path)], check=False, capture_output=True, text=True)
    assert found.returncode == 0 or found.stderr.strip() == "SQLITE_BUSY", found.stderr
    return found.returncode == 0


@pytest.fixture
def commit(killed: Path) -> bytes:
    """The frames of the last commit of the killed process, which are taken out of its log."""
    content = wal_of(killed).read_bytes()
    ends = [
        start + FRAME_BYTES
        for start in range(32, len(content), FRAME_BYTES)
        if any(content[start + 4 : start + 8])  # the size of the database after a commit
    ]
    assert ends[-1] - ends[-2] > FRAME_BYTES, "more than one frame"
    wal_of(killed).write_bytes(content[: ends[-2]])
    return content[ends[-2] : ends[-1]]


async def test_commit_under_way_is_no_loss(
    killed: Path, commit: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames are in the log, until it is synced, before they count."""
    monkeypatch.setattr(cut_log, "BUSY_SECONDS", 0.05)
    wal = wal_of(killed)
    before = wal.read_bytes()
    last = len(commit) - FRAME_BYTES
    steps = {
        "its first frame": commit[:FRAME_BYTES],
        "a part of its last frame": commit[: last + FRAME_BYTES // 2],
        "the last frame, over an old one, without its page": commit[: last + 24] + bytes(FRAME_BYTES - 24),
        "a last frame that is seen before the first one": bytes(last) + commit[last:],
        "all frames": commit,
    }
    with writer(killed):
        for step, content in steps.items():
            wal.write_bytes(before + content)
            assert save_cut_log(killed) is None, step
            assert back_up(killed, tmp_path / "copy.db", overwrite=True).losses == (), step
            assert copies(killed) == [], step
            assert wal.read_bytes() == before + content, step


def test_whole_commit_is_no_loss_without_its_writer(killed: Path, commit: bytes) -> None:
    """If its sync was rejected, it does not count, but SQLite drops nothing."""
    wal = wal_of(killed)
    with closing(sqlite3.connect(killed)) as reader:
        reader.execute("SELECT count(*) FROM records").fetchone()
        content = wal.read_bytes() + commit
        wal.write_bytes(content)
        assert save_cut_log(killed) is None
        assert wal.read_bytes() == content


def test_log_is_judged_once_its_writer_is_done(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that another process ends meanwhile is no loss, whatever it looked like before."""
    wal = wal_of(killed)
    whole = wal.read_bytes()
    found = []

    def look(log: BinaryIO, index: LogIndex) -> int:
        found.append((dropped_commits(log, index), can_write(killed)))
        wal.write_bytes(whole)
        return found[-1][0]

    monkeypatch.setattr(cut_log, "dropped_commits", look)
    flip(wal, wal.stat().st_size - FRAME_BYTES // 2)
    assert save_cut_log(killed) is None
    assert found == [(1, True), (0, False)]
    assert copies(killed) == []


def test_log_is_copied_under_the_lock_of_writers(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also SQLite's own locks are held then, which a process loses when it closes the file of the index."""
    flip(wal_of(killed), wal_of(killed).stat().st_size // 2)
    found = []
    copy = shutil.copyfileobj

    def look(source: Any, target: Any) -> None:
        found.append(can_write(killed))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfileobj", look)
    assert save_cut_log(killed) is not None
    assert found == [False]
    assert can_write(killed)


def test_damage_beside_a_process_that_reads_is_reported(killed: Path, tmp_path: Path) -> None:
    wal = wal_of(killed)
    flip(wal, wal.stat().st_size // 2)
    with closing(sqlite3.connect(killed)) as reader:
        reader.execute("SELECT count(*) FROM records").fetchone()
        (loss,) = back_up(killed, tmp_path / "copy.db", overwrite=False).losses
    assert "the write-ahead log is damaged" in loss
    assert len(copies(killed)) == 1


async def test_frames_from_before_the_log_began_anew_are_no_loss(path: Path, tmp_path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=True) as store:
        for number in range(WRITES):
            await store.records.swap(None, record(clock(), guid=guid(number)))
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        before = wal_of(path).read_bytes()
        await store.records.swap(None, record(clock(), guid="F" * 32))
        assert wal_of(path).read_bytes()[-FRAME_BYTES:] == before[-FRAME_BYTES:]
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"left.db{suffix}")

    assert save_cut_log(tmp_path / "left.db") is None


@pytest.mark.parametrize("is_backup", [True, False], ids=["backup", "keys"])
async def test_commands_copy_the_log_too(
    killed: Path, tmp_path: Path, expected_logs: ExpectedLogs, *, is_backup: bool
) -> None:
    expected_logs.add("write-ahead log damaged")
    flip(wal_of(killed), wal_of(killed).stat().st_size // 2)
    if is_backup:
        (loss,) = back_up(killed, tmp_path / "copy.db", overwrite=False).losses
        assert "the write-ahead log is damaged" in loss
        assert str(copies(killed)[0]) in loss
    else:
        async with open_keys_of(killed):
            pass
    assert len(copies(killed)) == 1
