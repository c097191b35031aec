"""Limits: amounts in windows of time, counted across all processes. The library `limits` parses them."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from guidsvc.errors import CacheUnavailable
from guidsvc.runtime.clock import Clock

MAX_AMOUNT = 1_000_000_000
"""Maximum amount of a limit."""
MAX_SECONDS = 366 * 24 * 3600
"""Longest window of a limit: a year."""


class Counters(Protocol):
    """Counters that all processes share."""

    async def add(self, key: str, amount: int, seconds: int, *, before: int = 0) -> int:
        """Add `amount` to a counter that lives for at least `seconds`; return the sum, or raise CacheUnavailable.

        `before` is what this process has counted before: what the counter lacks of it is added, too.
        """


@dataclass(frozen=True, slots=True)
class Limit:
    """An amount for each window of `seconds`. Windows begin at multiples of these since 1970, in every process."""

    amount: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a limit such as `600/minute`. Return None for a blank text; raise ValueError if it is invalid."""
        if not text.strip():
            return None
        from limits import parse  # takes 5 % of the start, and is not needed while access is off

        try:
            item = parse(text)
        except ValueError:
            item = None
        has_several = any(mark in text for mark in ",;|")
        if item is None or has_several or not 1 <= item.amount <= MAX_AMOUNT or item.get_expiry() > MAX_SECONDS:
            raise ValueError(f"invalid limit {text!r}; use 20000/second, 600/minute, or an empty value for no limit")
        return cls(item.amount, item.get_expiry())

    def window(self, now: int) -> int:
        """Return the number of the window that contains a time in Unix milliseconds."""
        return now // (self.seconds * 1000)

    def end(self, window: int) -> int:
        """Return the end of a window in Unix milliseconds."""
        return (window + 1) * self.seconds * 1000

    def wait(self, now: int) -> int:
        """Return the seconds until the next window, rounded up, at least 1."""
        return -(-(self.end(self.window(now)) - now) // 1000)


class SharedLimit(NamedTuple):
    """A limit that all processes count together."""

    limit: Limit
    clock: Clock
    counters: Counters | None = None
    """The counters of all processes; None if this process is the only one."""
    share: float = 1.0
    """The part of the limit that this process uses while the counters are unavailable."""

    @property
    def local_amount(self) -> int:
        """The amount for this process while it counts alone: its share, at least 1."""
        return max(1, int(self.limit.amount * self.share))

    async def add(self, name: str, window: int, amount: int, *, before: int) -> int:
        """Add `amount` to the shared count of a name in a window, and return it; raise CacheUnavailable without one.

        `before` is what this process has counted before, in this window. The counter lives for two windows, because
        clocks of other processes may be behind.
        """
        if self.counters is None:
            raise CacheUnavailable("there are no shared counters")
        limit = self.limit
        key = f"{name}:{limit.amount}/{limit.seconds}:{window}"
        return await self.counters.add(key, amount, 2 * limit.seconds, before=before)
