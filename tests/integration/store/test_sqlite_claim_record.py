"""A SQLite store whose files are replaced: no process joins those that have the replaced files open."""

import asyncio
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from guidsvc.errors import StartError, StoreReplaced
from guidsvc.store.sqlite import store as store_module
from guidsvc.store.sqlite.backup import back_up
from guidsvc.store.sqlite.recovery import claim_record
from guidsvc.store.sqlite.recovery.claim_record import erase_record, is_replaced, write_record
from guidsvc.store.sqlite.schema import claim, open_writer, share
from guidsvc.store.sqlite.store import SqliteStore, open_keys_of, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.factories import record

REFUSAL = r"was removed or replaced while processes use the store; stop all processes that use it, then start them"
REPLACED_MESSAGE = "store file removed or replaced"

Change = Callable[[Path], None]
Opening = Callable[[Path], "asyncio.Future[None]"]


def side_file(path: Path, suffix: str) -> Path:
    """Return the path of a file beside the database."""
    return path.with_name(path.name + suffix)


def replace_database(path: Path) -> None:
    """Replace the database by a backup, but not the files beside it."""
    back_up(path, path.with_name("backup.db"), overwrite=True)
    path.with_name("backup.db").replace(path)


def remove_log(path: Path) -> None:
    """Remove the log."""
    side_file(path, "-wal").unlink()


def remove_index(path: Path) -> None:
    """Remove the index of the log."""
    side_file(path, "-shm").unlink()


async def join(path: Path) -> None:
    """Open the store beside other processes."""
    async with open_sqlite(path, exclusive=False):
        pass


async def open_keys(path: Path) -> None:
    """Open the store as the command `keys` does."""
    async with open_keys_of(path):
        pass


async def make_backup(path: Path) -> None:
    """Copy the store."""
    back_up(path, path.with_name("copy.db"), overwrite=True)


async def write(store: SqliteStore, clock: FakeClock, number: int) -> None:
    """Write a record."""
    assert await store.records.swap(None, record(clock(), guid=f"{number:032X}"))


def count(path: Path) -> int:
    """Return the number of records that the next process finds."""
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(file.execute("SELECT count(*) FROM records").fetchone()[0])


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse replaced files without a wait."""
    monkeypatch.setattr(claim_record, "WAIT_SECONDS", 0)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("open_store", [join, open_keys, make_backup])
@pytest.mark.parametrize("change", [replace_database, remove_log, remove_index])
async def test_replaced_files_are_refused_while_processes_use_them(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs, change: Change, open_store: Opening
) -> None:
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=False) as first, open_sqlite(path, exclusive=False):
        await write(first, clock, 1)
        await open_store(path)
        change(path)
        with pytest.raises(StartError, match=REFUSAL):
            await open_store(path)
    await open_store(path)
    assert count(path) == 1


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("open_store", [open_keys, make_backup])
async def test_keys_beside_an_exclusive_store_are_refused(
    path: Path, expected_logs: ExpectedLogs, open_store: Opening
) -> None:
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=True):
        await open_store(path)
        remove_index(path)
        with pytest.raises(StartError, match=REFUSAL):
            await open_store(path)
    await open_store(path)


@pytest.mark.usefixtures("_impatient")
async def test_removed_database_is_refused_with_its_own_remedy(path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=False):
        path.rename(path.with_name("away"))
        with pytest.raises(StartError, match="was removed while processes use it; do not stop them"):
            await join(path)
        assert not path.exists(), "no empty store takes its place"


async def test_store_is_shared_after_its_first_process_ended(path: Path) -> None:
    async with open_sqlite(path, exclusive=False) as first:
        second = open_sqlite(path, exclusive=False)
        name = await (await second.__aenter__()).store_id()
        assert await first.store_id() == name
    async with open_sqlite(path, exclusive=False) as third:
        assert await third.store_id() == name
    await second.__aexit__(None, None, None)


async def test_record_of_ended_processes_refuses_nothing(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False) as store:
        await write(store, clock, 1)
    replace_database(path)
    await open_keys(path)
    await join(path)
    assert count(path) == 1


@pytest.mark.usefixtures("_impatient")
async def test_process_of_an_older_version_is_joined(path: Path) -> None:
    await join(path)
    with claimed(path) as lock:
        erase_record(lock)
        share(lock)
        await join(path)
        await open_keys(path)


async def test_start_waits_for_a_process_that_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last process removes its log before it gives up its claim."""
    await join(path)
    with claimed(path) as lock:
        write_record(lock, path.with_name("other.db"))
        share(lock)
        assert is_replaced(path)
        pauses: list[float] = []

        def end(seconds: float) -> None:
            pauses.append(seconds)
            lock.close()

        monkeypatch.setattr(claim_record, "time", SimpleNamespace(monotonic=time.monotonic, sleep=end))
        await join(path)
        assert len(pauses) == 1


async def test_start_is_repeated_if_the_last_process_ends_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has a claim beside the last one, and then finds that it is alone, with a log of its own."""
    await join(path)
    with claimed(path) as lock, closing(open_writer(path)) as last:
        write_record(lock, path)
        share(lock)

        def end_and_open(path: Path, *, create: bool) -> sqlite3.Connection:
            last.close()
            lock.close()
            return open_writer(path, create=create)

        monkeypatch.setattr(store_module, "open_writer", end_and_open)
        gen = last.execute("SELECT gen FROM fence").fetchone()[0]
        async with open_sqlite(path, exclusive=False) as store:
            assert (await store.fence.read()).fence.gen > gen, "it has voided the cache, as the first process does"
            await join(path)


def test_record_is_written_without_giving_up_the_claim(path: Path) -> None:
    with claimed(path) as lock:
        for other in ("a", "b"):
            write_record(lock, path.with_name(other))
            with pytest.raises(StartError, match="stop it"):
                claim(path, exclusive=True)
        erase_record(lock)
        with pytest.raises(StartError, match="stop it"):
            claim(path, exclusive=True)
        share(lock)
        second, alone = claim(path, exclusive=False)
        second.close()
        assert not alone


def test_claim_is_kept_if_the_disk_takes_no_record(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with claimed(path) as lock:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            assert not write_record(lock, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        with pytest.raises(StartError, match="stop it"):
            claim(path, exclusive=True)
        assert write_record(lock, path)
        share(lock)
        assert not is_replaced(path)


async def test_log_of_a_new_store_is_left_by_the_old_process(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """The lock file is replaced, too, so the new process cannot know of the old one. It uses the same log."""
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=False) as old:
        await write(old, clock, 1)
        replace_database(path)
        side_file(path, "-lock").unlink()
        with pytest.raises(StoreReplaced):
            old.files.check()
        await old.save_stray_log_in_thread()
        new = open_sqlite(path, exclusive=False)
        store = await new.__aenter__()
        await write(store, clock, 2)
    assert side_file(path, "-wal").stat().st_size > 0, "the old process has not truncated it"
    await new.__aexit__(None, None, None)
    assert count(path) == 2


@contextmanager
def claimed(path: Path) -> Iterator[sqlite3.Connection]:
    """Claim the store as its first process."""
    lock, alone = claim(path, exclusive=False)
    with closing(lock):
        assert alone
        yield lock
