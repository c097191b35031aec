"""Counts that all processes share, in Redis; each is forgotten after a time. Knows nothing of what is counted.

When Redis does not answer in time, or refuses, nobody waits for it again until it has answered a question of our own,
asked every second: whoever counts is told so at once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from guidsvc.cache import is_private
from guidsvc.cache.redis_pool import CONNECT_SECONDS, pool_of, reason, within
from guidsvc.errors import CacheUnavailable
from guidsvc.runtime.background import running_in_background

PREFIX = "gs:limit"
CONNECTIONS = 4
ANSWER_SECONDS = 0.1
"""In which Redis answers, or counts as unavailable."""
PAUSE_SECONDS = 1.0
"""Between two tries to reach it."""
NEWS = 2
"""So many faults, one after the other, are told: one may be a connection that was closed."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_counters(
    url: str, *, answer: float = ANSWER_SECONDS, pause: float = PAUSE_SECONDS
) -> AsyncIterator["RedisCounters | None"]:
    """Open what counts in the Redis of the cache that a URL names; None if that cache is in this process alone.

    A Redis that does not answer is no error: it is used when it does. StartError if the URL makes no sense.
    """
    if is_private(url):
        yield None
        return
    pool: Any = pool_of(url, BlockingConnectionPool, max_connections=CONNECTIONS, timeout=None)
    storage = RedisStorage("async+redis://", implementation="redispy", key_prefix=PREFIX, connection_pool=pool)
    counters = RedisCounters(storage, answer=answer, pause=pause)
    try:
        async with running_in_background(counters.keep):
            await counters.tried.wait()
            yield counters
    finally:
        await pool.aclose()


class RedisCounters:
    """Counts in `storage`, which answers within `answer` seconds; else it is tried again every `pause` seconds."""

    def __init__(self, storage: RedisStorage, *, answer: float, pause: float) -> None:
        self._storage = storage
        self._answer = answer
        self._pause = pause
        self._faults = 0  # since it last counted something
        self._down = asyncio.Event()
        self._down.set()
        self.tried = asyncio.Event()
        """Set as soon as it is known whether Redis answers."""

    @property
    def up(self) -> bool:
        """Whether Redis is asked."""
        return not self._down.is_set()

    async def add(self, key: str, amount: int, seconds: int) -> int:
        """Count so many, for at least so many seconds, and return the count, of all processes.

        CacheUnavailable if Redis does not answer; it may have been counted all the same.
        """
        if not self.up:
            raise CacheUnavailable("Redis does not answer")
        try:
            count = await within(self._answer, self._storage.incr(key, seconds, amount))
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:  # uvloop's, of a transport that is closed
            self._failed(reason(error))
            raise CacheUnavailable(f"Redis: {reason(error)}") from error
        if self._faults >= NEWS:
            _log.info("limits are counted in Redis again")
        self._faults = 0
        return count

    async def keep(self) -> None:
        """Look whether Redis answers while it is not asked, until cancelled."""
        while True:
            try:
                if await self._answers():
                    self._down.clear()
                else:
                    self._failed("it does not answer")
            finally:  # after a fault, too: the start waits for it
                self.tried.set()
            await self._down.wait()
            await asyncio.sleep(self._pause)

    async def _answers(self) -> bool:
        try:
            return await within(CONNECT_SECONDS, self._storage.check()) and await within(
                self._answer, self._storage.check()
            )
        except TimeoutError:
            return False

    def _failed(self, why: str) -> None:
        self._down.set()
        self._faults += 1
        if self._faults == NEWS:
            _log.warning("cache is down, limits are counted in each process by itself", error=why)
