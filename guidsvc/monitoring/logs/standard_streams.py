"""Standard streams that never block the service: opened if missing, and written by a thread.

A pipe that no process reads blocks its writers, and a full disk fails them. So the service writes standard output and
standard error to a bounded buffer, which a thread empties. When the buffer is full, lines are dropped and counted.
"""

import errno
import io
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO, cast

MAX_BYTES = 1024 * 1024
"""Size of the buffer, in bytes; lines beyond it are dropped."""
PIECE_BYTES = 100
"""Memory of a piece in the buffer besides its text, in bytes."""
FLUSH_SECONDS = 1.0
"""Maximum wait for the buffers to be written when the process ends, in seconds."""
PAUSE_SECONDS = 0.005
"""Pause of the thread after a write, in seconds, so that pieces gather: each wake-up costs the event loop time."""
FILE_BYTES = 65_536
"""Maximum number of bytes written to a regular file in one system call."""
LINE_SECONDS = 0.1
"""Maximum wait of `write_line` for its line, in seconds."""
WINDOW_SECONDS = 10.0
"""In each window of this length, the waits of `write_line` total at most LINE_SECONDS, however slow the reader is."""
UNCOUNTED_SECONDS = 0.005
"""Waits up to this length, in seconds, are not counted: a stream that is read takes a fraction of it."""


def open_missing() -> None:
    """Open each closed standard stream on /dev/null, before a socket or a file gets its descriptor.

    Without `sys.stderr`, `print` would write messages to standard output. `sys.stdin` is empty then. `sys.stdout` stays
    None, so that a command can tell that its output would be lost.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            new_descriptor = os.open(os.devnull, os.O_RDWR)
            if new_descriptor != descriptor:  # pragma: no cover  # the lowest free number is always the missing one
                os.dup2(new_descriptor, descriptor)
                os.close(new_descriptor)
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


@contextmanager
def buffered(seconds: float = FLUSH_SECONDS) -> Iterator[None]:
    """Buffer `sys.stdout` and `sys.stderr`; on exit, wait at most `seconds` until they are written."""
    output, error = BoundedStream(1), BoundedStream(2)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast("TextIO", output), cast("TextIO", error)
    with ExitStack() as stack:
        stack.callback(_restore, (output, error), before, seconds)
        yield


def _restore(
    streams: "tuple[BoundedStream, BoundedStream]", before: tuple[TextIO | None, TextIO | None], seconds: float
) -> None:
    """Restore the former streams, except one that would block what is printed while the process ends."""
    deadline = time.monotonic() + seconds
    output, error = (stream.close_within(deadline - time.monotonic()) for stream in streams)
    if output:
        sys.stdout = before[0]  # None where it was closed
    if error:
        sys.stderr = before[1]


def dropped_lines() -> int:
    """Return the number of lines that this process has dropped on standard error."""
    return sys.stderr.dropped_lines if isinstance(sys.stderr, BoundedStream) else 0


def drain(seconds: float = FLUSH_SECONDS) -> None:
    """Wait at most `seconds` until standard error is written: for a process that is about to kill itself."""
    if isinstance(sys.stderr, BoundedStream):
        sys.stderr.drain(seconds)


class _Ticket:
    """The outcome of a line whose writer waits for it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: OSError | None = None


_Piece = tuple[bytes, _Ticket | None]


