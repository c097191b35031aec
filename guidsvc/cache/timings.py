"""Time limits of the cache protocol, which assumes only that all clocks run at nearly the same rate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheTimings:
    """Durations in seconds; `slack` is the maximum relative difference between clock rates."""

    redis: float = 0.1
    """Time limit for an answer of Redis; after it, Redis counts as unavailable."""
    entry: float = 600.0
    """Maximum lifetime of an entry. Unread entries must expire, because Redis must not evict anything."""
    lease: float = 0.25
    """Time for which a process may serve a value that it read from Redis, counted from the request."""
    cool: float = 1.0
    """Time for which no lease is granted on a key after BEGIN, so that the next write of the key need not wait."""
    token: float = 3.0
    """Time within which a reader may fill Redis with the value that it read from the store."""
    marker: float = 10.0
    """Time for which fills of a key stay blocked if its writer never sends END."""
    fence_lease: float = 2.0
    """Validity of a reading of the fence, counted from the request."""
    poll: float = 0.5
    """Interval between two readings of the fence."""
    begin: float = 0.3
    """Time for which a write waits for Redis to recover before it continues without Redis."""
    hold_down: float = 1.0
    """Time for which Redis must be healthy before it is used again; grows with repeated failures."""
    skew: float = 0.5
    """Maximum clock difference in a store that fails over, subtracted from the window of a write."""
    slack: float = 0.01

    def holder_seconds(self, seconds: float) -> float:
        """Return a lease duration as its holder must count it: shortened by the slack."""
        return seconds * (1 - self.slack)

    def waiter_seconds(self, seconds: float) -> float:
        """Return a lease duration as a process that waits for its end must count it: lengthened by the slack."""
        return seconds * (1 + self.slack)


def milliseconds(seconds: float) -> int:
    """Convert seconds to the whole milliseconds that Redis takes."""
    return round(seconds * 1000)
