"""The memory cache beyond the store's contract: what it caches, and for how long."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import pytest

from guidsvc.cache import memory
from guidsvc.cache.memory import MemoryCache
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.store.contract import WOULD_BLOCK, Swap, TakeTurn, WouldBlock
from guidsvc.telemetry.metrics import CacheMetrics
from tests.conftest import FakeClock
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore, run_ready_tasks
from tests.support.turn_counter import no_turn


@pytest.fixture
async def gated() -> GatedStore:
    return GatedStore()


@pytest.fixture
def cache(gated: GatedStore, clock: FakeClock) -> MemoryCache:
    """A cache for three records."""
    return MemoryCache(gated, clock=clock, size_bytes=3 * record(clock()).memory_bytes)


@pytest.fixture
def record_now(clock: FakeClock) -> Callable[..., Record]:
    """Return a function that creates a record with the current time."""
    return lambda **fields: record(clock(), **fields)


async def test_cached_record_is_served_without_the_store(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    gated.records[GUID] = record_now()

    assert [await cache.get(GUID) for _ in range(3)] == [record_now()] * 3
    assert gated.gets == 1


async def test_absent_record_is_not_cached(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    assert await cache.get(GUID) is None
    gated.records[GUID] = record_now()

    assert await cache.get(GUID) == record_now()


async def test_entry_is_dropped_when_its_record_expires(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record], clock: FakeClock
) -> None:
    gated.records[GUID] = cached = record_now(expire=clock.seconds + 5)
    await cache.get(GUID)
    clock.advance(seconds=5)
    gated.records.clear()

    assert await cache.get(GUID) is None
    assert cached.expire == clock.seconds


async def test_expired_record_is_not_cached_and_takes_no_room(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    live = [f"{number:032X}" for number in range(3)]
    gated.records = {guid: record_now(guid=guid) for guid in live} | {GUID: record_now(expire=0)}
    for guid in [*live, GUID, GUID]:
        await cache.get(guid)
    assert gated.gets == 5

    for guid in live:
        await cache.get(guid)
    assert gated.gets == 5


async def test_least_recently_used_entry_is_evicted_first(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    guids = [f"{number:032X}" for number in range(4)]
    gated.records = {guid: record_now(guid=guid) for guid in guids}
    for guid in [*guids[:3], guids[0], guids[3]]:  # the second is now the least recently used
        await cache.get(guid)
    gated.gets = 0

    for guid in [guids[0], guids[2], guids[3]]:
        await cache.get(guid)
    assert gated.gets == 0
    await cache.get(guids[1])
    assert gated.gets == 1


async def test_record_larger_than_the_cache_is_served_uncached(
    gated: GatedStore, record_now: Callable[..., Record], clock: FakeClock
) -> None:
    large = gated.records[GUID] = record_now(metadata=f'{{"a":"{"x" * 16_000}"}}')
    cache = MemoryCache(gated, clock=clock, size_bytes=large.memory_bytes - 1)

    assert [await cache.get(GUID) for _ in range(2)] == [large, large]
    assert gated.gets == 2


async def test_readers_of_one_key_share_one_flight(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    gated.records[GUID] = record_now()
    gated.open.clear()
    readers = [asyncio.create_task(cache.get(GUID)) for _ in range(10)]
    await run_ready_tasks()
    gated.open.set()

    assert await asyncio.gather(*readers) == [record_now()] * 10
    assert gated.gets == 1


async def test_cancelled_reader_leaves_the_flight_to_the_others(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    gated.records[GUID] = record_now()
    gated.open.clear()
    first, second = asyncio.create_task(cache.get(GUID)), asyncio.create_task(cache.get(GUID))
    await run_ready_tasks()
    first.cancel()
    await run_ready_tasks()
    gated.open.set()

    assert await second == record_now()


async def test_store_error_reaches_all_waiters_and_is_not_cached(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    gated.fault = StoreUnavailable("gone")
    outcomes = await asyncio.gather(cache.get(GUID), cache.get(GUID), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2

    gated.fault, gated.records[GUID] = None, record_now()
    assert await cache.get(GUID) == record_now()


async def test_read_begun_before_a_write_never_fills_after_it(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    old = gated.records[GUID] = record_now()
    new = record_now(version=old.version + 1)
    gated.open.clear()
    reader = asyncio.create_task(cache.get(GUID))
    await run_ready_tasks()
    writer = asyncio.create_task(cache.swap(old, new))
    await run_ready_tasks()
    gated.open.set()
    await writer
    assert await reader == old, "it began before the write"

    assert await cache.get(GUID) == new


async def test_read_during_a_write_fills_and_shares_nothing(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    old = gated.records[GUID] = record_now()
    new = record_now(version=old.version + 1)
    gated.open.clear()
    writer = asyncio.create_task(cache.swap(old, new))
    await run_ready_tasks()
    readers = [asyncio.create_task(cache.get(GUID)) for _ in range(3)]
    await run_ready_tasks()
    assert gated.gets == 3
    gated.open.set()
    await asyncio.gather(writer, *readers)

    assert await cache.get(GUID) == new


async def test_concurrent_writes_keep_the_key_out_until_both_end(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    old = gated.records[GUID] = record_now()
    first_gate, second_gate = gated.swap_gates = [asyncio.Event(), asyncio.Event()]
    first, second = (asyncio.create_task(cache.swap(old, record_now(version=old.version + 1))) for _ in range(2))
    await run_ready_tasks()
    first_gate.set()
    await first

    await asyncio.gather(cache.get(GUID), cache.get(GUID))
    assert gated.gets == 2, "the second write is still in flight"
    second_gate.set()
    await second
    await asyncio.gather(cache.get(GUID), cache.get(GUID))
    assert gated.gets == 3


async def test_failed_write_leaves_the_key_cacheable(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    old = gated.records[GUID] = record_now()
    gated.fault = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await cache.swap(old, None)
    gated.fault = None

    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 1


async def test_write_of_unknown_outcome_sends_reads_to_the_store(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record]
) -> None:
    old = gated.records[GUID] = record_now()
    await cache.get(GUID)
    gated.fault = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await cache.swap(old, None)
    gated.fault = None
    await run_ready_tasks()
    assert await cache.get(GUID) == old

    gated.records.clear()  # the write takes effect after all
    assert await cache.get(GUID) is None


async def test_more_unknown_outcomes_than_remembered_stop_caching(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lasts until the last of these writes can no longer take effect; the keys remembered are bounded."""
    monkeypatch.setattr(memory, "MAX_QUARANTINED", 2)
    monkeypatch.setattr(memory, "QUARANTINE_SECONDS", 0.2)
    gated.records[GUID] = record_now()
    others = [record_now(guid=f"{number:032X}") for number in range(3)]
    await cache.get(GUID)
    gated.fault = OutcomeUnknown("no answer")
    for other in others:
        with pytest.raises(OutcomeUnknown):
            await cache.swap(None, other)
    gated.fault = None
    assert len(cache._marked) == len(cache._quarantine) == 2

    reads = gated.gets
    await asyncio.gather(*(cache.get(GUID) for _ in range(3)))
    assert gated.gets == reads + 3, "reads are neither cached nor shared"

    async with asyncio.timeout(30):
        while cache._marked or cache._resumption is not None:
            await asyncio.sleep(0.01)
    reads = gated.gets
    assert [await cache.get(GUID) for _ in range(3)] == [gated.records[GUID]] * 3
    assert gated.gets == reads + 1


