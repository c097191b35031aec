"""Rate limits across all processes, and the allowances that a process reserves from them.

A Redis call for each request would take too long. So a process reserves a part of the remaining quota in advance, and
spends it locally. While Redis is unavailable, the process uses its share of the limit. This module knows neither HTTP
nor how callers authenticate nor where counters are stored.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple
from weakref import WeakValueDictionary

from cachebox import LRUCache

from guidsvc.auth.evicted_counts import EvictedCounts
from guidsvc.auth.fixed_window import SharedLimit
from guidsvc.errors import CacheUnavailable, RateLimited
from guidsvc.errors.plurals import counted
from guidsvc.runtime.background import spawn_detached

GRANULARITY = 1000
"""`RateLimit: r=` may overstate the remaining quota by at most limit/GRANULARITY."""
PARTS = 20
"""A process reserves limit/PARTS at a time; up to that much may stay unused in each process at the window's end."""
CALLERS = 10_000
"""Maximum number of cached allowances, besides those of sessions. The least recently used is evicted.

It is recreated on demand, with what it has spent in its window.
"""


class RateUsage(NamedTuple):
    """A limit, its window in seconds, and the requests left in the current window."""

    limit: int
    seconds: int
    left: int


class RateAllowance:
    """The requests that this process has reserved for a caller. They expire at the end of their window."""

    __slots__ = (
        "__weakref__",
        "_chunk",
        "_clock",
        "_evicted",
        "_header_lines",
        "_is_authoritative",
        "_limit",
        "_lines_valid_above",
        "_lines_valid_until",
        "_local_limit",
        "_name",
        "_policy",
        "_remaining",
        "_reservation",
        "_reserved",
        "_shared_limit",
        "_spent_at",
        "_unreserved",
        "_waiting",
        "_window",
        "_window_end",
    )

    def __init__(self, name: str, shared_limit: SharedLimit, evicted: EvictedCounts) -> None:
        limit = shared_limit.limit
        self._evicted = evicted
        self._name = "requests:" + sha256(name.encode()).hexdigest()[:32]  # of fixed length for any caller name
        self._shared_limit = shared_limit
        self._limit = limit
        self._policy = b'RateLimit-Policy: "requests";q=%d;w=%d\r\n' % (limit.amount, limit.seconds)
        self._clock = shared_limit.clock
        self._local_limit = shared_limit.local_amount
        self._chunk = limit.amount if shared_limit.counters is None else max(1, limit.amount // PARTS)
        self._reservation: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[bool]] = deque()  # requests that wait for it: whether it spent for them
        self._window, self._window_end = -1, 0
        self._spent_at = 0  # time of the last spent request
        self._header_lines = b""  # rendered headers, and their validity: a time, and a minimum of `_remaining`
        self._lines_valid_until, self._lines_valid_above = 0, 0
        self._remaining = 0  # reserved and unspent
        self._unreserved = limit.amount  # quota that remained to be reserved after the last reservation
        self._is_authoritative = False  # `_unreserved` is: if it is 0, no reservation is tried in this window
        self._reserved = 0  # all reservations of this window

    def __del__(self) -> None:
        """Remember what was spent in this window, for the next allowance of the same caller."""
        self._evicted.add(self._name, self._window, self._reserved - self._remaining)

    def try_spend(self) -> bool:
        """Spend one request; return False if more must be reserved first."""
        if self._remaining:
            now = self._spent_at = self._clock()
            if now < self._window_end:
                self._remaining -= 1
                return True
        return False

    def try_spend_with_lines(self) -> bytes | None:
        """Spend one request, and return `header_lines`; return None if more must be reserved first.

        It repeats them both: each cached read makes one call instead of two.
        """
        remaining = self._remaining
        if not remaining:
            return None
        now = self._spent_at = self._clock()
        if now >= self._window_end:
            return None
        remaining -= 1
        self._remaining = remaining
        if remaining > self._lines_valid_above and now < self._lines_valid_until:
            return self._header_lines
        return self._render(now)

    async def spend(self) -> None:
        """Spend one request, reserving more if needed; raise RateLimited if this window's quota is used up."""
        if not self.try_spend():
            await self.refill()

    async def refill(self) -> None:
        """Reserve more, and spend one request of it; raise RateLimited if this window's quota is used up.

        Concurrent calls share a reservation, which spends for all of them. None looks at the clock again when it
        resumes: while the event loop lags, the window may have ended by then, in every attempt.
        """
        if self._shared_limit.counters is None:
            self._begin_window(self._limit.window(self._clock()))
            if not self._remaining:
                self._reserve_local(self._chunk)
        elif not (self._is_authoritative and self._is_empty()):
            return await self._spend_reserved()
        if not self._remaining:
            raise self._used_up()
        self._spend_one()
        return None

    def usage(self) -> RateUsage | None:
        """Return the use of the limit; None without a limit."""
        return RateUsage(self._limit.amount, self._limit.seconds, self._left(self._clock()))

    def headers(self) -> dict[str, str]:
        """Return the RateLimit headers: limit and remaining quota (draft-ietf-httpapi-ratelimit-headers-10)."""
        return dict(line.split(": ", 1) for line in self._render(self._clock()).decode().splitlines())

    def header_lines(self) -> bytes:
        """Return the same as header lines, cached for speed; `r=` may be limit/GRANULARITY too high."""
        if self._remaining > self._lines_valid_above and self._spent_at < self._lines_valid_until:
            return self._header_lines
        return self._render(self._clock())

    def _left(self, now: int) -> int:
        return self._remaining + self._unreserved if now < self._window_end else self._limit.amount

    def _render(self, now: int) -> bytes:
        amount, remaining = self._limit.amount, self._left(now)
        wait = self._limit.wait(now)
        self._header_lines = b'%bRateLimit: "requests";r=%d;t=%d\r\n' % (self._policy, remaining, wait)
        self._lines_valid_above = self._remaining - amount // GRANULARITY - 1
        self._lines_valid_until = now - now % 1000 + 1000
        return self._header_lines

    def _is_empty(self) -> bool:
        return not (self._remaining or self._unreserved) and self._limit.window(self._clock()) == self._window

    def _spend_one(self) -> None:
        self._remaining -= 1
        self._spent_at = self._clock()

    def _used_up(self) -> RateLimited:
        wait = self._limit.wait(self._clock())
        return used_up(self._limit.amount, self._limit.seconds, wait, self.headers())

    async def _spend_reserved(self) -> None:
        """Wait until a reservation has spent one request; raise RateLimited if it could not."""
        has_spent: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(has_spent)
        if self._reservation is None:
            self._reservation = spawn_detached(self._serve_waiting())
        if not await has_spent:
            raise self._used_up()

    async def _serve_waiting(self) -> None:
        """Reserve until no request waits: a request waits for two reservations at most."""
        try:
            while self._drop_cancelled():
                await self._reserve()
                self._spend_for_waiting()
        except Exception as error:
            if not self._drop_cancelled():
                raise
            for has_spent in self._waiting:
                has_spent.set_exception(error)
        finally:
            self._reservation = None
            while self._waiting:
                self._waiting.popleft().cancel()

    def _drop_cancelled(self) -> int:
        """Drop requests that no longer wait, and return the number of the others."""
        self._waiting = deque(has_spent for has_spent in self._waiting if not has_spent.done())
        return len(self._waiting)

    async def _reserve(self) -> None:
        """Reserve for all waiting requests. Repeat it once, and no more often, if the window ends meanwhile."""
        for _ in range(2):
            self._begin_window(self._limit.window(self._clock()))
            amount = min(self._limit.amount, max(self._chunk, len(self._waiting)))
            try:
                await self._reserve_shared(amount)
            except CacheUnavailable:
                self._reserve_local(amount)
            if self._limit.window(self._clock()) == self._window:
                break

    def _spend_for_waiting(self) -> None:
        """Spend for waiting requests, in order of arrival. If the quota is used up, the others are rejected."""
        while self._waiting and (self._remaining or not self._unreserved):
            has_spent = self._waiting.popleft()
            if has_spent.done():
                continue
            has_spent.set_result(self._remaining > 0)
            if self._remaining:
                self._spend_one()

    def _begin_window(self, window: int) -> None:
        """Begin a window, unless it is the current one."""
        if window != self._window:
            self._reserved = self._evicted.count(self._name, window) if self._window < 0 else 0
            self._window, self._window_end = window, self._limit.end(window)
            self._remaining = 0

    async def _reserve_shared(self, wanted: int) -> None:
        """Reserve up to `wanted` of the shared quota.

        The counters also learn what was reserved while they were unavailable, and what they have lost. A reservation
        whose reply is lost stays unused in this window: too few requests are allowed, never too many.
        """
        count = await self._shared_limit.add(self._name, self._window, wanted, before=self._reserved)
        amount = self._limit.amount
        self._add_reserved(min(wanted, max(0, amount - count + wanted)), max(0, amount - count))
        self._is_authoritative = True

    def _reserve_local(self, wanted: int) -> None:
        free = max(0, self._local_limit - self._reserved)
        reserved = min(wanted, free)
        self._add_reserved(reserved, free - reserved)
        self._is_authoritative = self._shared_limit.counters is None

    def _add_reserved(self, reserved: int, rest: int) -> None:
        self._remaining += reserved
        self._reserved += reserved
        self._unreserved = rest
        self._lines_valid_until = 0


