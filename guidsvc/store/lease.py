"""The end of a lease by the store's clock: the latest time at which a write under it may take effect.

A process may stand still between its last look at a lease and the write, so the store itself must reject a write that
comes too late (`not_after` of `Store.swap`). The store knows only its own clock; this converts from ours.
"""

import time
from collections.abc import Callable
from math import floor

from guidsvc.store.cache_fence import Clocked

Timer = Callable[[], float]
"""Returns seconds by a clock of this process that is never set, and goes on while the process stands still."""

FRESH_SECONDS = 1.0
"""The store's clock is read again if the last look is older than this: clocks drift apart."""
SLACK = 0.01
"""The share by which clocks may differ in their rate."""
SKEW_SECONDS = 0.5
"""The difference between the clocks of the members of a store that fails over."""


class LeaseClock:
    """The clock of a store, as this process last saw it."""

    def __init__(self, store: Clocked, *, timer: Timer = time.monotonic) -> None:
        self._store = store
        self.timer = timer
        self._seen = float("-inf")
        self._now = 0

    async def not_after(self, deadline: float) -> int:
        """Return a deadline by our timer as `Store.swap` takes it: never later, whatever the two clocks do.

        StoreUnavailable if the store's clock cannot be read.
        """
        if self.timer() - self._seen >= FRESH_SECONDS:
            sight = await self._store.fence()
            self._now, self._seen = sight.now, self.timer()
        left = deadline - self._seen
        return self._now + floor((left - abs(left) * SLACK - SKEW_SECONDS) * 1000)


def earliest(one: int | None, other: int | None) -> int | None:
    """Return the earlier of two deadlines, of which either may be none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
