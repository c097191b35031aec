"""Reading of files that settings name: regular files only, up to a size.

A FIFO would be waited for without end, and a device such as /dev/zero would fill the memory.
"""

import errno
import os
import stat
from io import BytesIO, TextIOWrapper
from pathlib import Path

MAX_BYTES = 1024 * 1024
"""A larger file is refused."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def read_file(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return what a file holds; OSError, with what is wrong in `strerror`, if it cannot be read or is not to be."""
    _refuse_special(Path(path).stat(), path)  # before it is opened: to open a FIFO wakes up who writes into it
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        _refuse_special(os.fstat(file.fileno()), path)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"this file is over {max_bytes} bytes; name the right one", str(path))
    return content


def read_text(path: str | Path) -> str:
    """Return the text of a file in UTF-8, with each line end as a newline; OSError, or UnicodeDecodeError."""
    return TextIOWrapper(BytesIO(read_file(path)), encoding="utf-8").read()


def _refuse_special(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "this is a pipe or a device; name a regular file", str(path))
