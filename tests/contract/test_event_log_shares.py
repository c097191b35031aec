"""The contract of the event log, for every store: a busy owner does not push out the events of others."""

import asyncio

import pytest

from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsTrimmed
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.event_log import EventLog, Numbered
from tests.conftest import FakeClock
from tests.support.event_shares import SIZE_BYTES, create_of, own_entries, trim_all
from tests.support.events import ALL, READ_SECONDS, every_entry

ALICE, BOB = EventSelection(owner="alice"), EventSelection(owner="bob")


async def numbers_of(log: EventLog, owner: str, after: int) -> list[int]:
    return [number for number, *_ in await own_entries(log, owner, after)]


async def flood_log(store: RecordRepository, log: EventLog, clock: FakeClock) -> list[Numbered]:
    """Write one event of bob, three times the log's size of alice, and one of bob; return all entries ever seen."""
    await create_of(store, log, clock, "bob", 1)
    seen = await every_entry(log)
    for _ in range(3):
        await create_of(store, log, clock, "alice", SIZE_BYTES)
        seen += (await log.read(seen[-1].number, 10_000, ALL)).entries
        await trim_all(log)
    await create_of(store, log, clock, "bob", 1)
    seen += (await log.read(seen[-1].number, 10_000, ALL)).entries
    return seen


async def test_full_log_keeps_events_of_small_owners(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    log = database.events
    seen = await flood_log(store, log, clock)
    await trim_all(log)

    bounds, of_alice, of_bob = await log.bounds(), await log.bounds("alice"), await log.bounds("bob")
    assert of_bob.floor == 0
    assert await own_entries(log, "bob", 0) == [each for each in seen if each.entry.owner == "bob"]
    assert 0 < of_alice.floor <= bounds.floor
    remaining = [each for each in seen if each.entry.owner == "alice" and each.number > of_alice.floor]
    assert remaining
    assert await own_entries(log, "alice", of_alice.floor) == remaining
    assert await every_entry(log) == [each for each in seen if each.number > bounds.floor]
    assert (await log.size())[0] <= SIZE_BYTES


async def test_reader_never_misses_a_removed_event(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    log = database.events
    await flood_log(store, log, clock)
    await trim_all(log)

    for selection, floor in ((ALICE, (await log.bounds("alice")).floor), (ALL, (await log.bounds()).floor)):
        with pytest.raises(EventsTrimmed):
            await log.read(floor - 1, 10, selection)
        assert (await log.read(floor, 10, selection)).entries


async def test_full_log_of_equal_owners_removes_the_oldest(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """Two busy owners keep half of the log each. A third one keeps everything."""
    log = database.events
    await create_of(store, log, clock, "carol", 1)
    for _ in range(4):
        for owner in ("alice", "bob"):
            await create_of(store, log, clock, owner, SIZE_BYTES // 4)
    await trim_all(log)

    owners = "alice", "bob", "carol"
    alice, bob, carol = [len(await own_entries(log, owner, (await log.bounds(owner)).floor)) for owner in owners]
    assert carol == 1
    assert abs(alice - bob) <= 1
    assert min(alice, bob) >= 3


async def test_growing_owner_loses_its_archived_events(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """Bob's events below the floor are removed once bob has the largest share."""
    log = database.events
    await create_of(store, log, clock, "bob", SIZE_BYTES // 4)
    await create_of(store, log, clock, "alice", 2 * SIZE_BYTES)
    await trim_all(log)
    assert (await log.bounds("bob")).floor == 0
    before = await numbers_of(log, "bob", 0)
    await create_of(store, log, clock, "bob", 2 * SIZE_BYTES)
    await trim_all(log)

    floor = (await log.bounds("bob")).floor
    assert floor >= before[-1]
    assert await numbers_of(log, "bob", floor)
    with pytest.raises(EventsTrimmed):
        await log.read(before[0], 10, BOB)
    assert (await log.size())[0] <= SIZE_BYTES


async def test_page_continues_from_the_archive_into_the_log(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    log = database.events
    for _ in range(3):
        await create_of(store, log, clock, "bob", 1)
        await create_of(store, log, clock, "alice", SIZE_BYTES // 2)
    await trim_all(log)
    for _ in range(2):
        await create_of(store, log, clock, "bob", 1)

    expected = await numbers_of(log, "bob", 0)
    assert len(expected) == 5
    assert expected[0] < (await log.bounds()).floor < expected[-1]
    for limit in range(1, 7):
        found: list[int] = []
        after = 0
        while (page := await log.read(after, limit, BOB)).entries:
            assert page.looked_to_checksum == await log.checksum(page.looked_to)
            found += [number for number, *_ in page.entries]
            after = page.looked_to
        assert found == expected
    rare = EventSelection(owner="bob", kinds=frozenset({"purged"}))
    page = await log.read(0, 10, rare)
    assert (list(page.entries), page.looked_to) == ([], page.newest)


async def test_archive_ends_with_the_retention(store: RecordRepository, database: Database, clock: FakeClock) -> None:
    log = database.events
    await flood_log(store, log, clock)
    await trim_all(log)
    async with asyncio.timeout(READ_SECONDS):
        while (await log.bounds()).floor < await log.newest() - 1:
            await trim_all(log, before=2**45)

    assert (await log.bounds("bob")).floor == await log.newest() - 1
    with pytest.raises(EventsTrimmed):
        await log.read(0, 10, BOB)
    assert await numbers_of(log, "bob", await log.newest() - 1) == [await log.newest()]


async def test_cursor_at_the_newest_event_of_an_owner_stays_valid(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    log = database.events
    seen = await flood_log(store, log, clock)
    first, last = (each.number for each in seen if each.entry.owner == "bob")
    await trim_all(log)

    for number, expected in ((last, last), (last - 1, first), (first, first)):
        found = await log.newest_of("bob", number)
        assert found is not None
        assert found == (expected, await log.checksum(expected))
    assert await log.newest_of("carol", last) is None
    assert await log.newest_of("alice", (await log.bounds("alice")).floor) is None


async def test_pages_of_small_owners_have_no_gap_while_trimmed(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    log = database.events
    for _ in range(3):
        await create_of(store, log, clock, "bob", 1)
        await create_of(store, log, clock, "alice", SIZE_BYTES)
    expected = await own_entries(log, "bob", 0)
    is_trimmed = False

    async def trim() -> None:
        nonlocal is_trimmed
        await trim_all(log, limit=3)
        is_trimmed = True

    async def read() -> None:
        while not is_trimmed:
            assert await own_entries(log, "bob", 0) == expected
            await asyncio.sleep(0)

    await asyncio.gather(trim(), read(), read())
    assert await own_entries(log, "bob", 0) == expected
