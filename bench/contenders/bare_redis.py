"""A bare loop over redis.asyncio, without HTTP or anything else: the limit of the paths that end in Redis.

    python -m bench.contenders.bare_redis URL SECONDS

So many tasks as the load has connections get one value again and again. Prints reads a second.
"""

import asyncio
import sys
import time

import uvloop
from redis.asyncio import Redis

from bench.contenders.fixed import BODY
from bench.wrk import CONNECTIONS


async def main(url: str, seconds: float) -> float:
    """Read for so long; return how many reads a second."""
    async with Redis.from_url(url) as redis:
        await redis.set("bare", BODY)
        begun = time.perf_counter()
        counts = await asyncio.gather(*(_read(redis, begun + seconds) for _ in range(CONNECTIONS)))
        return sum(counts) / (time.perf_counter() - begun)


async def _read(redis: Redis, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        await redis.get("bare")
        count += 1
    return count


if __name__ == "__main__":
    print(uvloop.run(main(sys.argv[1], float(sys.argv[2]))))
