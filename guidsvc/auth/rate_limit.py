"""Rate limits across all processes, and the allowances that a process reserves from them.

A Redis call for each request would take too long. So a process reserves a part of the remaining quota in advance, and
spends it locally. While Redis is unavailable, the process uses its share of the limit. This module knows neither HTTP
nor how callers authenticate nor where counters are stored. The library `limits` parses the limits.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, Self

from cachebox import LRUCache
from limits import parse

from guidsvc.errors import CacheUnavailable, RateLimited
from guidsvc.runtime.background import spawn_detached
from guidsvc.runtime.clock import Clock

GRANULARITY = 1000
"""`RateLimit: r=` may overstate the remaining quota by at most limit/GRANULARITY."""
PARTS = 20
"""A process reserves limit/PARTS at a time; up to that much may stay unused in each process at the window's end."""
MOST = 1_000_000_000
"""Maximum amount of a limit."""
CALLERS = 10_000
"""Maximum number of cached allowances; the least recently used is evicted and recreated on demand."""


class Counters(Protocol):
    """Counters that all processes share."""

    async def add(self, key: str, amount: int, seconds: int) -> int:
        """Add `amount` to a counter that lives for at least `seconds`; return the sum, or raise CacheUnavailable."""


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
        try:
            item = parse(text)
        except ValueError:
            item = None
        if item is None or not 1 <= item.amount <= MOST or any(mark in text for mark in ",;|"):
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

    def share(self, share: float) -> int:
        """Return the limit of a process that counts alone: its share, at least 1."""
        return max(1, int(self.amount * share))

    async def count(self, counters: Counters | None, name: str, window: int, amount: int) -> int:
        """Add `amount` to the shared count of a name in a window, and return it; raise CacheUnavailable without one.

        The counter lives for two windows, because clocks of other processes may be behind.
        """
        if counters is None:
            raise CacheUnavailable("there are no shared counters")
        return await counters.add(f"{name}:{self.amount}/{self.seconds}:{window}", amount, 2 * self.seconds)


