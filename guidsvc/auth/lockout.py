"""Brute-force protection: lock out client addresses after too many failed logins, and remember recent failures.

Each process holds its own lockouts. Failures are counted across all processes, or in each process while the shared
counters are unavailable. Memory is bounded, whatever addresses connect. Logins are opaque strings here.
"""

from hashlib import blake2b

from cachebox import LRUCache

from guidsvc.auth.evicted_counts import EvictedCounts
from guidsvc.auth.fixed_window import SharedLimit
from guidsvc.errors import CacheUnavailable
from guidsvc.http.client_address import network_of
from guidsvc.runtime.clock import ContinuousClock, continuous_clock

ADDRESSES = 10_000
"""Maximum number of tracked addresses, and of new ones in a window whose failures are shared with other processes.

The least recently used address is evicted. Its failures in the window still count.
"""

MAX_LOOKUPS = 1000
"""Maximum lookups per second of logins from one locked-out address."""
TOKEN_LOOKUPS = 10
"""Number of lookups that a token counts as: its signature is verified on the event loop, up to 0.5 ms (ES384)."""
MAX_KNOWN = 10_000
"""Maximum number of remembered failed logins; the least recently used is evicted."""


class _Failures:
    """The failed logins from an address in a window."""

    __slots__ = ("is_locked", "is_private", "local_count", "lookups", "second", "window")

    def __init__(self, window: int, local_count: int, *, is_private: bool) -> None:
        self.window = window
        self.is_private = is_private  # whether failures are not shared with other processes
        self.local_count = local_count  # failures in this process
        self.is_locked = False
        self.lookups = self.second = 0  # lookups in this second while locked out


class LoginLockout:
    """Lockout of addresses for the rest of the window in which their failed logins reached `limit`."""

    def __init__(self, limit: SharedLimit | None, *, addresses: int = ADDRESSES) -> None:
        self._shared_limit = limit
        self._max_addresses = addresses
        self._failures: LRUCache[str, _Failures] = LRUCache(addresses)
        self._evicted = EvictedCounts()
        self._window = -1
        self._new_addresses = 0  # number of new addresses in that window

    def lockout_seconds(self, address: str) -> int | None:
        """Return the remaining lockout of an address in seconds, or None if it is not locked out."""
        if self._shared_limit is None or not self._failures:
            return None
        limit, now = self._shared_limit.limit, self._shared_limit.clock()
        failures: _Failures | None = self._failures.get(network_of(address))
        if failures is None or not failures.is_locked or failures.window != limit.window(now):
            return None
        return limit.wait(now)

    def try_look_up(self, address: str, cost: int = 1) -> bool:
        """Count `cost` lookups from a locked-out address if MAX_LOOKUPS of this second allow them; return whether."""
        failures: _Failures | None = self._failures.get(network_of(address))
        if failures is None or self._shared_limit is None:
            return True
        second = self._shared_limit.clock() // 1000
        if failures.second != second:
            failures.second, failures.lookups = second, 0
        if failures.lookups + cost > MAX_LOOKUPS:
            return False
        failures.lookups += cost
        return True

    async def record_failure(self, address: str) -> None:
        """Count a failed login: in this process at once, in the shared counters, if available, on return."""
        shared_limit = self._shared_limit
        if shared_limit is None:
            return
        network = network_of(address)
        failures = self._failures_of(network, shared_limit.limit.window(shared_limit.clock()))
        failures.local_count += 1
        failures.is_locked |= failures.local_count >= shared_limit.limit.amount
        if failures.is_private or not await self._share_failures(network, failures, shared_limit):
            failures.is_locked |= failures.local_count >= shared_limit.local_amount

    def _failures_of(self, network: str, window: int) -> _Failures:
        failures: _Failures | None = self._failures.get(network)
        if failures is None or failures.window != window:
            if window != self._window:
                self._window, self._new_addresses = window, 0
            self._new_addresses += 1
            if self._failures.is_full() and network not in self._failures:
                self._evict()
            count = self._evicted.count(network, window)
            failures = _Failures(window, count, is_private=self._new_addresses > self._max_addresses)
            self._failures.insert(network, failures)
        return failures

    def _evict(self) -> None:
        """Evict the least recently used address, and remember its failures."""
        network, failures = self._failures.popitem()
        self._evicted.add(network, failures.window, failures.local_count)

    async def _share_failures(self, network: str, failures: _Failures, shared_limit: SharedLimit) -> bool:
        """Share the failures that the shared counters do not include yet; return whether that succeeded."""
        try:
            count = await shared_limit.add(f"logins:{network}", failures.window, 0, before=failures.local_count)
        except CacheUnavailable:
            return False
        failures.is_locked |= count >= shared_limit.limit.amount
        return True


class KnownFailures:
    """Logins that failed within the last `seconds`, stored as digests, because they may be long and secret."""

    def __init__(self, seconds: float, *, timer: ContinuousClock = continuous_clock) -> None:
        self._seconds = seconds
        self._timer = timer
        self._expiries: LRUCache[bytes, float] = LRUCache(MAX_KNOWN)

    def add(self, credentials: str) -> None:
        """Remember a failed login. A repeated failure does not extend the time, after which it is looked up again."""
        if not self.contains(credentials):
            self._expiries.insert(_digest(credentials), self._timer() + self._seconds)

    def contains(self, credentials: str) -> bool:
        """Return whether a login failed within that time."""
        expiry: float | None = self._expiries.get(_digest(credentials))
        return expiry is not None and self._timer() < expiry


def _digest(credentials: str) -> bytes:
    return blake2b(credentials.encode(errors="surrogatepass"), digest_size=16).digest()