async def test_quarantines_end_one_after_the_other(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "QUARANTINE_SECONDS", 0.2)
    gated.fault = OutcomeUnknown("no answer")
    for number in range(3):
        with pytest.raises(OutcomeUnknown):
            await cache.swap(None, record_now(guid=f"{number:032X}"))
        await asyncio.sleep(0.05)
    assert cache._marked

    async with asyncio.timeout(30):
        while cache._marked:
            await asyncio.sleep(0.01)
    assert not cache._quarantine


class LocalStore(GatedStore):
    """A gated store whose reads do not block."""

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:
        return self.records.get(guid)


async def test_record_peeked_during_its_write_is_not_cached(
    record_now: Callable[..., Record], clock: FakeClock
) -> None:
    local = LocalStore()
    cache = MemoryCache(local, clock=clock, size_bytes=10**6)
    local.records[GUID] = old = record_now()
    assert cache.get_nowait(GUID) is old
    local.open.clear()
    writer = asyncio.create_task(cache.swap(old, new := record_now(user="another", version=clock() + 1)))
    await run_ready_tasks()

    assert cache.get_nowait(GUID) is old  # the write has not been applied yet
    local.open.set()
    assert await writer
    assert cache.get_nowait(GUID) is new
    local.records.clear()
    assert cache.get_nowait(GUID) is new  # the record is cached from here on