class _Unlimited(RateAllowance):
    """An allowance without limit."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def __del__(self) -> None:
        pass

    def try_spend(self) -> bool:
        return True

    async def refill(self) -> None:
        pass

    def usage(self) -> RateUsage | None:
        return None

    def headers(self) -> dict[str, str]:
        return {}

    def header_lines(self) -> bytes:
        return b""

    def try_spend_with_lines(self) -> bytes:
        return b""


def used_up(
    amount: int, seconds: int, wait: int, limit_headers: Mapping[str, str] = MappingProxyType({})
) -> RateLimited:
    """Return the error of a request beyond the limit, `amount` requests in `seconds`; the window ends after `wait`."""
    return RateLimited(
        f"The limit is {counted(amount, 'request')} in {seconds} s; retry in {wait} s.", wait, limit_headers
    )


UNLIMITED: RateAllowance = _Unlimited()
"""The allowance of every caller if no limit is configured."""


class RateLimits:
    """The allowances of all callers."""

    def __init__(self, limit: SharedLimit | None, *, callers: int = CALLERS) -> None:
        self._limit = limit
        self._recent: LRUCache[str, RateAllowance] = LRUCache(callers)
        self._allowances: WeakValueDictionary[str, RateAllowance] = WeakValueDictionary()  # also those of old sessions
        self._evicted = EvictedCounts()

    def allowance_for(self, name: str) -> RateAllowance:
        """Return the allowance of a caller: the same object each time, or one that has spent as much in this window."""
        if self._limit is None:
            return UNLIMITED
        allowance: RateAllowance | None = self._allowances.get(name)
        if allowance is None:
            allowance = self._allowances[name] = RateAllowance(name, self._limit, self._evicted)
        self._recent.insert(name, allowance)
        return allowance
