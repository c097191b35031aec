"""The scheduler: executes the due steps of records, and trims the event log by age and size.

Every process runs it. The store checks that a step is due in the same atomic operation that executes it, so several
schedulers execute nothing twice, and need no election. A GUID expires at its second in any case; only its event can be
late.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Protocol

import structlog

from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import Database
from guidsvc.telemetry.outage import Outage

MIN_IDLE_SECONDS, MAX_IDLE_SECONDS = 0.25, 1.0
"""Pause before the next search for due steps. It doubles with each search that finds none."""
TRIM_SECONDS, TRIM_ENTRIES = 10.0, 500
RECEIPTS_SECONDS, RECEIPTS_CHUNK = 60.0, 50
"""Pause between two purges of receipts, and the number that is deleted at a time: few, as writes wait, and receipts may
be large.
"""

_log = structlog.get_logger(__name__)


class EventGauges(Protocol):
    """The measurements of the scheduler."""

    lag_seconds: float
    size_bytes: int
    oldest_seconds: float


class Scheduler:
    """The work of the scheduler on one store.

    The log keeps an entry for `retention_seconds`. Above `size_bytes`, the oldest entries are removed earlier.
    """

    def __init__(
        self, database: Database, *, clock: Clock, retention_seconds: int, size_bytes: int, gauges: EventGauges
    ) -> None:
        self._events = database.events
        self._receipts = database.receipts
        self._clock = clock
        self._retention_seconds = retention_seconds
        self._size_bytes = size_bytes
        self._gauges = gauges
        self._advances = _StepsOf(database.events.step_records)
        self._trims = _StepsOf(TRIM_ENTRIES)
        self._purges = _StepsOf(RECEIPTS_CHUNK)

    async def advance(self) -> int:
        """Execute all due steps; return the number of records."""

        async def step(limit: int) -> int:
            count = await self._events.advance(self._clock(), limit)
            self._gauges.lag_seconds = await self._events.lag(self._clock())
            return count

        return await self._advances.run(step)

    async def trim(self) -> int:
        """Trim the log by age and size; return the number of removed entries."""

        async def step(limit: int) -> int:
            before = self._clock() - self._retention_seconds * 1000
            return await self._events.trim(before, self._size_bytes, limit)

        count = await self._trims.run(step)
        self._gauges.size_bytes, oldest_at = await self._events.size()
        self._gauges.oldest_seconds = max(0, self._clock() - oldest_at) / 1000 if oldest_at else 0.0
        return count

    async def purge_receipts(self) -> int:
        """Delete all receipts whose retention has ended; return their number."""
        return await self._purges.run(lambda limit: self._receipts.purge(self._clock() // 1000, limit))


class _StepsOf:
    """Steps of at most `most` records, entries or receipts, that are repeated until nothing is left to do.

    A failure halves the limit, and each step that succeeds raises it by a tenth. A slow store may not do as much within
    its time limit, and would fail at the same step without end.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most

    async def run(self, step: Callable[[int], Awaitable[int]]) -> int:
        """Repeat a step until it does less than its limit; return the total.

        Pause in between for as long as a step took, so that clients have the store for half of the time.
        """
        total = 0
        while True:
            limit, begun = self._limit, monotonic()
            count = await self._do(step, limit)
            total += count
            if count < limit:
                return total
            await asyncio.sleep(monotonic() - begun)

    async def _do(self, step: Callable[[int], Awaitable[int]], limit: int) -> int:
        try:
            count = await step(limit)
        except (OutcomeUnknown, StoreUnavailable):
            self._limit = max(1, limit // 2)
            raise
        self._limit = min(limit + max(1, limit // 10), self._most)
        return count


@asynccontextmanager
async def running_scheduler(scheduler: Scheduler) -> AsyncIterator[None]:
    """Run a scheduler while the block runs."""
    advances = Outage(_log, "expiry schedule failed, retrying", "expiry schedule succeeded again")
    trims = Outage(_log, "event log trim failed, retrying", "event log trim succeeded again")
    purges = Outage(_log, "receipt purge failed, retrying", "receipt purge succeeded again")
    async with (
        running_in_background(lambda: _repeat(scheduler.advance, advances, MIN_IDLE_SECONDS, MAX_IDLE_SECONDS)),
        running_in_background(lambda: _repeat(scheduler.trim, trims, TRIM_SECONDS, TRIM_SECONDS)),
        running_in_background(lambda: _repeat(scheduler.purge_receipts, purges, RECEIPTS_SECONDS, RECEIPTS_SECONDS)),
    ):
        yield


async def _repeat(
    work: Callable[[], Awaitable[int]], outage: Outage, min_idle_seconds: float, max_idle_seconds: float
) -> None:
    """Repeat the work until cancelled. The pause doubles, up to a maximum, while there is nothing to do."""
    pause_seconds = min_idle_seconds
    while True:
        await asyncio.sleep(pause_seconds)
        try:
            done = await work()
            outage.end()
        except GuidsvcError as error:
            done = 0
            outage.begin(error=str(error), retry_in_seconds=max_idle_seconds)
        pause_seconds = min_idle_seconds if done else min(2 * pause_seconds, max_idle_seconds)
