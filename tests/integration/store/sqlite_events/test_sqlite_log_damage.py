"""Damaged entries in the SQLite event log, and entries with a wrong time: readers continue after them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guidsvc.domain.events import cursor as cursors
from guidsvc.domain.events.cursor import Cursor, draw_key
from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.errors import EventsGone, EventsTrimmed
from guidsvc.services.events.feed import EventFeed
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.events import ALL, create, new_records
from tests.support.factories import GUID, record
from tests.support.sqlite_damage import alter, overwrite_page_with

DAY = 86_400


@pytest.fixture
async def store(path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(path, clock=clock, exclusive=False) as opened:
        yield opened


@pytest.mark.parametrize(
    "damage_of_entries",
    ["metadata = CAST(x'ff41' AS TEXT)", "kind = 'weird'", "version = 'x'", "guid = CAST(x'ff' AS TEXT)"],
)
async def test_readers_continue_after_damaged_entries(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs, damage_of_entries: str
) -> None:
    """A page ends before them. The next read raises EventsTrimmed with a place after them."""
    expected_logs.add("event log damaged, readers continue after the damage")
    await create(store, new_records(clock, 20))
    alter(path, f"UPDATE log SET {damage_of_entries} WHERE seq BETWEEN 5 AND 11")

    page = await store.events.read(2, 10, ALL)
    assert ([number for number, *_ in page.entries], page.looked_to) == ([3, 4], 4)
    assert page.looked_to_checksum == await store.events.checksum(4)
    with pytest.raises(EventsTrimmed):
        await store.events.read(4, 10, ALL)
    bounds = await store.events.bounds()
    assert (bounds.floor, bounds.floor_checksum) == (11, await store.events.checksum(11))
    assert [number for number, *_ in (await store.events.read(bounds.floor, 50, ALL)).entries] == list(range(12, 21))
    while await store.events.trim(clock() + 1, 2**30, 10):
        pass
    assert (await store.events.bounds()).floor == 19


async def test_damaged_newest_entry_rejects_no_write(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("event log damaged, readers continue after the damage")
    await create(store, new_records(clock, 3))
    before, _ = await store.events.size()
    alter(path, "UPDATE log SET total = 'x', metadata = CAST(x'ff41' AS TEXT) WHERE seq = 3")
    with pytest.raises(EventsTrimmed):
        await store.events.read(2, 10, ALL)
    assert (await store.events.bounds()).floor == 3
    await create(store, [record(clock())])
    assert [entry.guid for _, entry, _ in (await store.events.read(3, 10, ALL)).entries] == [GUID]
    assert 0.9 * before < (await store.events.size())[0] < 2 * before
    assert await store.events.trim(clock() + 1, 2**30, 10) == 3


async def test_readers_continue_after_a_damaged_page(path: Path, clock: FakeClock, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("event log damaged, readers continue after the damage")
    records = new_records(clock, 60, metadata='{"a":"' + "x" * 900 + '"}')
    async with open_sqlite(path, clock=clock, exclusive=False) as store:
        for each in records:
            await create(store, [each])
    overwrite_page_with(path, b"created" + records[30].guid.encode())

    async with open_sqlite(path, clock=clock, exclusive=False) as store:
        before = [number for number, *_ in (await store.events.read(0, 100, ALL)).entries]
        with pytest.raises(EventsTrimmed):
            await store.events.read(before[-1], 100, ALL)
        floor = (await store.events.bounds()).floor
        after = [number for number, *_ in (await store.events.read(floor, 100, ALL)).entries]
        assert before == list(range(1, len(before) + 1))
        assert after == list(range(floor + 1, 61))
        assert 31 in range(before[-1] + 1, floor + 1)
        assert len(before) + len(after) > 50


async def test_clock_that_was_ahead_delays_no_trim(store: SqliteStore, clock: FakeClock) -> None:
    ahead = clock() + 365 * DAY * 1000
    await create(store, [record(ahead, guid=f"F{number:031X}") for number in range(5)])
    await create(store, new_records(clock, 3))
    assert await store.events.trim(clock() - 7 * DAY * 1000, 2**30, 10) == 0, "entries with a right time are young"
    clock.advance(seconds=8 * DAY)
    await create(store, [record(clock())])
    assert [await store.events.trim(clock() - 7 * DAY * 1000, 2**30, 3) for _ in range(4)] == [3, 3, 2, 0]


async def test_oldest_cursor_is_after_damaged_entries(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    """So a reader from the oldest entry succeeds at once."""
    await create(store, new_records(clock, 5))
    alter(path, "UPDATE log SET metadata = CAST(x'ff41' AS TEXT) WHERE seq <= 3")
    floor = (await store.events.bounds()).floor
    assert floor == 3
    assert [number for number, *_ in (await store.events.read(floor, 10, ALL)).entries] == [4, 5]


async def test_gone_reader_of_an_owner_goes_on_behind_damage(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """Neither of its two places is before the damage, though its newest event is."""
    expected_logs.add("event log damaged, readers continue after the damage")
    for number, owner in enumerate(("bob", "alice", "alice")):
        await create(store, [record(clock(), guid=f"{number:032X}", owner=owner)])
    alter(path, "UPDATE log SET kind = 'weird' WHERE seq = 2")
    with pytest.raises(EventsTrimmed):
        await store.events.read(1, 10, ALL)

    key = (await store.events.bounds()).key
    feed = EventFeed(store.events, policy=EventPolicy(), clock=clock, max_streams=1)
    with pytest.raises(EventsGone) as gone:
        await feed.start(cursors.decode(Cursor(draw_key(), 1, 1).encode()), "bob", is_now=False)
    places = [sealed and sealed.unseal(key) for sealed in map(cursors.decode, (gone.value.oldest, gone.value.now))]
    assert [place and place.number for place in places] == [2, 3]
