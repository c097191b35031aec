"""The contract of record stores, for every store and for every cache around one."""

import asyncio
import time
from contextlib import ExitStack
from itertools import pairwise, product

import pytest

from guidsvc.cache import open_cache
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.record import DELETED_EXPIRE, MAX_TIME, Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import Overloaded
from guidsvc.runtime.temporary_space import MIB, TemporarySpace
from guidsvc.store import open_store
from guidsvc.store.contract import WOULD_BLOCK, Database, RecordRepository, Swap
from guidsvc.store.overlay import open_overlay
from guidsvc.store.work_time import measured_work
from tests.conftest import FakeClock
from tests.support.factories import GUID, record
from tests.support.turn_counter import TurnCounter


async def test_unknown_guid_is_none(store: RecordRepository) -> None:
    assert await store.get(GUID) is None


async def test_created_record_is_read_as_put(store: RecordRepository, clock: FakeClock) -> None:
    new = record(clock(), metadata='{"b":[1,1.0,true,null,12345678901234567890123],"a":"Zürich 🜁 \\u0000"}')

    assert await store.swap(None, new)
    assert await store.get(GUID) == new


async def test_extreme_field_values_are_stored(store: RecordRepository, clock: FakeClock) -> None:
    new = record(clock(), user="x" * 256, expire=MAX_TIME, purge_at=MAX_TIME, version=2**53 - 1, metadata=None)

    assert await store.swap(None, new)
    assert await store.get(GUID) == new


async def test_record_is_created_once(store: RecordRepository, clock: FakeClock) -> None:
    first, second = record(clock()), record(clock(), user="another")

    assert await store.swap(None, first)
    assert not await store.swap(None, second)
    assert await store.get(GUID) == first


async def test_update_replaces_the_version_that_was_read(store: RecordRepository, clock: FakeClock) -> None:
    old = record(clock())
    new = record(clock(), user="another", version=old.version + 1)

    await store.swap(None, old)
    assert await store.get(GUID) == old
    assert await store.swap(old, new)
    assert await store.get(GUID) == new


async def test_update_of_another_version_changes_nothing(store: RecordRepository, clock: FakeClock) -> None:
    stored = record(clock(), version=clock() + 5)
    stale = record(clock())

    await store.swap(None, stored)
    assert not await store.swap(stale, record(clock(), user="another", version=clock() + 6))
    assert await store.get(GUID) == stored


def chain(first: Record, length: int) -> list[Record]:
    """Return a record and its next states."""
    states = ({"user": f"user {number}", "version": first.version + number} for number in range(1, length + 1))
    return [first, *(first.model_copy(update=state) for state in states)]


async def test_chain_of_swaps_is_executed_in_order(store: RecordRepository, clock: FakeClock) -> None:
    states = chain(record(clock()), 4)
    await store.swap(None, states[0])
    assert await store.get(GUID) == states[0]

    assert await store.swap_chain([Swap(*pair) for pair in pairwise(states)]) == [True] * 4
    assert await store.get(GUID) == states[-1]


async def test_chain_ends_at_a_swap_that_fails(store: RecordRepository, clock: FakeClock) -> None:
    """Even if the stored record has the version that a later swap expects: another process wrote it."""
    states = chain(record(clock()), 3)
    other = states[1].model_copy(update={"user": "other"})
    await store.swap(None, other)

    assert await store.swap_chain([Swap(*pair) for pair in pairwise(states)]) == [False] * 3
    assert await store.get(GUID) == other


async def test_chain_ends_at_a_swap_that_is_too_late(store: RecordRepository, clock: FakeClock) -> None:
    states = chain(record(clock()), 3)
    await store.swap(None, states[0])
    swaps = [Swap(*pair, not_after=0 if place == 1 else None) for place, pair in enumerate(pairwise(states))]

    assert await store.swap_chain(swaps) == [True, False, False]
    assert await store.get(GUID) == states[1]


