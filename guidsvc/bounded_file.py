"""Read files that settings name: only regular files, up to a size limit.

Reading a FIFO could block forever, and a device such as /dev/zero would fill the memory.
"""

import errno
import os
import stat
from io import BytesIO, TextIOWrapper
from pathlib import Path

MAX_BYTES = 1024 * 1024
"""Default size limit; a larger file is rejected."""

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def read_file(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file. Raise OSError, with the reason in `strerror`, if it is unreadable or rejected."""
    _refuse_special(Path(path).stat(), path)  # before opening it: opening a FIFO wakes up its writer
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        _refuse_special(os.fstat(file.fileno()), path)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"the file is larger than {max_bytes} bytes; name another file", str(path))
    return content


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, with newlines normalized. Raise OSError or UnicodeDecodeError."""
    return TextIOWrapper(BytesIO(read_file(path)), encoding="utf-8").read()


def _refuse_special(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file but a pipe or a device; name a regular file", str(path))
