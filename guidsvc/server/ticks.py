"""The clock for time-outs. It stops while the process is stopped."""

import asyncio

TICK_SECONDS = 0.5
"""Interval between scans for timed-out connections."""


class Ticks:
    """A clock that advances by at most two ticks per call of `advance`.

    A later call means that the process or its machine was stopped. Data that clients sent meanwhile could not be read,
    so that time counts against no client.
    """

    def __init__(self) -> None:
        self.now = self._last_time = asyncio.get_running_loop().time()

    def advance(self) -> float:
        """Advance the clock, by at most two ticks, and return its time."""
        now = asyncio.get_running_loop().time()
        self.now += min(now - self._last_time, 2 * TICK_SECONDS)
        self._last_time = now
        return self.now
