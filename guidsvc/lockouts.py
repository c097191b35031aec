"""From where log-ins fail too often, so that none is tried from there for a while. Knows not what a log-in is.

Whether an address is locked out is known in the process; how often log-ins failed from it is counted in all processes,
or, where that is not told, in each by itself. What is kept is bounded, whatever addresses come.
"""

from ipaddress import AddressValueError, IPv6Address, IPv6Network

from cachebox import LRUCache

from guidsvc.errors import CacheUnavailable
from guidsvc.limits import Counters, Limit
from guidsvc.rules import Clock

ADDRESSES = 10_000
"""So many are kept, those that failed last; and of so many new ones in a window the other processes are told."""
NETWORK_BITS = 64
"""Of an IPv6 address, those that one customer has to himself: he may change the others with each request."""


class _Failures:
    """How often log-ins from an address failed in a window."""

    __slots__ = ("here", "locked", "private", "told", "window")

    def __init__(self, window: int, *, private: bool) -> None:
        self.window = window
        self.private = private  # whether the others are not to be told
        self.here = 0  # in this process
        self.told = 0  # of these, to the others
        self.locked = False


class Lockouts:
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


def place_of(address: str) -> str:
    """Return as what an address is counted: its /64 for IPv6; any other, and what is none, as `unix`, is itself."""
    try:
        parsed = IPv6Address(address)
    except AddressValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Network((parsed, NETWORK_BITS), strict=False))
