"""Counts of the current window whose names were evicted from a cache: a count-min sketch of fixed size.

Without it, an evicted name would begin again with nothing counted. Names share counters, so a count may be too high,
but is never too low. With 10,000 evicted names in a window, one new name in 50 gets a count of others.
"""

from array import array
from hashlib import blake2b
from secrets import token_bytes

COLUMNS = 65_536
"""Counters of each row; a name has one in each."""
_COUNTER_BYTES = 4
_MAX_COUNT = 2**32 - 1


class EvictedCounts:
    """The counts of evicted names: 512 KiB, allocated when the first name is evicted."""

    def __init__(self) -> None:
        self._secret = token_bytes(16)  # else a client could choose names that share the counters of another
        self._window = -1
        self._rows: list[array[int]] = []

    def add(self, name: str, window: int, count: int) -> None:
        """Remember the count of a name that is evicted, unless its window has ended."""
        if count <= 0 or window < self._window:
            return
        if window != self._window:
            self._window = window
            self._rows = [array("I", bytes(_COUNTER_BYTES * COLUMNS)) for _ in range(2)]
        for row, column in zip(self._rows, self._columns(name), strict=True):
            row[column] = max(row[column], min(count, _MAX_COUNT))

    def count(self, name: str, window: int) -> int:
        """Return the count of a name in a window: 0 if it was not evicted in it, or too high."""
        if window != self._window:
            return 0
        return min(row[column] for row, column in zip(self._rows, self._columns(name), strict=True))

    def _columns(self, name: str) -> tuple[int, int]:
        digest = blake2b(name.encode(errors="surrogatepass"), digest_size=4, key=self._secret).digest()
        return int.from_bytes(digest[:2]), int.from_bytes(digest[2:])
