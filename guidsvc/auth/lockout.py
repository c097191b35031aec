"""Addresses from which log-ins fail too often, and log-ins that failed lately. Knows not what a log-in is.

Whether an address is locked out is known in the process; how often log-ins failed from it is counted in all processes,
or, where that is not told, in each by itself. What is kept is bounded, whatever addresses come.
"""

from collections.abc import Callable
from hashlib import blake2b
from time import perf_counter

from cachebox import LRUCache

from guidsvc.auth.rate_limit import Counters, Limit
from guidsvc.errors import CacheUnavailable
from guidsvc.http.client_address import place_of
from guidsvc.runtime.clock import Clock

ADDRESSES = 10_000
"""So many are kept, those that failed last; and of so many new ones in a window the other processes are told."""


LOOKS = 1000
"""Log-ins from an address that is locked out which are looked up in a second."""
KNOWN = 10_000
"""Log-ins that failed which are remembered: those that failed last."""


class _Failures:
    """How often log-ins from an address failed in a window."""

    __slots__ = ("here", "locked", "looks", "private", "second", "told", "window")

    def __init__(self, window: int, *, private: bool) -> None:
        self.window = window
        self.private = private  # whether the others are not to be told
        self.here = 0  # in this process
        self.told = 0  # of these, to the others
        self.locked = False
        self.looks = self.second = 0  # log-ins that were looked up in this second while it was locked out


class LoginLockout:
    """Locks an address out for the rest of a window in which log-ins from it failed as often as `limit` says.

    `share` is the part of the limit that this process has where `counters` do not tell; without counters there is this
    process alone.
    """

    def __init__(
        self,
        limit: Limit | None,
        counters: Counters | None = None,
        *,
        clock: Clock,
        share: float = 1.0,
        addresses: int = ADDRESSES,
    ) -> None:
        self._limit = limit
        self._counters = counters
        self._clock = clock
        self._share = 0 if limit is None else limit.share(share)
        self._most = addresses
        self._failures: LRUCache[str, _Failures] = LRUCache(addresses)
        self._window = -1
        self._fresh = 0  # how many addresses were new in that window

    def blocked(self, address: str) -> int | None:
        """Return in how many seconds log-ins may be tried from an address again; None if they may be now."""
        if self._limit is None or not self._failures:
            return None
        now = self._clock()
        found: _Failures | None = self._failures.get(place_of(address))
        if found is None or not found.locked or found.window != self._limit.window(now):
            return None
        return self._limit.wait(now)

    def may_look(self, address: str) -> bool:
        """Whether one more log-in from an address that is locked out may be looked up in this second."""
        found: _Failures | None = self._failures.get(place_of(address))
        if found is None:
            return True
        second = self._clock() // 1000
        if found.second != second:
            found.second, found.looks = second, 0
        found.looks += 1
        return found.looks <= LOOKS

    async def failed(self, address: str) -> None:
        """Count a log-in that failed; it counts in this process at once, and in the others when this returns."""
        if self._limit is None:
            return
        place = place_of(address)
        failures = self._of(place, self._limit.window(self._clock()))
        failures.here += 1
        failures.locked |= failures.here >= self._limit.amount
        if failures.private or not await self._tell(place, failures, self._limit):
            failures.locked |= failures.here >= self._share

    def _of(self, place: str, window: int) -> _Failures:
        found: _Failures | None = self._failures.get(place)
        if found is None or found.window != window:
            if window != self._window:
                self._window, self._fresh = window, 0
            self._fresh += 1
            found = _Failures(window, private=self._fresh > self._most)
            self._failures.insert(place, found)
        return found

    async def _tell(self, place: str, failures: _Failures, limit: Limit) -> bool:
        """Whether the others could be told, of this failure and of those of which they could not be before."""
        untold = failures.here - failures.told
        failures.told = failures.here
        try:
            count = await limit.count(self._counters, f"logins:{place}", failures.window, untold)
        except CacheUnavailable:
            failures.told -= untold
            return False
        failures.locked |= count >= limit.amount
        return True


class KnownFailures:
    """Log-ins that failed within so many seconds, by a digest, for they may be long, and secret."""

    def __init__(self, seconds: float, *, timer: Callable[[], float] = perf_counter) -> None:
        self._seconds = seconds
        self._timer = timer
        self._until: LRUCache[bytes, float] = LRUCache(KNOWN)

    def note(self, login: str) -> None:
        """Note one that has failed, unless it is noted already: it is looked up again after that time."""
        if not self.holds(login):
            self._until.insert(_digest(login), self._timer() + self._seconds)

    def holds(self, login: str) -> bool:
        """Whether it has failed within that time."""
        until: float | None = self._until.get(_digest(login))
        return until is not None and self._timer() < until


def _digest(login: str) -> bytes:
    return blake2b(login.encode(errors="surrogatepass"), digest_size=16).digest()