class RateAllowance:
    """The requests that this process has reserved for a caller; void at the end of their window."""

    __slots__ = (
        "_chunk",
        "_clock",
        "_counters",
        "_end",
        "_flight",
        "_had",
        "_left",
        "_limit",
        "_name",
        "_owed",
        "_policy",
        "_rest",
        "_share",
        "_sure",
        "_taken_at",
        "_told",
        "_told_down_to",
        "_told_until",
        "_window",
    )

    def __init__(self, name: str, limit: Limit, counters: Counters | None, clock: Clock, share: int) -> None:
        self._name = "requests:" + sha256(name.encode()).hexdigest()[:32]  # of fixed length for any caller name
        self._limit = limit
        self._policy = f'RateLimit-Policy: "requests";q={limit.amount};w={limit.seconds}\r\n'
        self._counters = counters
        self._clock = clock
        self._share = share
        self._chunk = limit.amount if counters is None else max(1, limit.amount // PARTS)
        self._flight: asyncio.Task[None] | None = None
        self._window, self._end = -1, 0
        self._taken_at = 0  # time of the last spent request
        self._told, self._told_until, self._told_down_to = "", 0, 0  # rendered headers, and their validity
        self._left = 0  # reserved and unspent
        self._rest = limit.amount  # quota that remained to be reserved after the last reservation
        self._sure = False  # whether `_rest` is authoritative: if it is 0, no reservation is tried in this window
        self._had = 0  # all reservations of this window
        self._owed = 0  # of these, what the shared counters do not include yet, because they were unavailable

    def try_spend(self) -> bool:
        """Spend one request; return False if more must be reserved first."""
        if self._left:
            now = self._taken_at = self._clock()
            if now < self._end:
                self._left -= 1
                return True
        return False

    async def spend(self) -> None:
        """Spend one request, reserving more if needed; raise RateLimited if this window's quota is used up."""
        while not self.try_spend():
            await self.refill()

    async def refill(self) -> None:
        """Reserve more, once for all waiting requests; raise RateLimited if this window's quota is used up.

        Other requests may have spent it when this returns: then `try_spend` returns False, and the caller must retry.
        """
        if not (self._sure and self._is_empty()):
            if self._flight is None:
                self._flight = spawn_detached(self._reserve())
            await asyncio.shield(self._flight)  # a cancelled request must not cancel it for the others
        if self._is_empty():
            wait = self._limit.wait(self._clock())
            raise RateLimited(
                f"The limit is {self._limit.amount} requests in {self._limit.seconds} s; retry in {wait} s.",
                wait,
                self.headers(),
            )

    def headers(self) -> dict[str, str]:
        """Return the RateLimit headers: limit and remaining quota (draft-ietf-httpapi-ratelimit-headers-10)."""
        return dict(line.split(": ", 1) for line in self._render(self._clock()).splitlines())

    def lines(self) -> str:
        """Return the same as header lines, cached for speed; `r=` may be limit/GRANULARITY too high."""
        if self._left > self._told_down_to and self._taken_at < self._told_until:
            return self._told
        return self._render(self._clock())

    def _render(self, now: int) -> str:
        amount = self._limit.amount
        left = self._left + self._rest if now < self._end else amount
        wait = self._limit.wait(now)
        self._told = f'{self._policy}RateLimit: "requests";r={left};t={wait}\r\n'
        self._told_down_to, self._told_until = self._left - amount // GRANULARITY - 1, now - now % 1000 + 1000
        return self._told

    def _is_empty(self) -> bool:
        return not (self._left or self._rest) and self._limit.window(self._clock()) == self._window

    async def _reserve(self) -> None:
        try:
            self._enter(self._limit.window(self._clock()))
            await self._book_shared()
        except CacheUnavailable:
            self._book_alone()
        finally:
            self._flight = None

    def _enter(self, window: int) -> None:
        """Begin a window, unless it is the current one."""
        if window != self._window:
            self._window, self._end = window, self._limit.end(window)
            self._left = self._had = self._owed = 0

    async def _book_shared(self) -> None:
        """Reserve up to a chunk of the shared quota, and report what was reserved while the counters were unavailable.

        A reservation whose reply is lost stays unused in this window: too few requests are allowed, never too many.
        """
        owed = self._owed
        count = await self._limit.count(self._counters, self._name, self._window, self._chunk + owed)
        self._owed -= owed
        amount = self._limit.amount
        self._give(min(self._chunk, max(0, amount - count + self._chunk)), max(0, amount - count))
        self._sure = True

    def _book_alone(self) -> None:
        free = max(0, self._share - self._had)
        given = min(self._chunk, free)
        self._owed += given
        self._give(given, free - given)
        self._sure = self._counters is None

    def _give(self, given: int, rest: int) -> None:
        self._left += given
        self._had += given
        self._rest = rest
        self._told_until = 0


class _Unlimited(RateAllowance):
    """An allowance without limit."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def try_spend(self) -> bool:
        return True

    async def refill(self) -> None:
        pass

    def headers(self) -> dict[str, str]:
        return {}

    def lines(self) -> str:
        return ""


UNLIMITED: RateAllowance = _Unlimited()
"""The allowance of every caller if no limit is configured."""


class RateLimits:
    """The allowances of all callers.

    `share` is the part of the limit that this process uses while `counters` are unavailable. Without counters, this
    process is the only one.
    """

    def __init__(
        self,
        limit: Limit | None,
        counters: Counters | None = None,
        *,
        clock: Clock,
        share: float = 1.0,
        callers: int = CALLERS,
    ) -> None:
        self._make: Callable[[str], RateAllowance] | None = None
        if limit is not None:
            part = limit.share(share)
            self._make = lambda name: RateAllowance(name, limit, counters, clock, part)
        self._rations: LRUCache[str, RateAllowance] = LRUCache(callers)

    def allowance_for(self, name: str) -> RateAllowance:
        """Return the allowance of a caller: the same object each time, unless it was evicted (CALLERS)."""
        if self._make is None:
            return UNLIMITED
        ration: RateAllowance | None = self._rations.get(name)
        if ration is None:
            ration = self._make(name)
            self._rations.insert(name, ration)
        return ration
