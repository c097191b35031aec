"""The Redis cache beyond the store's contract: the protocol step by step, and losses of Redis."""

import asyncio
import json
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from pydantic_core import from_json

from guidsvc.cache.byte_lru import bounded
from guidsvc.cache.redis.cache import RedisCache, _weigh_decoding, _weigh_entry
from guidsvc.cache.redis.link import open_link
from guidsvc.cache.redis.lua_scripts import FILL
from guidsvc.cache.timings import CacheTimings
from guidsvc.domain import record as record_module
from guidsvc.domain.record import Record
from guidsvc.errors import CacheUnavailable, DeadlineExceeded, OutcomeUnknown, StartError, StoreUnavailable
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.fairness.decoding_turns import READERS
from guidsvc.store.cache_fence import Fence, Mode
from guidsvc.store.contract import WOULD_BLOCK, Swap
from guidsvc.telemetry import tracing
from guidsvc.telemetry.tracing import RequestTrace
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.backing_servers import Server, redis_server
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore, run_ready_tasks
from tests.support.redis_cache import DOWN, NAME, OFF, TIMING, open_cache, wait_until_idle, wait_until_on
from tests.support.turn_counter import TurnCounter

LONG_LEASE_TIMING = replace(TIMING, lease=5.0)
"""Timings with a lease that outlasts a test."""
QUICK_TIMEOUT_TIMING = replace(TIMING, redis=CacheTimings().redis)
"""Timings with the time limit of Redis that the service has, for tests of that limit."""


async def wait_until_cached(cache: RedisCache, gated: GatedStore, expected: Record) -> None:
    """Read the record until the cache serves it without a read of the store. A busy machine may turn the fence off."""
    gated.gets = 1
    while gated.gets:
        await wait_until_on(cache)
        await wait_until_idle(cache)
        gated.gets = 0
        assert await cache.get(GUID) == expected


@pytest.fixture
async def gated() -> GatedStore:
    return GatedStore()


@pytest.fixture
def raw(own_redis: Server) -> redis.Redis:
    """The test's own client of the Redis that the cache uses."""
    return redis.Redis(port=own_redis.port)


@pytest.fixture
def timing() -> CacheTimings:
    return TIMING


@pytest.fixture
async def caches(
    own_redis: Server, gated: GatedStore, clock: FakeClock, timing: CacheTimings
) -> AsyncIterator[list[RedisCache]]:
    """Two caches on one Redis and one store, as two processes would have them."""
    async with AsyncExitStack() as stack:
        caches_ = [await stack.enter_async_context(open_cache(own_redis.port, gated, clock, timing)) for _ in range(2)]
        await wait_until_on(*caches_)
        yield caches_


@pytest.fixture
def cache(caches: list[RedisCache]) -> RedisCache:
    return caches[0]


async def wait_until_up(cache: RedisCache) -> None:
    """Wait until the cache responds again."""
    while True:
        try:
            return await cache.check()
        except CacheUnavailable:
            await asyncio.sleep(0.001)


async def begin_write(
    cache: RedisCache, gated: GatedStore, old: Record, new: Record | None
) -> tuple[asyncio.Task[bool], asyncio.Event]:
    """Begin a write; once it has reached the store, return it and the gate that lets it continue."""
    gated.swap_gates.append(gate := asyncio.Event())
    writer = asyncio.create_task(cache.swap(old, new))
    while gated.swap_gates:
        await asyncio.sleep(0)
    return writer, gate


def entry_key(raw: redis.Redis, kind: str = "v") -> str:
    """Return the current Redis key of the value (v), the markers (w) or the lease (l) of GUID."""
    boot = raw.get(f"gs:{NAME}:ctl")
    assert isinstance(boot, bytes)
    return f"gs:{NAME}:{boot.decode().partition('@')[0]}:{kind}:{GUID}"


async def test_cached_record_is_served_to_all_processes(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock(), metadata='{"a":1}')

    assert await caches[0].get(GUID) == gated.records[GUID]
    await wait_until_idle(caches[0])
    assert [await cache.get(GUID) for cache in [*caches, *caches]] == [gated.records[GUID]] * 4
    assert gated.gets == 1


