"""The archive of the SQLite event log: damage, and query plans."""

from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsTrimmed
from guidsvc.store.sqlite.events import archive, reading
from guidsvc.store.sqlite.events.entries import ARCHIVED_NUMBERS, SELECT_ARCHIVED
from guidsvc.store.sqlite.schema import open_writer
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.event_shares import SIZE_BYTES, create_of, own_entries, trim_all
from tests.support.sqlite_damage import alter, overwrite_root

BOB = EventSelection(owner="bob")


async def fill_archive(store: SqliteStore, clock: FakeClock, count: int = 1) -> None:
    """Fill the log so that bob has `count` entries in the archive."""
    for _ in range(count):
        await create_of(store.records, store.events, clock, "bob", 1)
    await create_of(store.records, store.events, clock, "alice", 3 * SIZE_BYTES)
    await trim_all(store.events)
    assert len(await own_entries(store.events, "bob", 0)) == count


async def test_damaged_archive_stops_neither_trim_nor_writes(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("event log archive damaged, its events are lost")
    expected_logs.add("event log damaged, readers continue after the damage")
    async with open_sqlite(path, exclusive=False) as store:
        await fill_archive(store, clock)
    overwrite_root(path, "log_archive")

    async with open_sqlite(path, exclusive=False) as store:
        for _ in range(2):
            await create_of(store.records, store.events, clock, "alice", SIZE_BYTES)
            await trim_all(store.events)
            floor = (await store.events.bounds()).floor
            assert (await store.events.bounds("bob")).floor == floor
            with pytest.raises(EventsTrimmed):
                await store.events.read(floor - 1, 10, BOB)
            assert await own_entries(store.events, "alice", floor)


async def test_damaged_entry_of_the_archive_is_skipped(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("event log damaged, readers continue after the damage")
    await fill_archive(store, clock, 3)
    alter(path, "UPDATE log_archive SET metadata = CAST(x'ff41' AS TEXT) WHERE seq = 2")

    with pytest.raises(EventsTrimmed):
        await store.events.read(0, 10, BOB)
    floor = (await store.events.bounds("bob")).floor
    assert floor == (await store.events.bounds()).floor
    await create_of(store.records, store.events, clock, "bob", 1)
    assert len(await own_entries(store.events, "bob", floor)) == 1


async def test_damaged_owner_index_yields_no_cursor(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False) as store:
        await create_of(store.records, store.events, clock, "alice", 3 * SIZE_BYTES)
    overwrite_root(path, "log_owner")

    async with open_sqlite(path, exclusive=False) as store:
        assert await store.events.newest_of("alice", 10) is None


def test_archive_is_searched_by_owner_and_number(path: Path, clock: FakeClock) -> None:
    values = {"owner": "bob", "after": 0, "end": 9, "count": 2, "skip": 1, "prefix": "", "prefix_end": "", "user": None}
    by_owner = "SEARCH log_archive USING {}INDEX log_archive_owner (owner=? AND rowid>? AND rowid<?)"
    plans = {
        f"{SELECT_ARCHIVED} WHERE {reading._condition(BOB)} ORDER BY seq LIMIT 5": by_owner.format(""),
        ARCHIVED_NUMBERS: by_owner.format("COVERING "),
        archive._HAS_OWNER: "SCAN log USING COVERING INDEX log_owner",
    }
    with closing(open_writer(path)) as file:
        for statement, plan in plans.items():
            assert [row[3] for row in file.execute(f"EXPLAIN QUERY PLAN {statement}", values)] == [plan]
