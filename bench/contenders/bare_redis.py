"""A bare loop over redis.asyncio, without HTTP or anything else: the limit of the paths that end in Redis.

    python -m bench.contenders.bare_redis URL SECONDS

As many tasks as the load has connections read one value repeatedly. It prints reads per second.
"""

import asyncio
import sys
import time

import uvloop
from redis.asyncio import Redis

from bench.contenders.fixed import BODY
from bench.wrk import CONNECTIONS


async def main(url: str, seconds: float) -> float:
    """Read for some seconds; return the reads per second."""
    async with Redis.from_url(url) as redis:
        await redis.set("bare", BODY)
        start = time.perf_counter()
        counts = await asyncio.gather(*(_read(redis, start + seconds) for _ in range(CONNECTIONS)))
        return sum(counts) / (time.perf_counter() - start)


async def _read(redis: Redis, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        await redis.get("bare")
        count += 1
    return count


if __name__ == "__main__":
    print(uvloop.run(main(sys.argv[1], float(sys.argv[2]))))
