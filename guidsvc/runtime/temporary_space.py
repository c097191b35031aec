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
BUFFERED_PART = 4
"""Batch lines that wait in memory may take 1/HELD_PART of the size limit of all temporary files."""


class TemporarySpace:
    """The space of a process: `request_bytes` for each request, `total_bytes` and `files` for all of them."""

    def __init__(self, request_bytes: int = REQUEST_BYTES, total_bytes: int = TOTAL_BYTES, files: int = FILES) -> None:
        self._max_files = max(1, files)
        self._files: Counter[str | None] = Counter()
        self._request_bytes = request_bytes
        self._free_bytes = total_bytes
        self._max_bytes_of_owner = max(request_bytes, total_bytes // 2)
        self._used_by_owner: Counter[str] = Counter()
        self._max_buffered_bytes = total_bytes // BUFFERED_PART
        self._buffered_bytes: Counter[str | None] = Counter()

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
        if size > self._free_bytes:
            raise Overloaded("the temporary files of all batches have reached their size limit; retry later")
        if owner is not None:
            if self._used_by_owner[owner] + size > self._max_bytes_of_owner:
                raise Overloaded(
                    "the temporary files of this owner's batches have reached their size limit; retry later"
                )
            self._used_by_owner[owner] += size
            if not self._used_by_owner[owner]:
                del self._used_by_owner[owner]
        self._free_bytes -= size

    def take_file(self, owner: str | None) -> None:
        """Take a file descriptor for a temporary file. Raise Overloaded if other requests have taken them."""
        limit = self._max_files if owner is None else max(1, self._max_files // 2)
        if self._files.total() >= self._max_files or self._files[owner] >= limit:
            raise Overloaded("too many temporary files of batches are open; retry later")
        self._files[owner] += 1

    def return_files(self, count: int, owner: str | None) -> None:
        """Return `count` file descriptors."""
        self._files[owner] -= count
        if not self._files[owner]:
            del self._files[owner]

    def hold(self, change_bytes: int, caller: str | None) -> None:
        """Add `change_bytes`, possibly negative, to the memory that batches hold. Raise Overloaded at the limit.

        A caller, which is an owner, or an address where access control is off, gets half of it at most.
        """
        limit = self._max_buffered_bytes if caller is None else self._max_buffered_bytes // 2
        free_bytes = self._max_buffered_bytes - self._buffered_bytes.total()
        if change_bytes > 0 and (change_bytes > free_bytes or self._buffered_bytes[caller] + change_bytes > limit):
            raise Overloaded("the waiting lines of all batches have reached their memory limit; retry later")
        self._buffered_bytes[caller] += change_bytes
        if not self._buffered_bytes[caller]:
            del self._buffered_bytes[caller]


class Share:
    """The space of one request, of which it uses `used_bytes` and may use `limit_bytes`.

    With access control, `owner` must be set before anything is taken; and `caller` before anything is held.
    """

    __slots__ = ("_buffered_bytes", "_files", "_space", "caller", "limit_bytes", "owner", "used_bytes")

    def __init__(self, space: TemporarySpace, limit_bytes: int) -> None:
        self._space = space
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._files = 0
        self._buffered_bytes = 0
        self.owner: str | None = None
        self.caller: str | None = None

    @property
    def free_bytes(self) -> int:
        """Bytes that the request may still take, if other requests leave them."""
        return self.limit_bytes - self.used_bytes

    def take(self, size: int) -> None:
        """Take `size` more bytes. Raise SpaceUsed over the request's limit, Overloaded if others have taken them."""
        if size > self.free_bytes:
            raise SpaceUsed(self.limit_bytes)
        self._space.take(size, self.owner)
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        """Return `size` bytes that were taken but not used."""
        size = min(size, self.used_bytes)
        self._space.take(-size, self.owner)
        self.used_bytes -= size

    def take_file(self) -> None:
        """Take a file descriptor for one more temporary file. Raise Overloaded if other requests have taken them."""
        self._space.take_file(self.owner)
        self._files += 1

    def hold(self, size: int) -> None:
        """Set the memory that waiting batch lines hold to `size` bytes. Raise Overloaded if batches hold too much."""
        self._space.hold(size - self._buffered_bytes, self.caller)
        self._buffered_bytes = size

    def close(self) -> None:
        """Return everything taken. Nothing can be taken afterwards."""
        self.hold(0)
        self._space.return_files(self._files, self.owner)
        self._files = 0
        self.give_back(self.used_bytes)
        self.limit_bytes = 0
