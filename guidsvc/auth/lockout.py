"""Brute-force protection: lock out client addresses after too many failed logins, and remember recent failures.

Each process holds its own lockouts. Failures are counted across all processes, or in each process while the shared
counters are unavailable. Memory is bounded, whatever addresses connect. Logins are opaque strings here.
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
"""Maximum number of tracked addresses, and of new ones in a window whose failures are shared with other processes.

The least recently used address is evicted.
"""


LOOKS = 1000
"""Maximum lookups per second of logins from one locked-out address."""
KNOWN = 10_000
"""Maximum number of remembered failed logins; the least recently used is evicted."""


class _Failures:
    """The failed logins from an address in a window."""

    __slots__ = ("here", "locked", "looks", "private", "second", "told", "window")

    def __init__(self, window: int, *, private: bool) -> None:
        self.window = window
        self.private = private  # whether failures are not shared with other processes
        self.here = 0  # failures in this process
        self.told = 0  # of these, shared with other processes
        self.locked = False
        self.looks = self.second = 0  # lookups in this second while locked out


class LoginLockout:
    """Lockout of addresses for the rest of the window in which their failed logins reached `limit`.

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
        addresses: int = ADDRESSES,
    ) -> None:
        self._limit = limit
        self._counters = counters
        self._clock = clock
        self._share = 0 if limit is None else limit.share(share)
        self._most = addresses
        self._failures: LRUCache[str, _Failures] = LRUCache(addresses)
        self._window = -1
        self._fresh = 0  # number of new addresses in that window

    def blocked(self, address: str) -> int | None:
        """Return the remaining lockout of an address in seconds, or None if it is not locked out."""
        if self._limit is None or not self._failures:
            return None
        now = self._clock()
        found: _Failures | None = self._failures.get(place_of(address))
        if found is None or not found.locked or found.window != self._limit.window(now):
            return None
        return self._limit.wait(now)

    def may_look(self, address: str) -> bool:
        """Count a lookup from a locked-out address; return whether it is within LOOKS for this second."""
        found: _Failures | None = self._failures.get(place_of(address))
        if found is None:
            return True
        second = self._clock() // 1000
        if found.second != second:
            found.second, found.looks = second, 0
        found.looks += 1
        return found.looks <= LOOKS

    async def failed(self, address: str) -> None:
        """Count a failed login: in this process at once, in the shared counters, if available, on return."""
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
        """Share this failure and any unshared earlier ones with other processes; return whether that succeeded."""
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
    """Logins that failed within the last `seconds`, stored as digests, because they may be long and secret."""

    def __init__(self, seconds: float, *, timer: Callable[[], float] = perf_counter) -> None:
        self._seconds = seconds
        self._timer = timer
        self._until: LRUCache[bytes, float] = LRUCache(KNOWN)

    def note(self, login: str) -> None:
        """Remember a failed login. A repeated failure does not extend the time, after which it is looked up again."""
        if not self.holds(login):
            self._until.insert(_digest(login), self._timer() + self._seconds)

    def holds(self, login: str) -> bool:
        """Return whether a login failed within that time."""
        until: float | None = self._until.get(_digest(login))
        return until is not None and self._timer() < until


def _digest(login: str) -> bytes:
    return blake2b(login.encode(errors="surrogatepass"), digest_size=16).digest()
