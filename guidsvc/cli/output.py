"""The output of the commands: data on standard output, messages on standard error.

Standard output may be closed, a pipe that nothing reads, or a file on a full disk. A command that cannot print its data
says so in one line and fails. One whose data has no other copy, such as a new key, first checks whether it can print.
"""

import os
import select
import signal
import stat
import sys
from contextlib import suppress
from errno import EBADF, ENOSPC, EPIPE
from typing import TextIO

from guidsvc.errors import StartError
from guidsvc.monitoring.logs.printable import escape_lines

_REMEDY = "redirect it to a file on a disk with free space, or to a program that reads it"


def write(text: str, *, done: str = "") -> None:
    """Write a text to standard output. Raise StartError if that fails; if its reader has left, exit like SIGPIPE.

    `done` says what the command has changed and what to do about it. It is reported even if the reader has left.
    """
    write_escaped(escape_lines(text), done=done)


def write_escaped(text: str, *, done: str = "") -> None:
    """Do as `write` does with a text whose control characters are escaped, except those of its colours."""
    try:
        _write(text)
    except BrokenPipeError as error:
        _discard_buffer(sys.stdout)
        if not done:
            sys.exit(128 + signal.SIGPIPE)
        raise _failure(error, done) from error
    except OSError as error:
        _discard_buffer(sys.stdout)
        raise _failure(error, done or _REMEDY) from error


def require_writable() -> None:
    """Raise StartError if standard output cannot be written, as far as that can be known without writing to it."""
    try:
        if sys.stdout is None:
            raise OSError(EBADF, "it is closed")
        _refuse_full(sys.stdout.fileno())
    except OSError as error:
        if error.errno is not None:  # else a stream without a descriptor, which buffers the text itself
            raise _failure(error, f"nothing was changed; {_REMEDY}") from error


def tell(text: str) -> None:
    """Write a line to standard error. If that cannot be written, nothing else could show the failure."""
    if sys.stderr is not None:
        try:
            print(escape_lines(text), file=sys.stderr, flush=True)
        except OSError:
            _discard_buffer(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal."""
    with suppress(ValueError):  # it is closed
        return stream is not None and stream.isatty()
    return False


def _write(text: str) -> None:
    if sys.stdout is None:
        raise OSError(EBADF, "it is closed")
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _refuse_full(descriptor: int) -> None:
    """Raise OSError if nothing reads the pipe, or the disk of the file is full."""
    os.write(descriptor, b"")  # fails on a descriptor that is not open for writing, and on /dev/full
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        raise OSError(EPIPE, "nothing reads it")
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        disk = os.fstatvfs(descriptor)
        free_blocks = disk.f_bavail if os.geteuid() else disk.f_bfree  # root may use the blocks that are reserved
        if disk.f_blocks and not free_blocks:
            raise OSError(ENOSPC, os.strerror(ENOSPC))


def _failure(error: OSError, remedy: str) -> StartError:
    return StartError(f"standard output cannot be written: {error.strerror or error}; {remedy}")


def _discard_buffer(stream: TextIO) -> None:
    """Redirect a stream to /dev/null: Python would write its buffer again, and fail again, when it ends."""
    with suppress(OSError, ValueError, AttributeError):  # it is closed, or has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
