"""A write-ahead log with a damaged frame, behind which SQLite drops transactions."""

import errno
import os
import re
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from guidsvc.store.sqlite.backup import back_up
from guidsvc.store.sqlite.recovery.cut_log import save_cut_log
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


async def test_commit_under_way_is_no_loss(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last frame is in the log for a moment before it counts."""
    wal = wal_of(path)
    async with open_sqlite(path, exclusive=True) as store:
        await store.records.swap(None, record(clock()))
        content = wal.read_bytes()
        salts = content[16:24]
        unfinished = content + bytes(4) + b"\0\0\0\1" + salts + bytes(FRAME_BYTES - 16)
        wal.write_bytes(unfinished)
        monkeypatch.setattr(time, "sleep", lambda _: wal.write_bytes(content))
        assert save_cut_log(path) is None
        assert wal.read_bytes() == content


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
