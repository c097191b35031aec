"""Counters in Redis, shared by all processes, with an expiry. Independent of what they count.

Redis may lose them, by a restart or a flush. So each process also has the part that it has added, and adds again what
is missing. A full Redis counts, too: otherwise a client that fills it would switch off the limits of all processes.

After Redis times out or fails, `add` raises at once, without waiting, until Redis answers a probe, which is sent
every second.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import InvalidResponse, RedisError

from guidsvc.cache import is_private
from guidsvc.cache.redis.lua_scripts import COUNT
from guidsvc.cache.redis.pool import CONNECT_SECONDS, pool_of, reason, within
from guidsvc.errors import CacheUnavailable
from guidsvc.runtime.background import running_in_background
from guidsvc.telemetry.outage import Outage

PREFIX = "gs:limit"
CONNECTIONS = 4
TIMEOUT_SECONDS = 0.1
"""Time limit for an answer of Redis; after it, Redis counts as unavailable."""
PROBE_SECONDS = 1.0
"""Pause between two probes."""
REPORTED_FAILURES = 2
"""Consecutive failures before a warning is logged: a single one may be a closed connection."""

_FAULTS = (RedisError, OSError, TimeoutError, RuntimeError)  # the last is uvloop's, of a closed transport
_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_counters(
    url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, probe_seconds: float = PROBE_SECONDS
) -> AsyncIterator["RedisCounters | None"]:
    """Open the counters in the Redis of the cache that a URL names; None if that cache is private to this process.

    An unreachable Redis is not an error: it is used once it answers. StartError if the URL is invalid.
    """
    if is_private(url):
        yield None
        return
    pool: Any = pool_of(url, BlockingConnectionPool, max_connections=CONNECTIONS, timeout=None)
    counters = RedisCounters(Redis(connection_pool=pool), timeout_seconds=timeout_seconds, probe_seconds=probe_seconds)
    try:
        async with running_in_background(counters.keep):
            await counters.first_probe_done.wait()
            yield counters
    finally:
        await pool.aclose()


class RedisCounters:
    """Counters in the Redis of `client`, which must answer within `timeout_seconds`.

    If it does not, it is probed every `probe_seconds`.
    """

    def __init__(self, client: Redis, *, timeout_seconds: float, probe_seconds: float) -> None:
        self._client = client
        self._count = client.register_script(COUNT.source)
        self._process = token_hex(8)
        self._timeout_seconds = timeout_seconds
        self._probe_seconds = probe_seconds
        self._outage = Outage(
            _log,
            "redis unavailable, counting limits in each process",
            "redis available again, counting limits in redis",
        )
        self._failures = 0  # since the last successful count
        self._down = asyncio.Event()
        self._down.set()
        self.first_probe_done = asyncio.Event()
        """Set once the first probe has finished."""

    @property
    def up(self) -> bool:
        """Whether requests are sent to Redis."""
        return not self._down.is_set()

    async def add(self, key: str, amount: int, seconds: int, *, before: int = 0) -> int:
        """Add an amount, which lasts at least `seconds`, and return the total of all processes.

        `before` is what this process has added to it, or counted while Redis was down. What is missing of it is added,
        too.

        CacheUnavailable if Redis does not answer; the amount may have been added nevertheless.
        """
        if not self.up:
            raise CacheUnavailable("Redis does not answer")
        try:
            name = f"{PREFIX}:{key}"
            count: object = await within(
                self._timeout_seconds,
                self._count([name, f"{name}:{self._process}"], [before, amount, seconds * 1000]),
            )
            if not isinstance(count, int) or count < amount:
                await self._client.connection_pool.disconnect()
                raise InvalidResponse("the reply is no count")
        except _FAULTS as error:
            self._note_failure(reason(error))
            raise CacheUnavailable(f"Redis: {reason(error)}") from error
        self._failures = 0
        self._outage.end()
        return count

    async def keep(self) -> None:
        """Probe Redis while it is down, until cancelled."""
        while True:
            try:
                if await self._is_up():
                    self._down.clear()
                else:
                    self._note_failure("Redis does not answer")
            finally:  # after a fault too, because the start waits for it
                self.first_probe_done.set()
            await self._down.wait()
            await asyncio.sleep(self._probe_seconds)

    async def _is_up(self) -> bool:
        try:
            await within(CONNECT_SECONDS, self._ping())
            return await within(self._timeout_seconds, self._ping())
        except _FAULTS:
            return False

    async def _ping(self) -> bool:
        return await self._client.ping() is True

    def _note_failure(self, why: str) -> None:
        self._down.set()
        self._failures += 1
        if self._failures == REPORTED_FAILURES:
            self._outage.begin(error=why)
