"""How often a caller may ask, in all processes together: limits, and the rations in which a process books them.

To ask Redis about each request would take too long. So a process books a part of what is left, and spends it without
asking. Where Redis does not answer it has its share of the limit. Knows neither HTTP, nor who the callers are, nor
where it is counted. (The library `limits`, whose name this module has too, reads limits, and counts them in Redis.)
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
"""What is left may be told as up to this part of the limit more."""
PARTS = 20
"""A ration is this part of the limit: so much of it may lie idle in each process at the end of a window."""
MOST = 1_000_000_000
"""The highest number that a limit may have."""
CALLERS = 10_000
"""So many rations are kept; whose was not asked for the longest has a new one when he comes back."""


class Counters(Protocol):
    """Counts that all processes share."""

    async def add(self, key: str, amount: int, seconds: int) -> int:
        """Count so many, for at least so many seconds, and return the count; CacheUnavailable if it is not told."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many in each window of so many seconds. Windows begin at multiples of these since 1970, in every process."""

    amount: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a limit, as `600/minute`; None if there is none; ValueError, which says what would be one."""
        if not text.strip():
            return None
        try:
            item = parse(text)
        except ValueError:
            item = None
        if item is None or not 1 <= item.amount <= MOST or any(mark in text for mark in ",;|"):
            raise ValueError(f"this is no limit: {text!r}; use 20000/second, 600/minute, or nothing for no limit")
        return cls(item.amount, item.get_expiry())

    def window(self, now: int) -> int:
        """Return the number of the window that a time, in Unix milliseconds, is in."""
        return now // (self.seconds * 1000)

    def end(self, window: int) -> int:
        """Return when a window ends, in Unix milliseconds."""
        return (window + 1) * self.seconds * 1000

    def wait(self, now: int) -> int:
        """Return in how many seconds, at least 1, the next window has begun."""
        return -(-(self.end(self.window(now)) - now) // 1000)

    def share(self, share: float) -> int:
        """Return what a process may have that counts by itself: its share, and at least 1."""
        return max(1, int(self.amount * share))

    async def count(self, counters: Counters | None, name: str, window: int, amount: int) -> int:
        """Count so many under a name, in a window, and return the count; CacheUnavailable if there is none to tell it.

        It is kept for longer than the window, for clocks that are behind.
        """
        if counters is None:
            raise CacheUnavailable("each process counts by itself")
        return await counters.add(f"{name}:{self.amount}/{self.seconds}:{window}", amount, 2 * self.seconds)


class RateAllowance:
    """What a caller may still ask for in this process before more has to be booked; void at the end of its window."""

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
        self._name = "requests:" + sha256(name.encode()).hexdigest()[:32]  # of one length, whatever callers are called
        self._limit = limit
        self._policy = f'RateLimit-Policy: "requests";q={limit.amount};w={limit.seconds}\r\n'
        self._counters = counters
        self._clock = clock
        self._share = share
        self._chunk = limit.amount if counters is None else max(1, limit.amount // PARTS)
        self._flight: asyncio.Task[None] | None = None
        self._window, self._end = -1, 0
        self._taken_at = 0  # when it was last asked for one
        self._told, self._told_until, self._told_down_to = "", 0, 0  # as which lines; and until when they are right
        self._left = 0  # of what was booked
        self._rest = limit.amount  # what there was to be booked still, when we last booked
        self._sure = False  # that the rest is what all processes have, so that nobody need be asked when it is none
        self._had = 0  # all that was booked in this window
        self._owed = 0  # of that, what the others do not know of, since it could not be told

    def try_spend(self) -> bool:
        """Spend one; False if there is none, and more has to be booked first."""
        if self._left:
            now = self._taken_at = self._clock()
            if now < self._end:
                self._left -= 1
                return True
        return False

    async def spend(self) -> None:
        """Spend one, and book more before where that is needed; RateLimited if there is none left in this window."""
        while not self.try_spend():
            await self.refill()

    async def refill(self) -> None:
        """Book more, once for all who wait for it; RateLimited if there is none left in this window.

        Others may have spent it when this returns: then `take` says so, and it is to be done again.
        """
        if not (self._sure and self._is_empty()):
            if self._flight is None:
                self._flight = spawn_detached(self._reserve())
            await asyncio.shield(self._flight)  # who goes away leaves it to the others
        if self._is_empty():
            wait = self._limit.wait(self._clock())
            raise RateLimited(
                f"There may be {self._limit.amount} requests in {self._limit.seconds} s: ask again in {wait} s.",
                wait,
                self.headers(),
            )

    def headers(self) -> dict[str, str]:
        """Return what tells a client of the limit and of what is left (draft-ietf-httpapi-ratelimit-headers-10)."""
        return dict(line.split(": ", 1) for line in self._render(self._clock()).splitlines())

    def lines(self) -> str:
        """Return the same as lines of a head, quickly, as each answer has them; it may tell up to a GRAIN too much."""
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
        """Begin a window, unless it is the one that we are in."""
        if window != self._window:
            self._window, self._end = window, self._limit.end(window)
            self._left = self._had = self._owed = 0

    async def _book_shared(self) -> None:
        """Book what all processes have left, at most a chunk; what we took while we could not tell is told with it.

        What is counted without our being told is lost to this window: there are too few then, never too many.
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
    """Never ends."""

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
"""What everybody has where there is no limit."""


class RateLimits:
    """The rations of all callers; `share` is the part of the limit that this process has where `counters` do not tell.

    Without counters there is this process alone.
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
        """Return the ration of a caller. It is the same one each time, while not too many others ask."""
        if self._make is None:
            return UNLIMITED
        ration: RateAllowance | None = self._rations.get(name)
        if ration is None:
            ration = self._make(name)
            self._rations.insert(name, ration)
        return ration
