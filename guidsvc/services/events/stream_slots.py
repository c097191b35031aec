"""The number of open streams of events, of all callers and of each."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from guidsvc.errors import TooManyStreams

CALLER_SHARE = 16
"""Divisor of the share of all streams that one caller may have; the share is at least one stream."""


class StreamSlots:
    """A counter of the streams of events, and of pages that wait for one: `most` at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_caller = max(1, most // CALLER_SHARE)
        self._streams: Counter[str] = Counter()  # only callers that have any
        self._count = 0

    def open_count(self) -> int:
        """Return the number of open streams."""
        return self._count

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Count a stream of a caller inside the block; TooManyStreams if it has, or all have, as many as they may."""
        if self._streams[caller] >= self._most_of_caller:
            raise TooManyStreams(self._most_of_caller, is_own=True)
        if self._count >= self._most:
            raise TooManyStreams(self._most, is_own=False)
        self._add(caller, 1)
        try:
            yield
        finally:
            self._add(caller, -1)

    def _add(self, caller: str, amount: int) -> None:
        self._count += amount
        self._streams[caller] += amount
        if not self._streams[caller]:
            del self._streams[caller]
