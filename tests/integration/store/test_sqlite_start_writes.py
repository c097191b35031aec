"""The writes of a start on a disk that takes none: they are postponed, and nothing depends on them meanwhile."""

import resource
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from guidsvc.errors import StartError, StoreUnavailable
from guidsvc.store.cache_fence import Fence, Mode
from guidsvc.store.sqlite import schema
from guidsvc.store.sqlite.schema import claim, share
from guidsvc.store.sqlite.store import open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.factories import GUID, record
from tests.support.sqlite_damage import overwrite_root

OLD = "0" * 32


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let no file of this process grow beyond the log of a store, which has no room left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(f"{path.name}-wal").stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def back_up(path: Path, copy: Path) -> None:
    """Copy a store with SQLite's own backup."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


@pytest.fixture
async def used(path: Path, clock: FakeClock, expected_logs: ExpectedLogs) -> AsyncIterator[sqlite3.Connection]:
    """A store whose log is in use and longer than any other of its files, with a record under OLD."""
    expected_logs.add("store cannot be written")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:  # outlives the store, so that its log stays
        async with open_sqlite(path, exclusive=False) as store:
            for number in range(20):
                await store.records.swap(None, record(clock(), guid=f"{number:032X}"))
            other.execute("UPDATE fence SET mode = 'on', gen = 5, boot = 'old'")
        yield other


def test_claim_writes_nothing(path: Path) -> None:
    lock, alone = claim(path, exclusive=False)
    with closing(lock):
        assert alone
        share(lock)
        second, alone = claim(path, exclusive=False)
        with closing(second):
            assert not alone
    assert path.with_name(f"{path.name}-lock").read_bytes() == b""


async def test_fence_is_void_until_the_start_has_written(
    path: Path, used: sqlite3.Connection, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SHARE_SECONDS", 0.6)
    with full_disk(path):
        opened = open_sqlite(path, exclusive=False)
        store = await opened.__aenter__()
        assert await store.records.get(OLD) is not None
        assert (await store.fence.read()).fence == Fence(Mode.OFF, 6, "")
        with pytest.raises(StartError, match="without sharing it"):
            claim(path, exclusive=False)
        with pytest.raises(StoreUnavailable):
            await store.records.swap(None, record(clock()))
        assert used.execute("SELECT mode, gen FROM fence").fetchone() == ("on", 5)

    assert await store.records.swap(None, record(clock()))
    mode, gen, epoch = used.execute("SELECT mode, gen, boot FROM fence").fetchone()
    assert (mode, epoch) == ("off", "")
    assert gen > 5
    assert (await store.fence.read()).fence == Fence(Mode.OFF, gen, "")
    claim(path, exclusive=False)[0].close()
    await opened.__aexit__(None, None, None)


async def test_starts_from_one_backup_have_different_generations(path: Path, tmp_path: Path) -> None:
    """Redis may still have an epoch of a start before the restore. The same generation would make it valid again."""
    async with open_sqlite(path, exclusive=False) as store:
        before = (await store.fence.read()).fence.gen
    backup = tmp_path / "backup.db"
    back_up(path, backup)
    gens = []
    for number in range(8):
        restored = tmp_path / f"restored-{number}.db"
        shutil.copy(backup, restored)
        async with open_sqlite(restored, exclusive=False) as store:
            gens.append((await store.fence.read()).fence.gen)
    assert len({*gens}) == len(gens)
    assert before < min(gens) <= max(gens) < 2**40


async def test_copies_of_a_store_have_different_names(path: Path, tmp_path: Path) -> None:
    """A name is that of the key space in Redis. All processes that share a file have the same."""
    copy = tmp_path / "copy.db"
    async with open_sqlite(path, exclusive=False) as store, open_sqlite(path, exclusive=False) as second:
        name = await store.store_id()
        assert await second.store_id() == name
        back_up(path, copy)
        async with open_sqlite(copy, exclusive=False) as copied:
            assert await copied.store_id() != name
        assert await store.store_id() == name


async def test_name_stays_if_the_start_could_not_write_it(
    path: Path, used: sqlite3.Connection, clock: FakeClock
) -> None:
    """The cache uses it from the start, and so must processes that start later."""
    with full_disk(path):
        opened = open_sqlite(path, exclusive=False)
        store = await opened.__aenter__()
        name = await store.store_id()
    assert await store.records.swap(None, record(clock()))
    assert await store.store_id() == name
    await opened.__aexit__(None, None, None)


async def test_store_gets_its_new_name_with_the_first_write(
    path: Path, used: sqlite3.Connection, clock: FakeClock
) -> None:
    with full_disk(path):
        opened = open_sqlite(path, exclusive=True)
        store = await opened.__aenter__()
        name = await store.store_id()
        with pytest.raises(StoreUnavailable):
            await store.records.swap(None, record(clock()))
        assert await store.store_id() == name

    assert await store.records.swap(None, record(clock()))
    renamed = await store.store_id()
    assert renamed != name
    assert await store.records.swap(None, record(clock(), guid="F" * 32))
    assert await store.store_id() == renamed, "only once"
    assert await store.records.get(GUID) is not None
    await opened.__aexit__(None, None, None)


@pytest.mark.parametrize("table", ["receipts", "receipts_purge_at", "keys", "ledgers", "records_user", "log_owner"])
async def test_damaged_table_does_not_prevent_the_start(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs, table: str
) -> None:
    expected_logs.add("receipts cannot be read")
    async with open_sqlite(path, exclusive=True) as store:
        await store.records.swap(None, record(clock()))
    overwrite_root(path, table)

    async with open_sqlite(path, exclusive=True) as store:
        await store.ping()
        assert await store.records.get(GUID) == record(clock())


@pytest.mark.parametrize("table", ["identity", "fence", "log_bounds"])
async def test_damaged_single_row_prevents_the_start(path: Path, table: str) -> None:
    async with open_sqlite(path, exclusive=True):
        pass
    overwrite_root(path, table)

    with pytest.raises(StartError, match=r"is damaged; see docs/failure-modes.md"):
        async with open_sqlite(path, exclusive=True):
            pass