async def test_peek_caches_no_expired_record(record_now: Callable[..., Record], clock: FakeClock) -> None:
    local = LocalStore()
    cache = MemoryCache(local, clock=clock, size_bytes=10**6)
    local.records[GUID] = record_now(expire=clock.seconds)

    assert cache.get_nowait(GUID) is local.records[GUID]
    local.records.clear()
    assert cache.get_nowait(GUID) is None


class GroupStore(GatedStore):
    """A store with group writes, which return these results."""

    def __init__(self, *results: bool | GuidsvcError) -> None:
        super().__init__()
        self.results = results

    async def get_many_for_update(self, guids: Sequence[str], take_turn: TakeTurn, /) -> Mapping[str, Record]:
        self.gets += len(guids)
        return {guid: self.records[guid] for guid in guids if guid in self.records}

    async def swap_many(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        await self.open.wait()
        if self.fault:
            raise self.fault
        return self.results[: len(swaps)]


@pytest.fixture
def records(record_now: Callable[..., Record]) -> list[Record]:
    """Three records."""
    return [record_now(guid=f"{number:032X}") for number in range(3)]


@pytest.mark.parametrize("fault", [None, RuntimeError("a fault")])
async def test_group_of_writes_keeps_its_keys_out_of_the_cache(
    clock: FakeClock, records: list[Record], fault: Exception | None
) -> None:
    store = GroupStore(True, False, OutcomeUnknown("no answer"))
    cache = MemoryCache(store, clock=clock, size_bytes=2**20)
    store.records = {item.guid: item for item in records}
    await asyncio.gather(*(cache.get(item.guid) for item in records))
    store.fault = fault
    store.open.clear()
    write = asyncio.ensure_future(cache.swap_many([Swap(item, None) for item in records]))
    await run_ready_tasks()
    store.records.clear()  # the writes take effect
    reads = asyncio.gather(*(cache.get(item.guid) for item in records))
    store.open.set()
    await asyncio.wait([write])
    write.exception()
    store.fault = None

    if fault is None:
        assert await reads == [None] * 3
    else:
        await asyncio.wait([reads])
        reads.exception()
    store.records = {item.guid: item for item in records}
    gets = store.gets
    for _ in range(2):
        assert [await cache.get(item.guid) for item in records] == records
    assert store.gets - gets == (4 if fault is None else 6), "records of unknown outcome are not cached"


async def test_chain_of_writes_keeps_its_key_out_of_the_cache(
    cache: MemoryCache, gated: GatedStore, record_now: Callable[..., Record], clock: FakeClock
) -> None:
    states = [record_now(version=clock() + number) for number in range(3)]
    gated.records[GUID] = states[0]
    assert await cache.get(GUID) == states[0]
    gates = [asyncio.Event(), asyncio.Event()]
    gated.swap_gates = list(gates)
    write = asyncio.ensure_future(cache.swap_chain([Swap(*pair) for pair in pairwise(states)]))
    for state, gate in zip(states, gates, strict=False):
        await run_ready_tasks()
        assert await cache.get(GUID) == state
        gate.set()

    assert await write == [True, True]
    assert await cache.get(GUID) == states[2]


async def test_group_is_read_from_the_cache_if_it_is_live(clock: FakeClock, records: list[Record]) -> None:
    store = GroupStore()
    meter = CacheMetrics()
    cache = MemoryCache(store, clock=clock, size_bytes=2**20, meter=meter)
    store.records = {item.guid: item for item in records[:2]}
    await cache.get(records[0].guid)
    gets, guids = store.gets, [item.guid for item in records]

    assert await cache.get_many_for_update(guids, no_turn) == store.records
    assert (store.gets - gets, meter.l1_hits, meter.misses) == (2, 1, 3)
    clock.advance(seconds=3601)
    await cache.get_many_for_update(guids, no_turn)
    assert store.gets - gets == 5, "an expired record is read again"


async def test_cache_around_a_store_without_groups_has_none(cache: MemoryCache) -> None:
    assert await cache.get_many_for_update([GUID], no_turn) is WOULD_BLOCK
