"""Redis caches, opened as in a process of the service, but with shorter protocol times."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guidsvc.cache.redis.cache import RedisCache
from guidsvc.cache.redis.link import open_link
from guidsvc.cache.timings import CacheTimings
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock
from guidsvc.telemetry.metrics import CacheMetrics
from tests.support.gated_store import GatedStore

DOWN, OFF = "redis unavailable", "cache disabled, reading"
NAME = "gated"
TIMING = CacheTimings(redis=1.0, lease=0.001, fence_lease=0.6, poll=0.02, hold_down=0.05, skew=0.0, begin=0.1)
"""Shorter protocol times, with a lease so short that each read comes from Redis, and more time for Redis to answer."""


@asynccontextmanager
async def open_cache(
    at: int | str, store: GatedStore, clock: Clock, timing: CacheTimings = TIMING, name: str = NAME
) -> AsyncIterator[RedisCache]:
    """Open a cache within the block. `at` is the port of Redis, or its URL without the scheme."""
    meter = CacheMetrics()
    url = f"redis://{at}" if isinstance(at, str) else f"redis://127.0.0.1:{at}"
    async with open_link(url, name=name, timing=timing, meter=meter) as link:
        cache = RedisCache(store, store.fence, link, clock=clock, size_bytes=1_000_000, timing=timing, meter=meter)
        async with running_in_background(cache.monitor.keep):
            yield cache
            await cache.aclose()


async def wait_until_on(*caches: RedisCache) -> None:
    """Wait until all caches use Redis."""
    while not all(cache.monitor.usable and cache._link.up_since for cache in caches):
        await asyncio.sleep(0.001)


async def wait_until_idle(cache: RedisCache) -> None:
    """Wait until no background work is left."""
    await cache._background.drain()
