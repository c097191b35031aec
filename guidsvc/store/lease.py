"""The end of a lease by the store's clock: the latest time at which a write under the lease may take effect.

A process may be suspended between its last check of a lease and the write, so the store itself must reject a late
write (`not_after` of `RecordRepository.swap`). The store knows only its own clock; this module converts from the local
timer.
"""

from math import floor

from guidsvc.runtime.background import SingleFlight
from guidsvc.runtime.clock import ContinuousClock, continuous_clock
from guidsvc.store.cache_fence import FenceReader

FRESH_SECONDS = 1.0
"""Maximum age of a reading of the store's clock, in seconds, because clocks drift apart."""
SLACK = 0.01
"""Maximum relative difference between clock rates."""
SKEW_SECONDS = 0.5
"""Maximum difference, in seconds, between the clocks of the members of a store that fails over."""


class LeaseClock:
    """The store's clock, estimated from its last reading."""

    def __init__(self, fence: FenceReader, *, timer: ContinuousClock = continuous_clock) -> None:
        self._fence = fence
        self.timer = timer
        self._reading = SingleFlight(self._read)
        self._seen = float("-inf")
        self._now = 0

    async def not_after(self, deadline: float) -> int:
        """Convert a deadline by the local timer to the `not_after` of a swap.

        The result is never later, however the clocks differ. Unavailable if the store's clock cannot be read.
        """
        if self.timer() - self._seen >= FRESH_SECONDS:
            await self._reading.run()
        left = deadline - self._seen
        return self._now + floor((left - abs(left) * SLACK - SKEW_SECONDS) * 1000)

    async def store_time(self, local_time: float) -> int:
        """Convert a time by the local timer to the store's clock, without the margins of `not_after`.

        The result is late by what the clocks drift apart within FRESH_SECONDS, and by SKEW_SECONDS at most after a
        failover.
        """
        if self.timer() - self._seen >= FRESH_SECONDS:
            await self._reading.run()
        return self._now + floor((local_time - self._seen) * 1000)

    async def _read(self) -> None:
        reading = await self._fence.read()
        self._now, self._seen = reading.now, self.timer()


def earliest(one: int | None, other: int | None) -> int | None:
    """Return the earlier of two deadlines; None means no deadline."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
