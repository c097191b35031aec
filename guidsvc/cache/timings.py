"""The time limits of the cache protocol. All that it assumes of clocks is that they run at nearly the same rate."""

from collections.abc import Callable
from dataclasses import dataclass

MonotonicClock = Callable[[], float]
"""Returns seconds by a clock of this process that is never set, and goes on while the process stands still."""


@dataclass(frozen=True)
class CacheTimings:
    """Seconds; `slack` is the share by which clocks may differ in their rate."""

    redis: float = 0.1
    """In which Redis answers, or counts as unavailable."""
    entry: float = 600.0
    """For which an entry lives at most: those which nobody reads have to go, as Redis is to evict nothing."""
    lease: float = 0.25
    """For which a process may serve what it read from Redis, counted from when it asked."""
    cool: float = 1.0
    """For which no process may hold what has been written, so that one who writes it again need not wait for that."""
    token: float = 3.0
    """For which a reader may fill in what the store says."""
    marker: float = 10.0
    """For which nothing of a key is filled in, if its writer does not say that it is done."""
    fence_lease: float = 2.0
    """For which a look at the fence holds, counted from when it was asked for."""
    poll: float = 0.5
    """Between two looks."""
    begin: float = 0.3
    """How long a write waits for Redis to come back before it goes on without."""
    hold_down: float = 1.0
    """For which Redis has been well before it is used again; the longer, the more often it failed."""
    skew: float = 0.5
    """By which clocks of a store that fails over may differ, taken off the time that a write has."""
    slack: float = 0.01

    def held(self, seconds: float) -> float:
        """Return a lease as who holds it counts it."""
        return seconds * (1 - self.slack)

    def waited(self, seconds: float) -> float:
        """Return a lease as who waits for its end counts it."""
        return seconds * (1 + self.slack)


def milliseconds(seconds: float) -> int:
    """Return a time as Redis takes it."""
    return round(seconds * 1000)
