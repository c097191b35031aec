"""A file of values in prometheus_client's multiprocess format, written with pwrite(2).

prometheus_client itself maps such files into memory. A full disk, or a truncated file, then causes SIGBUS, which kills
the process; here a full disk raises OSError.
"""

import os
import struct
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

MODE = 0o600

_HEADER = struct.Struct("i4x")  # number of bytes in use
_VALUE = struct.Struct("dd")  # value and timestamp, which is 0 unless the most recent value counts
_MAX_BYTES = 2**31 - 1


def create(path: Path) -> None:
    """Create an empty file that only this user can read; raise OSError if that fails, as on a full disk.

    The file is complete when it gets its name. A link that another user put in its place is not followed.
    """
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        _write(descriptor, memoryview(_HEADER.pack(_HEADER.size)), 0)
    finally:
        os.close(descriptor)
    new.replace(path)


class ValueFile:
    """An open file: values are set in memory, and `flush` writes them."""

    def __init__(self, path: Path) -> None:
        values = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        self._positions: dict[str, int] = {key: position for key, _, _, position in values}
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._content = bytearray(os.pread(self._descriptor, _MAX_BYTES, 0))
        del self._content[_HEADER.unpack_from(self._content)[0] :]
        self._is_changed = False

    def value(self, key: str) -> float:
        """Return the value of a key, or 0 if it has none."""
        position = self._positions.get(key)
        return 0.0 if position is None else float(_VALUE.unpack_from(self._content, position)[0])

    def set_value(self, key: str, value: float, timestamp: float = 0.0) -> None:
        """Set the value of a key, in memory, and when it was measured."""
        position = self._positions.get(key)
        if position is None:
            position = self._positions[key] = self._append(key.encode())
        _VALUE.pack_into(self._content, position, value, timestamp)
        self._is_changed = True

    def flush(self) -> None:
        """Write all values if one has changed. If this raises OSError, the next flush writes them again."""
        if not self._is_changed:
            return
        _HEADER.pack_into(self._content, 0, len(self._content))
        with memoryview(self._content) as content:
            _write(self._descriptor, content[_HEADER.size :], _HEADER.size)
            _write(self._descriptor, content[: _HEADER.size], 0)  # last: it must not count unwritten bytes
        self._is_changed = False

    def close(self) -> None:
        """Close the file, without removing it."""
        os.close(self._descriptor)

    def _append(self, key: bytes) -> int:
        """Append an entry, and return the position of its value."""
        padding = b" " * (8 - (len(key) + 4) % 8)
        self._content += struct.pack("i", len(key)) + key + padding
        position = len(self._content)
        self._content += bytes(_VALUE.size)
        return position


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