async def test_absent_record_is_not_cached(cache: RedisCache, gated: GatedStore, clock: FakeClock) -> None:
    assert await cache.get(GUID) is None
    gated.records[GUID] = record(clock())

    assert await cache.get(GUID) == gated.records[GUID]


async def test_entry_lives_no_longer_than_its_record(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock(), expire=clock.seconds + 50)
    await cache.get(GUID)
    await wait_until_idle(cache)

    assert 40_000 < int(raw.pttl(entry_key(raw))) <= 50_000


async def test_entry_lives_a_few_minutes_at_most(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock(), expire=clock.seconds + 9 * 86400)
    await cache.get(GUID)
    await wait_until_idle(cache)

    assert TIMING.token * 1000 < int(raw.pttl(entry_key(raw))) <= TIMING.entry * 1000


async def test_expired_record_is_not_cached(cache: RedisCache, gated: GatedStore, clock: FakeClock) -> None:
    gated.records[GUID] = record(clock(), expire=clock.seconds)

    await cache.get(GUID)
    await cache.get(GUID)
    assert gated.gets == 2
    await cache.check()


async def test_concurrent_readers_leave_the_fill_token_to_the_first(
    caches: list[RedisCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    gated.open.clear()
    first = asyncio.create_task(caches[0].get(GUID))
    while gated.gets < 1:
        await asyncio.sleep(0)
    token = raw.get(entry_key(raw))
    others = [asyncio.create_task(cache.get(GUID)) for cache in caches]
    while gated.gets < 3:
        await asyncio.sleep(0)
    assert raw.get(entry_key(raw)) == token
    gated.open.set()

    assert await asyncio.gather(first, *others) == [gated.records[GUID]] * 3


async def test_write_is_seen_by_the_next_read_of_another_process(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    await caches[1].get(GUID)

    assert await caches[0].swap(old, new)
    assert await caches[1].get(GUID) == new


async def test_read_begun_before_a_write_never_fills_after_it(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    gated.open.clear()
    gated.swap_gates = [gate := asyncio.Event()]
    gate.set()
    reader = asyncio.create_task(caches[1].get(GUID))
    while not gated.gets:
        await asyncio.sleep(0)
    assert await caches[0].swap(old, new)
    gated.open.set()
    assert await reader == old, "it began before the write"

    assert await caches[1].get(GUID) == new


async def test_reads_during_a_write_use_the_store_and_fill_nothing(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    writer, gate = await begin_write(caches[0], gated, old, record(clock(), version=clock() + 1))

    assert [await caches[1].get(GUID) for _ in range(3)] == [old] * 3
    assert gated.gets == 3
    gate.set()
    assert await writer


async def test_read_begun_during_a_write_never_fills_after_it(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    writer, gate = await begin_write(caches[0], gated, old, new)
    gated.open.clear()
    reader = asyncio.create_task(caches[1].get(GUID))
    while not gated.gets:
        await asyncio.sleep(0)
    gate.set()
    await writer
    gated.open.set()
    assert await reader == old, "it began before the write was acknowledged"

    assert await caches[1].get(GUID) == new


async def test_end_of_one_write_keeps_the_marker_of_another(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    first, first_gate = await begin_write(caches[0], gated, old, record(clock(), version=clock() + 1))
    second, second_gate = await begin_write(caches[1], gated, old, record(clock(), version=clock() + 2))
    first_gate.set()
    await first

    gated.gets = 0
    await caches[0].get(GUID)
    await caches[0].get(GUID)
    assert gated.gets == 2, "nothing is filled during the second write"
    second_gate.set()
    await second


async def test_write_without_change_leaves_the_key_cacheable(
    cache: RedisCache, gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.fault = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await cache.swap(old, None)
    gated.fault = None

    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 1


async def test_write_that_lost_its_race_leaves_the_key_cacheable(
    cache: RedisCache, gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.loses_swaps = True

    assert not await cache.swap(old, None)
    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 1


async def test_write_of_unknown_outcome_prevents_fills(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.fault = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await caches[0].swap(old, None)
    gated.fault = None
    assert await caches[1].get(GUID) == old

    gated.records.clear()  # the write takes effect after all
    assert await caches[1].get(GUID) is None


async def test_value_filled_in_after_a_marker_ended_early_is_dropped(
    caches: list[RedisCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    """The clock of Redis was set forward: the marker ended during the write."""
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    writer, gate = await begin_write(caches[0], gated, old, new)
    raw.delete(entry_key(raw, "w"))
    assert await caches[1].get(GUID) == old
    await wait_until_idle(caches[1])
    assert raw.exists(entry_key(raw)), "the old record was filled in"
    gate.set()
    assert await writer
    await wait_until_idle(caches[0])

    assert [await cache.get(GUID) for cache in caches] == [new] * 2


async def test_lease_that_nobody_can_have_delays_no_write(
    caches: list[RedisCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """The clock of Redis was set back, so its leases last for longer."""
    expected_logs.add(OFF)
    old = gated.records[GUID] = record(clock())
    await caches[1].get(GUID)
    await wait_until_idle(caches[1])
    raw.set(entry_key(raw, "l"), "another", px=3_600_000)

    async with asyncio.timeout(60):
        assert await caches[0].swap(old, record(clock(), version=clock() + 1))


async def test_write_that_waited_past_its_time_limit_is_not_sent(
    cache: RedisCache, gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    scope = CancelScope()
    scope.cancel(is_disconnected=False)
    token = cancel_scope.CURRENT.set(scope)
    with pytest.raises(DeadlineExceeded):
        await cache.swap(old, None)
    with pytest.raises(DeadlineExceeded):
        await cache.swap_chain(chain_of(old))
    cancel_scope.CURRENT.reset(token)

    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 1, "the marker was dropped"


def chain_of(old: Record) -> list[Swap]:
    """Return three swaps that follow each other."""
    states = [old.model_copy(update={"version": old.version + number}) for number in range(4)]
    return [Swap(*pair) for pair in pairwise(states)]


async def test_chain_is_written_within_one_window(
    caches: list[RedisCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    swaps = chain_of(gated.records[GUID])
    gates = [asyncio.Event() for _ in swaps]
    for cache in caches:
        await cache.get(GUID)
        await wait_until_idle(cache)
    gated.swap_gates = list(gates)
    write = asyncio.create_task(caches[0].swap_chain(swaps))
    for (old, *_), gate in zip(swaps, gates, strict=True):
        while len(gated.swap_gates) >= len(gates) - gates.index(gate):
            await asyncio.sleep(0)
        assert raw.zcard(entry_key(raw, "w")) == 1
        assert [await cache.get(GUID) for cache in (*caches, *caches)] == [old] * 4
        assert not raw.exists(entry_key(raw)), "nothing is filled"
        gate.set()

    assert await write == [True] * 3
    assert [await cache.get(GUID) for cache in caches] == [swaps[-1].new] * 2
    await wait_until_idle(caches[0])
    assert not raw.exists(entry_key(raw, "w"))


async def test_chain_that_lost_its_race_leaves_the_key_cacheable(
    cache: RedisCache, gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.loses_swaps = True

    assert await cache.swap_chain(chain_of(old)) == [False] * 3
    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 1


@pytest.mark.parametrize(
    ("fault", "markers"), [(OutcomeUnknown("no answer"), 1), (StoreUnavailable("gone"), 0)], ids=["unknown", "not done"]
)
async def test_chain_of_unknown_outcome_prevents_fills(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock, fault: Exception, markers: int
) -> None:
    gated.records[GUID] = record(clock())
    gated.fault = fault

    assert await cache.swap_chain(chain_of(gated.records[GUID])) == [fault, False, False]
    await wait_until_idle(cache)
    assert raw.zcard(entry_key(raw, "w")) == markers


async def test_entry_of_another_guid_is_not_served(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("corrupt cache entry")
    gated.records[GUID] = record(clock())
    raw.set(entry_key(raw), b"R" + record(clock(), guid="0" * 32).model_dump_json().encode())

    assert await cache.get(GUID) == gated.records[GUID]


async def test_connection_closed_by_redis_costs_a_write_nothing(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    raw.client_kill_filter(_type="normal", skipme=True)

    assert await cache.swap(old, record(clock(), version=clock() + 1))


def test_connection_closed_locally_is_reopened(own_redis: Server, clock: FakeClock) -> None:
    async def scenario() -> None:
        gated = GatedStore()
        async with open_cache(own_redis.port, gated, clock) as cache:
            await wait_until_on(cache)
            old = gated.records[GUID] = record(clock())
            connection = cache._link._connection
            assert connection is not None
            assert connection._writer is not None
            connection._writer.transport.abort()  # uvloop reports this to the writer as a RuntimeError

            assert await cache.get(GUID) == old
            assert await cache.swap(old, None)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_forgotten_scripts_are_loaded_again(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    raw.script_flush()

    assert await cache.swap(old, record(clock(), version=clock() + 1))


async def test_two_stores_in_one_redis_are_separate(own_redis: Server, clock: FakeClock) -> None:
    stores = [GatedStore(), GatedStore()]
    async with (
        open_cache(own_redis.port, stores[0], clock, name="one") as first,
        open_cache(own_redis.port, stores[1], clock, name="another") as second,
    ):
        await wait_until_on(first, second)
        stores[0].records[GUID] = record(clock())

        assert await first.get(GUID) == stores[0].records[GUID]
        assert await second.get(GUID) is None
        assert await first.get(GUID) == stores[0].records[GUID]
        assert stores[0].gets == 1, "neither store replaced the epoch of the other"


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_reply_received_during_a_busy_loop_is_used(
    own_redis: Server, clock: FakeClock, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        gated = GatedStore()
        async with open_cache(own_redis.port, gated, clock, replace(QUICK_TIMEOUT_TIMING, fence_lease=60.0)) as cache:
            gated.current_fence = Fence(Mode.ON, 1, (await cache._link.begin_epoch(1)).name)
            await cache.monitor.refresh()
            gated.records[GUID] = record(clock(), metadata=json.dumps({"a": "x" * 16_000}))
            await cache.get(GUID)
            for _ in range(5):
                own_redis.pause()
                reads = [asyncio.create_task(cache.get(GUID)) for _ in range(50)]
                await run_ready_tasks(10)  # the request is sent in these turns
                own_redis.resume()
                busy_until = time.monotonic() + 2 * QUICK_TIMEOUT_TIMING.redis
                connection = cache._link._connection
                assert connection is not None
                replies = [connection._writer.get_extra_info("socket")]  # type: ignore[union-attr]
                while time.monotonic() < busy_until or not select.select(replies, [], [], 0)[0]:
                    pass
                assert await asyncio.gather(*reads) == [gated.records[GUID]] * 50
            assert gated.gets == 1
            await cache.check()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("timing", [LONG_LEASE_TIMING])
async def test_read_record_is_leased_to_the_process(
    cache: RedisCache, gated: GatedStore, own_redis: Server, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    gated.records[GUID] = record(clock())
    await cache.get(GUID)
    await wait_until_idle(cache)
    assert cache.get_nowait(GUID) == gated.records[GUID], "the fill has noted a lease"

    own_redis.pause()
    assert await cache.get(GUID) == gated.records[GUID]
    own_redis.resume()


@pytest.mark.parametrize("timing", [replace(LONG_LEASE_TIMING, lease=0.3)])
async def test_write_waits_for_leases_of_other_processes(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    await caches[0].get(GUID)
    await wait_until_idle(caches[0])
    await caches[1].get(GUID)
    assert caches[1].get_nowait(GUID) == old

    assert await caches[0].swap(old, new)
    assert caches[1].get_nowait(GUID) is WOULD_BLOCK, "its lease is over"
    assert await caches[1].get(GUID) == new


@pytest.mark.parametrize("timing", [replace(LONG_LEASE_TIMING, lease=30.0)])
async def test_write_does_not_wait_for_its_own_lease(cache: RedisCache, gated: GatedStore, clock: FakeClock) -> None:
    old = gated.records[GUID] = record(clock())
    await cache.get(GUID)
    await wait_until_idle(cache)
    started = time.monotonic()

    assert await cache.swap(old, None)
    assert time.monotonic() - started < 30.0, "it waited for its lease"
    assert cache.get_nowait(GUID) is WOULD_BLOCK


@pytest.mark.parametrize("timing", [LONG_LEASE_TIMING])
async def test_lease_is_no_longer_than_its_record_lives(cache: RedisCache, gated: GatedStore, clock: FakeClock) -> None:
    clock.now += 900  # 900 ms into the second at whose end it expires
    gated.records[GUID] = record(clock(), expire=clock.seconds + 1)
    await cache.get(GUID)
    await wait_until_idle(cache)
    leased = cache.get_nowait(GUID)
    while cache.get_nowait(GUID) is not WOULD_BLOCK:
        await asyncio.sleep(0.001)
    assert leased == gated.records[GUID]


@pytest.mark.parametrize("timing", [LONG_LEASE_TIMING])
async def test_outdated_fence_reading_grants_no_lease(cache: RedisCache, gated: GatedStore, clock: FakeClock) -> None:
    gated.records[GUID] = record(clock())
    await cache.get(GUID)
    await wait_until_idle(cache)
    gated.fence_gate.clear()
    while cache.monitor.usable:
        await asyncio.sleep(0.001)

    assert cache.get_nowait(GUID) is WOULD_BLOCK, "a read of the store would block"
    gated.fence_gate.set()


@pytest.mark.parametrize("timing", [replace(LONG_LEASE_TIMING, cool=60.0)])
async def test_often_written_record_is_not_leased_and_delays_no_write(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    await caches[0].swap(gated.records[GUID], record(clock(), version=clock() + 1))
    for number in range(2, 20):
        await caches[1].get(GUID)
        await wait_until_idle(caches[1])
        await caches[1].get(GUID)
        assert caches[1].get_nowait(GUID) is WOULD_BLOCK
        started = time.monotonic()
        assert await caches[0].swap(gated.records[GUID], record(clock(), version=clock() + number))
        assert time.monotonic() - started < LONG_LEASE_TIMING.lease, "it waited for a lease"


async def test_creation_skips_the_cache(
    cache: RedisCache, gated: GatedStore, own_redis: Server, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    own_redis.pause()
    assert await cache.swap(None, record(clock()))
    own_redis.resume()
    assert gated.current_fence.mode is Mode.ON


async def test_write_goes_to_the_store_once_no_process_uses_dead_redis(
    caches: list[RedisCache], own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN, OFF)
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    own_redis.kill()
    started = time.monotonic()

    assert await caches[0].swap(old, new)
    assert time.monotonic() - started > TIMING.fence_lease
    assert gated.current_fence.mode is Mode.OFF
    assert [await cache.get(GUID) for cache in caches] == [new, new]
    own_redis.start()
    await wait_until_on(*caches)
    assert [await cache.get(GUID) for cache in caches] == [new, new]


async def test_cache_is_logged_as_off_once_and_not_for_each_write(
    caches: list[RedisCache],
    own_redis: Server,
    gated: GatedStore,
    clock: FakeClock,
    expected_logs: ExpectedLogs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def off_lines() -> list[str]:
        return [line for entry in caplog.get_records("call") if OFF in (line := entry.getMessage())]

    expected_logs.add(DOWN, OFF, "cache fence unreadable")
    old = gated.records[GUID] = record(clock())
    own_redis.kill()
    gated.fence_fault = StoreUnavailable("database or disk is full")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await caches[0].swap(old, record(clock(), version=clock() + 1))
    assert off_lines() == []

    gated.fence_fault = None
    for number in range(2):
        assert await caches[0].swap(gated.records[GUID], record(clock(), version=clock() + number + 1))
    while any(cache.monitor._view is None or cache.monitor._view.fence.mode is not Mode.OFF for cache in caches):
        await asyncio.sleep(0.001)
    lines = off_lines()
    assert len(lines) == len(caches), "one line per process"
    assert sum("a write could not remove its record from Redis" in line for line in lines) == 1
    assert sum("another process has disabled it" in line for line in lines) == len(caches) - 1


async def test_only_the_first_write_waits_for_dead_redis(
    cache: RedisCache, own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN, OFF)
    gated.records[GUID] = record(clock())
    own_redis.kill()
    await cache.swap(gated.records[GUID], record(clock(), version=clock() + 1))
    started = time.monotonic()
    for number in range(2, 50):
        await cache.swap(gated.records[GUID], record(clock(), version=clock() + number))
    assert time.monotonic() - started < 48 * TIMING.fence_lease


async def test_flushed_redis_gets_a_new_boot(
    caches: list[RedisCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(OFF)
    gated.records[GUID] = record(clock())
    before = gated.current_fence
    raw.flushall()
    assert await caches[0].get(GUID) == gated.records[GUID]
    while gated.current_fence.mode is not Mode.ON or gated.current_fence.epoch == before.epoch:
        await asyncio.sleep(0.001)
    await wait_until_cached(caches[0], gated, gated.records[GUID])
    await wait_until_cached(caches[1], gated, gated.records[GUID])


async def test_write_survives_a_flush_without_stale_reads(
    caches: list[RedisCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(OFF)
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    writer, gate = await begin_write(caches[0], gated, old, new)
    raw.flushall()
    assert await caches[1].get(GUID) == old
    assert raw.keys("*:v:*") == [], "nothing is filled in without an epoch"
    gate.set()

    assert await writer
    assert [await cache.get(GUID) for cache in caches] == [new, new]


async def test_entries_restored_from_disk_are_never_served(
    gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs, tmp_path: Path
) -> None:
    expected_logs.add(DOWN, OFF)
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    with redis_server(tmp_path) as server:
        async with open_cache(server.port, gated, clock) as cache:
            await wait_until_on(cache)
            boot = gated.current_fence.epoch
            await cache.get(GUID)
            await wait_until_idle(cache)
            raw = redis.Redis(port=server.port)
            raw.save()
            await cache.swap(old, new)
            server.kill()
            server.start()
            assert any(GUID.encode() in key for key in raw.keys("*")), "the snapshot holds the old record"
            await cache.get(GUID)
            await wait_until_up(cache)

            assert await cache.get(GUID) == new
            while gated.current_fence.epoch == boot or not cache.monitor.usable:
                await asyncio.sleep(0.001)
            assert await cache.get(GUID) == new


async def test_silent_redis_costs_one_timeout_until_it_answers_again(
    cache: RedisCache, own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    gated.records[GUID] = record(clock())
    await cache.get(GUID)
    own_redis.pause()
    started = time.monotonic()
    assert await cache.get(GUID) == gated.records[GUID]
    assert time.monotonic() - started < 30, "far below the time of 1000 timeouts"
    with pytest.raises(CacheUnavailable):
        await cache.check()
    gated.gets = 0
    assert [await cache.get(GUID) for _ in range(1000)] == [gated.records[GUID]] * 1000
    assert gated.gets == 1000, "the circuit is open: no read waits for Redis"

    own_redis.resume()
    await wait_until_cached(cache, gated, gated.records[GUID])


async def test_redis_absent_at_the_start_is_used_when_it_comes(
    own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    own_redis.kill()
    gated.records[GUID] = record(clock())
    async with open_cache(own_redis.port, gated, clock) as cache:
        assert await cache.get(GUID) == gated.records[GUID]
        new = record(clock(), version=clock() + 1)
        assert await cache.swap(gated.records[GUID], new)
        own_redis.start()
        await wait_until_cached(cache, gated, new)


async def test_full_redis_fills_nothing_and_keeps_writes_consistent(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    raw.config_set("maxmemory", 1)

    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 2
    new = record(clock(), version=clock() + 1)
    assert await cache.swap(old, new)
    await cache.check()
    raw.config_set("maxmemory", 0)
    await wait_until_idle(cache)
    assert await cache.get(GUID) == new
    await wait_until_cached(cache, gated, new)


async def test_full_redis_grants_no_lease(
    own_redis: Server, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    async with (
        open_cache(own_redis.port, gated, clock, LONG_LEASE_TIMING) as first,
        open_cache(own_redis.port, gated, clock, LONG_LEASE_TIMING) as second,
    ):
        await wait_until_on(first, second)
        await first.get(GUID)
        await wait_until_idle(first)
        raw.config_set("maxmemory", 1)
        gated.gets = 0

        assert await second.get(GUID) == gated.records[GUID]
        assert gated.gets == 0, "the cache serves it"
        assert second.get_nowait(GUID) is WOULD_BLOCK
        raw.config_set("maxmemory", 0)


async def begin_and_finish(cache: RedisCache, guid: str) -> Record | None:
    """Read a record without a task until Redis has replied, as a plain GET does."""
    begun, has_replied = cache.begin_get(guid, "caller"), asyncio.Event()
    assert begun is not None
    begun.on_reply(has_replied.set)
    await has_replied.wait()
    return begun.record or await begun.finish()


@pytest.mark.parametrize("read", [RedisCache.get, begin_and_finish])
async def test_few_large_values_are_decoded_per_loop_turn(
    caches: list[RedisCache],
    gated: GatedStore,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[RedisCache, str], Awaitable[Record | None]],
) -> None:
    """However many a batch, or many requests, read, because all other requests wait for the end of a turn."""
    counter, metadata = TurnCounter(), f'{{"a":[{",".join(["[]"] * 5_000)}]}}'
    guids = [f"{number:032X}" for number in range(32)]
    gated.records |= {guid: record(clock(), guid=guid, metadata=metadata) for guid in guids}
    await asyncio.gather(*map(caches[0].get, guids))
    await wait_until_idle(caches[0])
    monkeypatch.setattr(record_module, "from_json", counter.counted(from_json))
    gated.gets = 0
    async with counter.following_turns():
        found = await asyncio.gather(*(read(caches[1], guid) for guid in guids))

    assert found == list(gated.records.values())
    assert gated.gets == 0
    assert 1 <= counter.most <= READERS


@pytest.mark.parametrize("value", [b"R", b"Rgarbage", b'R{"guid": 1}', b"R[]"])
async def test_invalid_entry_is_removed_and_the_store_is_read(
    cache: RedisCache,
    gated: GatedStore,
    raw: redis.Redis,
    clock: FakeClock,
    expected_logs: ExpectedLogs,
    value: bytes,
) -> None:
    expected_logs.add("corrupt cache entry")
    gated.records[GUID] = record(clock())
    raw.set(entry_key(raw), value)

    await wait_until_on(cache)
    assert await cache.get(GUID) == gated.records[GUID]
    await wait_until_idle(cache)
    assert raw.get(entry_key(raw)) is None
    await wait_until_cached(cache, gated, gated.records[GUID])


@pytest.mark.parametrize(
    "url", ["redis://host:port", "redis://h/0?socket_timeout=x", "redis://h/0?foo=bar", "redis://h/abc"]
)
async def test_malformed_url_stops_the_start(url: str) -> None:
    with pytest.raises(StartError, match="cache_url"):
        async with open_link(url, name=NAME, timing=TIMING):
            await run_ready_tasks()


async def test_leased_and_decoded_records_are_bounded_in_bytes(
    own_redis: Server, gated: GatedStore, clock: FakeClock
) -> None:
    guids = [f"{number:032X}" for number in range(100)]
    gated.records = {guid: record(clock(), guid=guid, user="u" * 200) for guid in guids}
    async with (
        open_cache(own_redis.port, gated, clock, LONG_LEASE_TIMING) as filler,
        open_cache(own_redis.port, gated, clock, LONG_LEASE_TIMING) as cache,
    ):
        await wait_until_on(filler, cache)
        cache._entries, cache._decodings = bounded(50_000, _weigh_entry), bounded(50_000, _weigh_decoding)
        for guid in guids:
            await filler.get(guid)
            await wait_until_idle(filler)
            await cache.get(guid)

        assert 10 <= len(cache._entries) < len(guids)
        assert 10 <= len(cache._decodings) < len(guids)
        assert max(cache._entries.current_size(), cache._decodings.current_size()) <= 50_000
        assert cache.get_nowait(guids[-1]) == gated.records[guids[-1]], "the latest read is cached"
        assert cache.get_nowait(guids[0]) is WOULD_BLOCK


async def test_many_records_are_read_in_one_step(
    cache: RedisCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    guids = [f"{number:032X}" for number in range(20)]
    for guid in guids:
        gated.records[guid] = record(clock(), guid=guid)
        await cache.get(guid)
    await wait_until_idle(cache)
    await asyncio.sleep(0.005)  # the leases expire
    calls_before = raw.info("commandstats")["cmdstat_evalsha"]["calls"]

    assert await asyncio.gather(*map(cache.get, guids)) == list(gated.records.values())
    calls = raw.info("commandstats")["cmdstat_evalsha"]["calls"] - calls_before
    assert calls < len(guids) / 2, "one read; the other calls check the epoch now and then"
    assert gated.gets == 20


# Counts of reads


def read_counts(cache: RedisCache) -> tuple[int, int, int]:
    """Return the numbers of reads served by l1, by redis, and by the store."""
    meter = cache._meter
    return meter.l1_hits, meter.redis_hits, meter.misses


@pytest.mark.parametrize("timing", [LONG_LEASE_TIMING])
async def test_every_read_is_counted_once_by_its_source(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    first, second = caches

    await first.get(GUID)
    await wait_until_idle(first)
    assert (read_counts(first), read_counts(second)) == ((0, 0, 1), (0, 0, 0))
    await first.get(GUID)
    assert first.get_nowait(GUID) is not WOULD_BLOCK
    assert read_counts(first) == (2, 0, 1)
    assert second.get_nowait(GUID) is WOULD_BLOCK
    await second.get(GUID)
    assert read_counts(second) == (0, 1, 0)
    await first.get("F" * 32)
    assert read_counts(first) == (2, 0, 2)


@pytest.mark.parametrize("is_nowait_hit", [True, False])
async def test_every_read_without_redis_counts_as_one_miss(
    own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs, is_nowait_hit: bool
) -> None:
    expected_logs.add(DOWN)
    own_redis.kill()
    gated.records[GUID] = record(clock())
    gated.is_nowait_hit = is_nowait_hit
    async with open_cache(own_redis.port, gated, clock) as cache:
        await cache.monitor.refresh()
        for guid in (GUID, "F" * 32):
            await cache.get(guid)
        assert read_counts(cache) == (0, 0, 2)
        assert (cache._meter.up, cache._meter.mode) == (False, "off")


async def test_background_work_is_not_part_of_its_request(
    cache: RedisCache, gated: GatedStore, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    trace = RequestTrace("a")
    tracing.CURRENT.set(trace)
    cancel_scope.CURRENT.set(CancelScope())
    contexts: list[tuple[object, object]] = []
    call = cache._link.call

    async def record_context(*arguments: Any, **keywords: Any) -> Any:
        if arguments[0] is FILL:  # the fence monitor calls Redis too
            contexts.append((tracing.CURRENT.get(), cancel_scope.CURRENT.get()))
        return await call(*arguments, **keywords)

    cache._link.call = record_context  # type: ignore[method-assign]
    await cache.get(GUID)
    durations = dict(trace.spent)
    await wait_until_idle(cache)

    assert durations.keys() == {"redis"}
    assert trace.source == "miss"
    assert contexts == [(None, None)], "the fill runs outside the request"
    assert trace.spent == durations
