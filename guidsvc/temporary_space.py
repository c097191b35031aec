"""Temporary space: how many bytes the temporary files of one request may take, and those of all requests together.

Whoever writes a temporary file takes the bytes first, from the share of its request; at the end the share is returned.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from guidsvc.errors import Overloaded, SpaceUsed

MIB = 1024 * 1024
REQUEST_BYTES, TOTAL_BYTES = 64 * MIB, 256 * MIB


class TemporarySpace:
    """The space of a process: `request_bytes` for each request, `total_bytes` for all of them."""

    def __init__(self, request_bytes: int = REQUEST_BYTES, total_bytes: int = TOTAL_BYTES) -> None:
        self._request_bytes = request_bytes
        self._left = total_bytes

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """Yield the share of a request, inside. At the end all that was taken from it is returned."""
        share = Share(self, self._request_bytes)
        try:
            yield share
        finally:
            share.close()

    def take(self, size: int) -> None:
        """Take so many bytes; Overloaded if other requests have them."""
        if size > self._left:
            raise Overloaded("the temporary files of all batches together take all the space that they may")
        self._left -= size


class Share:
    """What one request may take: `most` bytes. `taken` is how many it has."""

    __slots__ = ("_space", "most", "taken")

    def __init__(self, space: TemporarySpace, most: int) -> None:
        self._space = space
        self.most = most
        self.taken = 0

    @property
    def left(self) -> int:
        """How many bytes it may still take, if other requests leave them."""
        return self.most - self.taken

    def take(self, size: int) -> None:
        """Take so many bytes more; SpaceUsed if that is more than one request may, Overloaded if others have them."""
        if size > self.left:
            raise SpaceUsed(self.most)
        self._space.take(size)
        self.taken += size

    def give_back(self, size: int) -> None:
        """Return so many bytes that were taken, and not used."""
        size = min(size, self.taken)
        self._space.take(-size)
        self.taken -= size

    def close(self) -> None:
        """Return all of it; from here on nothing can be taken."""
        self.give_back(self.taken)
        self.most = 0
