"""Calls to Redis of several callers: they take turns, and no exchange carries more than a bound."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from guidsvc.cache.redis.cache import FILL_BYTES, RedisCache
from guidsvc.cache.redis.link import PIPELINE, READ_BYTES
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.cancel_scope import CancelScope
from tests.conftest import FakeClock
from tests.support.backing_servers import Server
from tests.support.factories import record
from tests.support.gated_store import GatedStore
from tests.support.redis_cache import open_cache, wait_until_idle, wait_until_on

LARGE = '{"a":"' + "x" * 16_000 + '"}'


@pytest.fixture
async def gated() -> GatedStore:
    return GatedStore()


@pytest.fixture
async def caches(own_redis: Server, gated: GatedStore, clock: FakeClock) -> AsyncIterator[list[RedisCache]]:
    """Two caches on one Redis and one store."""
    async with AsyncExitStack() as stack:
        caches_ = [await stack.enter_async_context(open_cache(own_redis.port, gated, clock)) for _ in range(2)]
        await wait_until_on(*caches_)
        yield caches_


def insert(gated: GatedStore, clock: FakeClock, count: int, metadata: str | None = None) -> Sequence[str]:
    """Insert records into the store, and return their GUIDs."""
    guids = [f"{number:032X}" for number in range(count)]
    gated.records |= {guid: record(clock(), guid=guid, metadata=metadata) for guid in guids}
    return guids


async def fill(cache: RedisCache, guids: Sequence[str]) -> None:
    """Read the records one by one, so that all are cached."""
    for guid in guids:
        await cache.get(guid)
        await wait_until_idle(cache)


async def read_as(cache: RedisCache, guid: str, caller: str, order: list[str]) -> bytes:
    """Read a value in Redis in the name of a caller, and append the caller to the order of the replies."""
    scope = CancelScope()
    scope.caller = caller
    cancel_scope.CURRENT.set(scope)
    assert cache.monitor.usable is not None
    result = await cache._link.read(guid, cache.monitor.usable)
    order.append(caller)
    value: bytes = result.value
    return value


async def test_many_reads_of_one_caller_delay_no_other(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    order: list[str] = []
    guids = insert(gated, clock, 10)
    await fill(caches[0], guids)
    many = [asyncio.create_task(read_as(caches[1], guids[0], "many", order)) for _ in range(4 * PIPELINE)]
    few = [asyncio.create_task(read_as(caches[1], guid, "few", order)) for guid in guids]
    values = await asyncio.gather(*few)

    assert [value[1:] for value in values] == [found.model_dump_json().encode() for found in gated.records.values()]
    assert order.count("many") < PIPELINE
    await asyncio.gather(*many)


async def test_large_values_of_one_caller_delay_no_other(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    """They do not fit into one reply. The caller that comes while the first is on its way gets into the second."""
    order: list[str] = []
    guids = insert(gated, clock, 4 * READ_BYTES // len(LARGE), LARGE)
    await fill(caches[0], guids)
    many = [asyncio.create_task(read_as(caches[1], guid, "many", order)) for guid in guids]
    while not caches[1]._link._calls._calls:
        await asyncio.sleep(0)
    await read_as(caches[1], guids[0], "few", order)

    assert order.count("many") <= 2 * (READ_BYTES // len(LARGE) + 1)
    values = await asyncio.gather(*many)
    assert [value[1:] for value in values] == [found.model_dump_json().encode() for found in gated.records.values()]


async def test_records_being_cached_have_a_bound_in_bytes(
    caches: list[RedisCache], gated: GatedStore, clock: FakeClock
) -> None:
    """Beyond it, a record is read, but not cached."""
    guids = insert(gated, clock, 2 * FILL_BYTES // len(LARGE), LARGE)
    size = next(iter(gated.records.values())).memory_bytes
    assert await asyncio.gather(*map(caches[0].get, guids)) == list(gated.records.values())
    await wait_until_idle(caches[0])

    gated.gets = 0
    await asyncio.gather(*map(caches[1].get, guids))
    assert gated.gets == len(guids) - FILL_BYTES // size
