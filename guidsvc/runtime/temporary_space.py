"""Temporary space: size limits for the temporary files of one request, and of all requests together.

Code that writes a temporary file first takes the bytes from the share of its request. The share is returned when the
request ends. A caller leaves as much of the space free as it has, so that others find some. The same holds for the
number of files, because each needs a file descriptor, and for the memory of waiting lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from guidsvc.errors import Overloaded, SpaceUsed
from guidsvc.runtime.fairness.fair_budget import FairBudget

MIB = 1024 * 1024
REQUEST_BYTES, TOTAL_BYTES = 64 * MIB, 256 * MIB
FILES = 64
"""Maximum number of open temporary files."""
MEMORY_BYTES = 1024 * 1024
"""Bytes that a request may buffer in memory before it needs a temporary file."""
BUFFERED_PART = 4
"""Batch lines that wait in memory may take 1/BUFFERED_PART of the size limit of all temporary files."""


class TemporarySpace:
    """The space of a process: `request_bytes` for each request, `total_bytes` and `files` for all of them."""

    def __init__(self, request_bytes: int = REQUEST_BYTES, total_bytes: int = TOTAL_BYTES, files: int = FILES) -> None:
        self._request_bytes = request_bytes
        self._bytes = FairBudget(total_bytes, alone=request_bytes)
        self._files = FairBudget(max(1, files), alone=1)
        self._buffered_bytes = FairBudget(total_bytes // BUFFERED_PART)

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """Yield the share of a request, and return everything taken from it at the end of the block."""
        share = Share(self, self._request_bytes)
        try:
            yield share
        finally:
            share.close()

    def take(self, size: int, caller: str | None) -> None:
        """Take `size` bytes. Raise Overloaded if other requests have taken them."""
        if not self._bytes.take(size, caller):
            raise Overloaded("the temporary files of batches have reached their size limit; retry later")

    def give_back(self, size: int, caller: str | None) -> None:
        """Return `size` bytes."""
        self._bytes.give_back(size, caller)

    def take_file(self, caller: str | None) -> None:
        """Take a file descriptor for a temporary file. Raise Overloaded if other requests have taken them."""
        if not self._files.take(1, caller):
            raise Overloaded("too many temporary files of batches are open; retry later")

    def give_files_back(self, count: int, caller: str | None) -> None:
        """Return `count` file descriptors."""
        self._files.give_back(count, caller)

    def hold(self, change_bytes: int, caller: str | None) -> None:
        """Add `change_bytes`, possibly negative, to the memory that batches hold. Raise Overloaded at the limit."""
        if change_bytes <= 0:
            self._buffered_bytes.give_back(-change_bytes, caller)
        elif not self._buffered_bytes.take(change_bytes, caller):
            raise Overloaded("the waiting lines of batches have reached their memory limit; retry later")


class Share:
    """The space of one request, of which it uses `used_bytes` and may use `limit_bytes`.

    `caller` must be set before anything is taken, except for work of the service itself.
    """

    __slots__ = ("_buffered_bytes", "_files", "_is_closed", "_space", "caller", "limit_bytes", "used_bytes")

    def __init__(self, space: TemporarySpace, limit_bytes: int) -> None:
        self._space = space
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._files = 0
        self._buffered_bytes = 0
        self._is_closed = False
        self.caller: str | None = None

    @property
    def free_bytes(self) -> int:
        """Bytes that the request may still take, if other requests leave them."""
        return self.limit_bytes - self.used_bytes

    def take(self, size: int) -> None:
        """Take `size` more bytes. Raise SpaceUsed over the request's limit, Overloaded if others have taken them."""
        if size > self.free_bytes:
            raise SpaceUsed(self.limit_bytes)
        self._space.take(size, self.caller)
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        """Return `size` bytes that were taken but not used."""
        size = min(size, self.used_bytes)
        self._space.give_back(size, self.caller)
        self.used_bytes -= size

    def take_file(self) -> None:
        """Take a file descriptor for one more temporary file. Raise Overloaded if other requests have taken them."""
        self._require_open()
        self._space.take_file(self.caller)
        self._files += 1

    def hold(self, size: int) -> None:
        """Set the memory that waiting batch lines hold to `size` bytes. Raise Overloaded if batches hold too much."""
        self._require_open()
        self._space.hold(size - self._buffered_bytes, self.caller)
        self._buffered_bytes = size

    def close(self) -> None:
        """Return everything taken. Nothing can be taken afterwards: an operation may outlast its request."""
        self._is_closed = True
        self._space.hold(-self._buffered_bytes, self.caller)
        self._buffered_bytes = 0
        self._space.give_files_back(self._files, self.caller)
        self._files = 0
        self.give_back(self.used_bytes)
        self.limit_bytes = 0

    def _require_open(self) -> None:
        if self._is_closed:
            raise Overloaded("the request has ended")
