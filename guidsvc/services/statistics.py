"""Statistics of all records: the numbers of live and expired ones, and of those that expire in each hour and day.

The store counts them with one pass over the index on the expiry. That takes a tenth of a second for a million records,
so one count serves all that ask within FRESH_SECONDS, and there is never more than one at a time.
"""

import asyncio
import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import NamedTuple

from guidsvc.domain.record import MAX_TIME
from guidsvc.errors import GuidsvcError, StoreUnavailable
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.background import SingleFlight
from guidsvc.runtime.clock import Clock, ContinuousClock, continuous_clock
from guidsvc.store.contract import RecordRepository

HOURS, DAYS = 24, 30
"""Numbers of hours and of days from now on whose expiring records are counted separately."""
HOUR_SECONDS, DAY_SECONDS = 3600, 86_400
FRESH_SECONDS = 10.0
"""Time for which the result of a count is reused for all requests."""
COUNT_SECONDS = 10.0
"""Time limit of a count."""


class RecordCounts(NamedTuple):
    """The numbers of records of all owners at a time."""

    at: int
    """The time, in Unix milliseconds, at which the hours and days begin; they are not calendar hours and days."""
    live: int
    expired: int
    """Expired records within their retention."""
    hours: tuple[int, ...]
    """Live records that expire in each of the next HOURS hours; an expiry at the end of an hour belongs to it."""
    days: tuple[int, ...]
    """The same for each of the next DAYS days. The first day is the sum of the hours."""


class RecordStatistics:
    """The last counts of all records. `timer` is in seconds."""

    def __init__(self, records: RecordRepository, clock: Clock, *, timer: ContinuousClock = continuous_clock) -> None:
        self._records = records
        self._clock = clock
        self._timer = timer
        self._counting = SingleFlight(self._count)  # it outlives the requests that wait for it
        self._counted_at = self._tried_at = -math.inf
        self.latest: RecordCounts | None = None
        """The result of the last count that succeeded; None before the first."""

    async def current(self) -> RecordCounts:
        """Return counts that are at most FRESH_SECONDS old. A request waits for them without its admission slot.

        Raise StoreUnavailable if the store cannot count in time.
        """
        if self.latest is not None and self._timer() - self._counted_at < FRESH_SECONDS:
            return self.latest
        async with _without_slot():
            return await self._counting.run()

    async def refresh(self, seconds: float) -> None:
        """Count if the last count, failed or not, ended FRESH_SECONDS ago; wait at most `seconds` for it."""
        if self._timer() - self._tried_at < FRESH_SECONDS:
            return
        with suppress(GuidsvcError, TimeoutError):  # `latest` stays, and the store counts its failures
            async with asyncio.timeout(seconds):
                await self._counting.run()

    async def aclose(self) -> None:
        """Cancel the count in progress, for which the store would wait at its end."""
        await self._counting.aclose()

    async def _count(self) -> RecordCounts:
        now = self._clock()
        try:
            async with asyncio.timeout(COUNT_SECONDS):
                counted = await self._records.count_by_expire(bounds_at(now), now // 1000)
        except TimeoutError as error:
            raise StoreUnavailable(f"counting all records took longer than {COUNT_SECONDS:g} s") from error
        finally:
            self._tried_at = self._timer()
        self.latest, self._counted_at = counts_of(now, counted), self._tried_at
        return self.latest


def bounds_at(now: int) -> list[int]:
    """Return the bounds between which records are counted: the expired ones, each hour, each further day, the rest.

    A record is live while its expiry is later than `now`, in Unix milliseconds. Bounds are whole seconds, as expiries
    are, so the part of a second that has passed changes no count.
    """
    seconds = now // 1000
    ends = [HOUR_SECONDS * hour for hour in range(HOURS + 1)] + [DAY_SECONDS * day for day in range(2, DAYS + 1)]
    return [0, *(min(seconds + end + 1, MAX_TIME + 1) for end in ends), MAX_TIME + 1]


def counts_of(now: int, counted: Sequence[int]) -> RecordCounts:
    """Return the statistics of what was counted between `bounds_at`."""
    expired, *living = counted
    hours, days = living[:HOURS], living[HOURS:-1]
    return RecordCounts(now, sum(living), expired, tuple(hours), (sum(hours), *days))


def _without_slot() -> AbstractAsyncContextManager[None]:
    """Return a block without the admission slot of the current request, which has one again after it."""
    scope = cancel_scope.CURRENT.get()
    return nullcontext() if scope is None or scope.without_slot is None else scope.without_slot(scope)
