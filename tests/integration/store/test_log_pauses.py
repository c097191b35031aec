"""Searches pause while a write-ahead log above its limit is reset."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from guidsvc.domain.selection import Selection
from guidsvc.store.sqlite import engine
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import FakeClock
from tests.support.factories import record

LIMIT = 1024 * 1024
NUMBER = 8
TEST_SECONDS = 60.0
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
MANY = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 50000)
    INSERT INTO records (guid, user, owner, expire, version, created, updated, purge_at)
    SELECT printf('%032X', n), 'a', '', :expire, :version, :version, :version, :expire FROM numbers
"""


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BETWEEN_SECONDS", 0.0)


class LargeRecords:
    """Eight records of 16 KiB that are written repeatedly."""

    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        self._store = store
        metadata = f'{{"room":"{"x" * 16_000}"}}'
        self._records = [record(clock(), guid=f"F{number:031X}", metadata=metadata) for number in range(NUMBER)]
        self.bytes = 0

    async def create(self) -> None:
        assert all(await asyncio.gather(*(self._store.records.swap(None, large) for large in self._records)))

    async def write(self) -> None:
        new = [old.model_copy(update={"version": old.version + 1}) for old in self._records]
        assert all(await asyncio.gather(*map(self._store.records.swap, self._records, new)))
        self._records = new
        self.bytes += NUMBER * 16_000

    async def fill_log(self) -> None:
        while self._store.files.wal_bytes() <= LIMIT:
            await self.write()


@asynccontextmanager
async def open_large(path: Path, clock: FakeClock) -> AsyncIterator[tuple[SqliteStore, LargeRecords]]:
    async with asyncio.timeout(TEST_SECONDS), open_sqlite(path, exclusive=True, wal_bytes=LIMIT) as store:
        large = LargeRecords(store, clock)
        await large.create()
        yield store, large


@asynccontextmanager
async def outside_reader(path: Path) -> AsyncIterator[None]:
    with closing(sqlite3.connect(path)) as outside:
        outside.execute("BEGIN")
        outside.execute("SELECT count(*) FROM records").fetchone()
        yield


async def test_overlapping_searches_do_not_make_the_log_grow(path: Path, clock: FakeClock) -> None:
    async with open_large(path, clock) as (store, large):
        with closing(sqlite3.connect(path)) as outside, outside:
            outside.execute(MANY, {"expire": clock() // 1000 + 3600, "version": clock()})
        await store.shrink_wal(0)

        async def count() -> None:
            while True:
                assert await store.records.count(Selection(expire_from=1)) == 50_000 + NUMBER

        async with asyncio.TaskGroup() as readers:
            tasks = [readers.create_task(count()) for _ in range(6)]
            sizes = []
            while large.bytes < 32 * LIMIT:
                await large.write()
                sizes.append(store.files.wal_bytes())
            for task in tasks:
                task.cancel()
    assert max(sizes) < 16 * LIMIT


async def test_search_that_outlasts_the_grace_is_interrupted(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(engine, "_POLL_SECONDS", 0.0)  # the log fills up in less than the polling interval
    async with open_large(path, clock) as (store, large):
        statements = iter([f"SELECT (SELECT count(*) FROM records), ({ENDLESS})", "SELECT count(*) FROM records"])
        search = asyncio.create_task(
            store._engine.finder.run(lambda connection: connection.execute(next(statements)).fetchone()[0])
        )
        while store._engine.finder.is_idle:
            await asyncio.sleep(0)
        await large.fill_log()
        assert await store.records.count(Selection(expire_from=1)) == NUMBER
        assert await search == NUMBER
        assert store.files.wal_bytes() <= LIMIT


async def test_only_searches_wait_for_a_pause(path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RESET_SECONDS", TEST_SECONDS)
    async with open_large(path, clock) as (store, large):
        async with outside_reader(path):
            await large.fill_log()
            search = asyncio.create_task(store.records.count(Selection(expire_from=1)))
            for _ in range(20):
                await large.write()
                assert await store.records.get(f"F{0:031X}")
            assert not search.done()
        assert await search == NUMBER
        assert store.files.wal_bytes() <= LIMIT


async def test_outside_reader_delays_a_search_briefly_then_less_often(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BETWEEN_SECONDS", TEST_SECONDS)
    async with open_large(path, clock) as (store, large), outside_reader(path):
        await large.fill_log()
        for _ in range(
            int(2 * TEST_SECONDS / engine.RESET_SECONDS)
        ):  # more searches than the time allows if each paused
            assert await store.records.count(Selection(expire_from=1)) == NUMBER
        assert store.files.wal_bytes() > LIMIT
