"""Time limits and conditions for tests of counters in Redis."""

import asyncio

from guidsvc.cache.redis.counters import RedisCounters

DOWN = "redis unavailable, counting limits"
PATIENT = 30.0
"""Time limit of Redis in a test that is not about slowness: long enough for a busy machine."""


async def until_up(counters: RedisCounters, *, up: bool = True) -> None:
    """Return when the counters use Redis, or no longer do."""
    while counters.up is not up:
        await asyncio.sleep(0.001)
