"""Temporary space: size limits for the temporary files of one request, and of all requests together.

Code that writes a temporary file first takes the bytes from the share of its request. The share is returned when the
request ends. One owner gets at most half of the space, or the limit of one request if that is more, so that others have
some left. The number of files is bounded likewise, because each needs a file descriptor.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from guidsvc.errors import Overloaded, SpaceUsed

MIB = 1024 * 1024
REQUEST_BYTES, TOTAL_BYTES = 64 * MIB, 256 * MIB
FILES = 64
"""Maximum number of open temporary files."""
MEMORY_BYTES = 1024 * 1024
"""Bytes that a request may buffer in memory before it needs a temporary file."""
HELD_PART = 4
"""Batch lines that wait in memory may take 1/HELD_PART of the size limit of all temporary files."""


class TemporarySpace:
    """The space of a process: `request_bytes` for each request, `total_bytes` and `files` for all of them."""

    def __init__(self, request_bytes: int = REQUEST_BYTES, total_bytes: int = TOTAL_BYTES, files: int = FILES) -> None:
        self._most_files = max(1, files)
        self._files: Counter[str | None] = Counter()
        self._request_bytes = request_bytes
        self._left = total_bytes
        self._most_of_owner = max(request_bytes, total_bytes // 2)
        self._taken_by: Counter[str] = Counter()
        self._most_held = total_bytes // HELD_PART
        self._held: Counter[str | None] = Counter()

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """Yield the share of a request, and return everything taken from it at the end of the block."""
        share = Share(self, self._request_bytes)
        try:
            yield share
        finally:
            share.close()

    def take(self, size: int, owner: str | None) -> None:
        """Take `size` bytes, or return them if negative. Raise Overloaded if other requests have taken them.

        `owner` is None without access control.
        """
        if size > self._left:
            raise Overloaded("the temporary files of all batches have reached their size limit; retry later")
        if owner is not None:
            if self._taken_by[owner] + size > self._most_of_owner:
                raise Overloaded(
                    "the temporary files of this owner's batches have reached their size limit; retry later"
                )
            self._taken_by[owner] += size
            if not self._taken_by[owner]:
                del self._taken_by[owner]
        self._left -= size

    def take_file(self, owner: str | None) -> None:
        """Take a file descriptor for a temporary file. Raise Overloaded if other requests have taken them."""
        most = self._most_files if owner is None else max(1, self._most_files // 2)
        if self._files.total() >= self._most_files or self._files[owner] >= most:
            raise Overloaded("too many temporary files of batches are open; retry later")
        self._files[owner] += 1

    def give_back_files(self, count: int, owner: str | None) -> None:
        """Return `count` file descriptors."""
        self._files[owner] -= count
        if not self._files[owner]:
            del self._files[owner]

    def hold(self, more: int, owner: str | None) -> None:
        """Add `more` bytes, possibly negative, to the memory that batches hold. Raise Overloaded at the limit."""
        most = self._most_held if owner is None else self._most_held // 2
        if more > 0 and (more > self._most_held - self._held.total() or self._held[owner] + more > most):
            raise Overloaded("the waiting lines of all batches have reached their memory limit; retry later")
        self._held[owner] += more
        if not self._held[owner]:
            del self._held[owner]


class Share:
    """The space of one request, of which it has `taken` some bytes and may take `most`.

    With access control, `owner` must be set before anything is taken.
    """

    __slots__ = ("_files", "_held", "_space", "most", "owner", "taken")

    def __init__(self, space: TemporarySpace, most: int) -> None:
        self._space = space
        self.most = most
        self.taken = 0
        self._files = 0
        self._held = 0
        self.owner: str | None = None

    @property
    def left(self) -> int:
        """Bytes that the request may still take, if other requests leave them."""
        return self.most - self.taken

    def take(self, size: int) -> None:
        """Take `size` more bytes. Raise SpaceUsed over the request's limit, Overloaded if others have taken them."""
        if size > self.left:
            raise SpaceUsed(self.most)
        self._space.take(size, self.owner)
        self.taken += size

    def give_back(self, size: int) -> None:
        """Return `size` bytes that were taken but not used."""
        size = min(size, self.taken)
        self._space.take(-size, self.owner)
        self.taken -= size

    def take_file(self) -> None:
        """Take a file descriptor for one more temporary file. Raise Overloaded if other requests have taken them."""
        self._space.take_file(self.owner)
        self._files += 1

    def hold(self, size: int) -> None:
        """Set the memory that waiting batch lines hold to `size` bytes. Raise Overloaded if batches hold too much."""
        self._space.hold(size - self._held, self.owner)
        self._held = size

    def close(self) -> None:
        """Return everything taken. Nothing can be taken afterwards."""
        self.hold(0)
        self._space.give_back_files(self._files, self.owner)
        self._files = 0
        self.give_back(self.taken)
        self.most = 0