class BoundedStream(io.TextIOBase):
    """A text stream whose `write` never blocks; a thread writes to the descriptor.

    No piece is split over two system calls. A call writes at most PIPE_BUF bytes, unless one piece is longer: a shared
    pipe may interleave larger writes. A regular file takes FILE_BYTES.
    """

    notice: Callable[[int], str] | None = None
    """Returns the line that reports a number of dropped lines."""

    def __init__(self, descriptor: int, *, max_bytes: int = MAX_BYTES) -> None:
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._group_bytes = FILE_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF
        self._pieces: deque[_Piece] = deque()
        self._bytes = 0  # of the pieces, and of those being written
        self._gap_lines = 0  # dropped since the last notice
        self._changed = threading.Condition()  # reentrant: a line may be logged while the collector runs
        self._is_idle = False
        self._is_slow = False
        self._is_closing = False
        self._window_begun, self._waited_seconds = 0.0, 0.0  # by `write_line`
        self._is_torn = False  # the last piece was written in part
        self.dropped_lines = 0
        self._thread = threading.Thread(target=self._run, name=f"stream-{descriptor}", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base has a plain attribute
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, text: str, /) -> int:
        """Append the text to the buffer, or drop it if the buffer is full."""
        if text:
            self._append(text.encode("utf-8", "backslashreplace"), None)
        return len(text)

    def write_line(self, line: bytes) -> None:
        """Write a line after all buffered ones; raise OSError if the write fails or the buffer is full.

        Waits at most LINE_SECONDS. Does not wait until the stream has caught up after a full wait, or when the waits of
        this window are used up: the line then remains in the buffer.
        """
        ticket = _Ticket()
        if not self._append(line, ticket):
            raise OSError(errno.EAGAIN, "nothing reads standard error, and its buffer is full")
        if not self._may_wait():
            with self._changed:
                self._is_slow = True  # if this line fails, it counts as dropped
        if self._is_slow:
            return
        begun = time.monotonic()
        ticket.done.wait(LINE_SECONDS - self._waited_seconds)
        waited = time.monotonic() - begun
        self._waited_seconds += waited if waited > UNCOUNTED_SECONDS else 0.0
        with self._changed:
            self._is_slow = not ticket.done.is_set()
            if ticket.error is not None:
                raise ticket.error

    def _may_wait(self) -> bool:
        now = time.monotonic()
        if now - self._window_begun >= WINDOW_SECONDS:
            self._window_begun, self._waited_seconds = now, 0.0
        return self._waited_seconds < LINE_SECONDS

    def drain(self, seconds: float) -> bool:
        """Wait at most `seconds` until everything is written; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, max(0.0, seconds))

    def close_within(self, seconds: float) -> bool:
        """End the thread when everything is written, or give up after `seconds`; return whether it ended."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _append(self, piece: bytes, ticket: _Ticket | None) -> bool:
        with self._changed:
            if self._is_closing or self._bytes + len(piece) + PIECE_BYTES > self._max_bytes:
                if ticket is None:
                    self._drop(piece)
                return False
            self._put(piece, ticket)
            if self._is_idle or ticket is not None:
                self._is_idle = False
                self._changed.notify_all()
        return True

    def _drop(self, piece: bytes) -> None:
        lines = piece.count(b"\n") or 1
        self.dropped_lines += lines
        self._gap_lines += lines

    def _run(self) -> None:
        while self._wait():
            while pieces := self._take():
                error = self._write(b"".join(piece for piece, _ in pieces))
                with self._changed:
                    self._settle(pieces, error)

    def _wait(self) -> bool:
        """Pause so that pieces gather, then wait for one; return False when the stream is closing and empty."""
        with self._changed:
            if not self._is_closing:
                self._changed.wait(PAUSE_SECONDS)
            while not self._pieces and not self._is_closing:
                self._is_idle = True
                self._changed.wait()
            self._is_idle = False
            return bool(self._pieces)

    def _take(self) -> list[_Piece]:
        """Take the pieces of the next write."""
        batch: list[_Piece] = []
        size = 0
        with self._changed:
            while self._pieces and (not batch or size + len(self._pieces[0][0]) <= self._group_bytes):
                batch.append(self._pieces.popleft())
                size += len(batch[-1][0])
        return batch

    def _settle(self, pieces: list[_Piece], error: OSError | None) -> None:
        if error is None:
            self._report_gap()
        for piece, ticket in pieces:
            self._bytes -= len(piece) + PIECE_BYTES
            if error is not None and (ticket is None or self._is_slow):  # no caller waits for this outcome
                self._drop(piece)
            if ticket is not None:
                ticket.error = error
                ticket.done.set()
        if not self._bytes:
            self._is_slow = False
            self._changed.notify_all()

    def _write(self, piece: bytes) -> OSError | None:
        rest = memoryview(b"\n" + piece if self._is_torn else piece)
        try:
            while rest:
                written = self._write_some(rest)
                self._is_torn = self._is_torn or written > 0
                rest = rest[written:]
        except OSError as error:
            return error
        self._is_torn = False
        return None

    def _write_some(self, piece: memoryview) -> int:
        try:
            return os.write(self._descriptor, piece)
        except BlockingIOError:  # another process made the shared pipe non-blocking
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0

    def _report_gap(self) -> None:
        """Append the notice after the pieces from before the gap, and before any later piece."""
        if self._gap_lines and self.notice is not None:
            line = self.notice(self._gap_lines).encode()
            self._put(line, None)
            self._gap_lines = 0

    def _put(self, piece: bytes, ticket: _Ticket | None) -> None:
        self._pieces.append((piece, ticket))
        self._bytes += len(piece) + PIECE_BYTES