async def test_update_of_absent_record_creates_nothing(store: RecordRepository, clock: FakeClock) -> None:
    assert not await store.swap(record(clock()), record(clock(), version=clock() + 1))
    assert await store.get(GUID) is None


async def test_delete_removes_the_version_that_was_read(store: RecordRepository, clock: FakeClock) -> None:
    old = record(clock())

    await store.swap(None, old)
    assert await store.get(GUID) == old
    assert await store.swap(old, None)
    assert await store.get(GUID) is None


async def test_delete_of_another_version_changes_nothing(store: RecordRepository, clock: FakeClock) -> None:
    stored = record(clock(), version=clock() + 5)

    await store.swap(None, stored)
    assert not await store.swap(record(clock()), None)
    assert await store.get(GUID) == stored


async def store_time(database: Database) -> int:
    """Return the time of the store's own clock, in milliseconds."""
    return (await database.fence.read()).now


async def test_write_before_its_deadline_succeeds(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old, new = record(clock()), record(clock(), user="another", version=clock() + 1)
    in_time = await store_time(database) + 60_000

    assert await store.swap(None, old, not_after=in_time)
    assert await store.get(GUID) == old
    assert not await store.swap(None, new, not_after=in_time)
    assert not await store.swap(new, old, not_after=in_time)
    assert await store.swap(old, new, not_after=in_time)
    assert await store.get(GUID) == new
    assert await store.swap(new, None, not_after=in_time)
    assert await store.get(GUID) is None


async def test_write_after_its_deadline_changes_nothing(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    old, new = record(clock()), record(clock(), user="another", version=clock() + 1)
    past = await store_time(database) - 1

    assert not await store.swap(None, old, not_after=past)
    assert await store.get(GUID) is None
    assert await store.swap(None, old)
    assert not await store.swap(None, new, not_after=past)
    assert not await store.swap(old, new, not_after=past)
    assert not await store.swap(old, None, not_after=past)
    assert await store.get(GUID) == old
    assert await store.find(Selection(), "", 10) == [old]


async def test_batched_creations_have_separate_deadlines(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    now = await store_time(database)
    existing = record(clock(), guid=f"{0:032X}", user="first")
    await store.swap(None, existing)
    deadlines = [None, now + 60_000, now - 1, None, now - 1, now + 60_000]
    records = [record(clock(), guid=f"{number:032X}", user="$NOW", metadata='{"$a":"$$b"}') for number in range(6)]

    results = await asyncio.gather(
        *(store.swap(None, each, not_after=deadline) for each, deadline in zip(records, deadlines, strict=True))
    )

    assert results == [False, True, False, True, False, True]
    assert await store.find(Selection(), "", 10) == [existing, records[1], records[3], records[5]]


async def test_one_of_a_hundred_creations_with_deadline_wins(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    rivals = [record(clock(), user=f"rival {number}") for number in range(100)]
    in_time = await store_time(database) + 60_000

    results = await asyncio.gather(*(store.swap(None, rival, not_after=in_time) for rival in rivals))

    assert results.count(True) == 1
    assert await store.get(GUID) == rivals[results.index(True)]


async def test_one_of_a_hundred_racing_creations_wins(store: RecordRepository, clock: FakeClock) -> None:
    rivals = [record(clock(), user=f"rival {number}") for number in range(100)]

    results = await asyncio.gather(*(store.swap(None, rival) for rival in rivals))

    assert results.count(True) == 1
    assert await store.get(GUID) == rivals[results.index(True)]


async def test_one_of_fifty_racing_updates_wins(store: RecordRepository, clock: FakeClock) -> None:
    old = record(clock())
    rivals = [record(clock(), user=f"rival {number}", version=old.version + 1) for number in range(50)]
    await store.swap(None, old)

    results = await asyncio.gather(*(store.swap(old, rival) for rival in rivals))

    assert results.count(True) == 1
    assert await store.get(GUID) == rivals[results.index(True)]


async def test_reads_in_one_loop_turn_get_their_own_records(store: RecordRepository, clock: FakeClock) -> None:
    known = [record(clock(), guid=f"{number:032X}", user=f"user {number}") for number in range(40)]
    await asyncio.gather(*(store.swap(None, each) for each in known))

    read = await asyncio.gather(*(store.get(f"{number:032X}") for number in [*range(60), *range(60)]))

    assert read == [*known, *[None] * 20] * 2


FIRST = 4_000_000_000
"""The expiry of the first record of `fill`: in 2096, so that MongoDB does not delete the records."""


async def fill(store: RecordRepository, clock: FakeClock) -> list[Record]:
    """Store 40 records of four users and three owners that expire one per second from FIRST on; return them by GUID."""
    records = [
        record(
            clock(),
            guid=f"{number * 7 % 40:032X}",
            user=f"user {number % 4}",
            owner=f"owner {number % 3}" if number % 3 else "",
            expire=FIRST + number,
            purge_at=FIRST + number + 100,
        )
        for number in range(40)
    ]
    assert all(await asyncio.gather(*(store.swap(None, each) for each in records)))
    return sorted(records, key=lambda each: each.guid)


SELECTIONS = [
    Selection(),
    Selection(user="user 3"),
    Selection(user="nobody"),
    Selection(expire_from=FIRST + 10),
    Selection(expire_before=FIRST + 10),
    Selection(expire_from=FIRST + 10, expire_before=FIRST + 20),
    Selection(expire_from=FIRST + 20, expire_before=FIRST + 10),
    Selection(user="user 1", expire_from=FIRST + 10, expire_before=FIRST + 30),
    Selection(kept_at=FIRST + 119),
    Selection(user="user 2", expire_from=FIRST + 5, kept_at=FIRST + 130),
    Selection(owner="owner 1"),
    Selection(owner=""),
    Selection(owner="nobody"),
    Selection(owner="owner 2", expire_from=FIRST + 10, expire_before=FIRST + 30, kept_at=FIRST + 115),
    Selection(owner="owner 1", user="user 1"),
    Selection(owner="owner 2", user="user 2", expire_from=FIRST + 5),
    Selection(owner="owner 1", excluding=frozenset({f"{7:032X}"})),
    Selection(excluding=frozenset({f"{7:032X}"})),
]


async def test_find_and_count_agree_with_the_selection(store: RecordRepository, clock: FakeClock) -> None:
    records = await fill(store, clock)

    for selection in SELECTIONS:
        expected = [each for each in records if selection.holds(each)]
        assert list(await store.find(selection, "", 100)) == expected, selection
        assert await store.count(selection) == len(expected), selection


BOUNDS: list[tuple[int, ...]] = [
    (0, MAX_TIME + 1),
    (FIRST, FIRST + 1),
    (FIRST + 1, FIRST + 2, FIRST + 4, FIRST + 8, FIRST + 39, FIRST + 40),
    tuple(range(FIRST - 5, FIRST + 60)),
]


async def test_counts_by_expiry_agree_with_the_records(store: RecordRepository, clock: FakeClock) -> None:
    """Each bound begins one range and ends another. Neither tombstones nor records past their retention count."""
    deleted = record(clock(), guid="F" * 32, expire=DELETED_EXPIRE, purge_at=FIRST + 1000)
    assert await store.swap(None, deleted)
    records = await fill(store, clock)

    for bounds, kept_at in product(BOUNDS, [0, FIRST + 101, FIRST + 119, FIRST + 200]):
        assert list(await store.count_by_expire(bounds, kept_at)) == [
            sum(start <= each.expire < end and each.purge_at > kept_at for each in records)
            for start, end in pairwise(bounds)
        ], kept_at


CONTINUED = [
    Selection(),
    Selection(expire_from=FIRST + 1),
    Selection(user="user 1"),
    Selection(owner="owner 1"),
    Selection(owner="owner 1", user="user 1"),
    Selection(owner="owner 1", excluding=frozenset({f"{7:032X}"})),
]


async def test_find_continues_after_any_guid_up_to_its_limit(store: RecordRepository, clock: FakeClock) -> None:
    records = await fill(store, clock)

    for selection, after in product(CONTINUED, ("", f"{0:032X}", f"{20:032X}", "14" * 16, "F" * 32)):
        expected = [each for each in records if selection.holds(each) and each.guid > after]
        for limit in (1, 3, 100):
            assert list(await store.find(selection, after, limit)) == expected[:limit], selection


async def test_pages_by_expiry_hold_the_selection_in_order(store: RecordRepository, clock: FakeClock) -> None:
    """In one page, and page by page; records with the same expiry are sorted by GUID."""
    filled = await fill(store, clock)
    tied = [
        each.model_copy(update={"expire": FIRST + (each.expire - FIRST) // 4, "version": each.version + 1})
        for each in filled
    ]
    assert all(await asyncio.gather(*map(store.swap, filled, tied)))

    for selection in SELECTIONS:
        expected = sorted(filter(selection.holds, tied), key=lambda each: (each.expire, each.guid))
        assert list(await store.find_by_expire(selection, Position("", 0), 100)) == expected, selection
        for limit in (1, 7):
            pages, after = list[Record](), Position("", 0)
            while page := await store.find_by_expire(selection, after, limit):
                pages += page
                after = Position(page[-1].guid, page[-1].expire)
            assert pages == expected, selection


async def test_linearizable_read_shows_every_write(store: RecordRepository, clock: FakeClock) -> None:
    old, new = record(clock()), record(clock(), user="another", version=clock() + 1)
    for before, after in ((None, old), (old, new), (new, None)):
        assert await store.swap(before, after)
        assert await store.get_linearizable(GUID) == after
        assert await store.count_linearizable(Selection()) == (after is not None)
        assert await store.count_linearizable(Selection(user="another")) == (after is new)


async def test_work_on_a_count_is_measured(store: RecordRepository, database: Database) -> None:
    started = time.monotonic()
    with measured_work() as record_work:
        await store.count_linearizable(Selection())
    with measured_work() as receipt_work:
        await database.receipts.usage("")
    assert min(record_work.seconds, receipt_work.seconds) > 0
    assert record_work.seconds + receipt_work.seconds <= time.monotonic() - started


async def test_due_records_are_purged_up_to_the_limit(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    due = [*(clock.seconds - 10 + number for number in range(4)), clock.seconds + 3600]
    old = [record(clock(), guid=f"{number:032X}", expire=0, purge_at=at) for number, at in enumerate(due)]
    await asyncio.gather(*(store.swap(None, each) for each in old))

    assert await database.events.advance(clock(), 3) == 3
    assert await database.events.advance(clock(), 3) == 1
    assert await database.events.advance(clock(), 3) == 0
    async with asyncio.timeout(30):  # MongoDB removes a record once the log has its entries
        while any([await store.get(each.guid) for each in old[:4]]):
            await asyncio.sleep(0.01)
    assert await store.get(old[4].guid) == old[4]


async def test_open_store_answers_ping(store: RecordRepository, database: Database) -> None:
    await asyncio.wait_for(database.ping(), 30)
    assert await store.get(GUID) is None


async def test_swap_of_nothing_for_nothing_is_a_programming_error(store: RecordRepository) -> None:
    with pytest.raises((ValueError, AttributeError)):
        await store.swap(None, None)


async def test_reads_during_writes_never_go_back(store: RecordRepository, clock: FakeClock) -> None:
    current = record(clock())
    await store.swap(None, current)
    is_over = asyncio.Event()

    async def read() -> list[int]:
        versions: list[int] = []
        while not is_over.is_set():
            stored = await store.get(GUID)
            assert stored is not None
            versions.append(stored.version)
            await asyncio.sleep(0)
        return versions

    readers = [asyncio.create_task(read()) for _ in range(4)]
    acknowledged = await _write_versions(store, current, 40)
    is_over.set()
    for versions in await asyncio.gather(*readers):
        assert versions == sorted(versions)
        assert set(versions) <= acknowledged


async def _write_versions(store: RecordRepository, current: Record, count: int) -> set[int]:
    """Update one record repeatedly; check that each acknowledged write is what the next read returns."""
    versions = {current.version}
    for _ in range(count):
        new = current.model_copy(update={"version": current.version + 1})
        assert await store.swap(current, new)
        assert (stored := await store.get(GUID)) is not None
        assert stored.version == new.version
        versions.add(new.version)
        current = new
    return versions


async def test_overlay_predicts_the_store_and_changes_nothing(store: RecordRepository, clock: FakeClock) -> None:
    stored, created = record(clock()), record(clock(), guid="0" * 32)
    changed = stored.model_copy(update={"user": "another", "version": stored.version + 1})
    await store.swap(None, stored)

    with open_overlay(store) as overlay:
        assert not await overlay.swap(None, stored)
        assert await overlay.swap(stored, changed)
        assert not await overlay.swap(stored, None)
        assert await overlay.swap(None, created)
        assert (await overlay.get(GUID), await overlay.get(created.guid)) == (changed, created)
        assert await overlay.swap(changed, None)
        assert await overlay.get(GUID) is None
        assert not await overlay.swap(changed, None)
    assert (await store.get(GUID), await store.get(created.guid)) == (stored, None)


async def test_dry_run_leaves_turns_of_the_event_loop_to_others(store: RecordRepository, clock: FakeClock) -> None:
    """Regardless of how many operations start at once."""
    counter = TurnCounter()
    with open_overlay(store) as overlay:
        await overlay.swap(None, record(clock()))
        overlay._execute = counter.counted(overlay._execute)  # type: ignore[method-assign]
        async with counter.following_turns():
            creations = [overlay.swap(None, record(clock(), guid=f"{number:032X}")) for number in range(100)]
            assert all(await asyncio.gather(*creations))
    assert counter.most <= 4


async def test_temporary_space_bounds_the_number_of_overlay_databases(
    store: RecordRepository, clock: FakeClock
) -> None:
    space = TemporarySpace(request_bytes=MIB, total_bytes=MIB)
    with ExitStack() as stack:
        overlays = [stack.enter_context(open_overlay(store, stack.enter_context(space.share()))) for _ in range(5)]
        for overlay in overlays[:4]:
            assert await overlay.get(GUID) is None
            assert await overlay.swap(None, record(clock()))
        with pytest.raises(Overloaded):
            await overlays[4].swap(None, record(clock()))


async def test_get_nowait_equals_get_or_would_block(store: RecordRepository, clock: FakeClock) -> None:
    old, new = record(clock()), record(clock(), user="another", version=clock() + 1)
    for before, after in ((None, None), (None, old), (old, new), (new, None)):
        if (before, after) != (None, None):
            assert await store.swap(before, after)
        for _ in range(2):
            assert store.get_nowait(GUID) in {after, WOULD_BLOCK}
            assert await store.get(GUID) == after
            assert store.get_nowait(GUID) in {after, WOULD_BLOCK}


async def test_local_record_is_readable_without_blocking(sqlite_url: str, clock: FakeClock) -> None:
    async with (
        open_store(sqlite_url, exclusive=True) as store,
        open_cache("memory://", store, clock=clock, size_bytes=64 * 1024) as cache,
    ):
        await store.records.swap(None, record(clock()))
        assert store.records.get_nowait(GUID) == cache.get_nowait(GUID) == record(clock())
        assert cache.get_nowait(GUID) is cache.get_nowait(GUID)  # and is in the cache now
        assert store.records.get_nowait("F" * 32) is cache.get_nowait("F" * 32) is None
