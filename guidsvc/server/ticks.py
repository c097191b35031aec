"""The clock for time-outs. It stops while the process is stopped."""

import asyncio

TICK_SECONDS = 0.5
"""Interval between scans for timed-out connections."""
SCANNED_PER_SECOND = 20_000
"""Connections that a shutdown examines per second, in scans of all that are left; more if a scan per tick is more."""


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


def ticks_between_scans(connections: int, tick_seconds: float) -> int:
    """Return the number of short ticks between two scans of so many connections; together at most TICK_SECONDS."""
    pause_seconds = min(TICK_SECONDS, connections / SCANNED_PER_SECOND)
    return max(1, int(pause_seconds / tick_seconds))
