"""The frames of a SQLite write-ahead log, and those of them that SQLite drops.

See "The WAL File Format" and "The WAL-Index File Format", https://www.sqlite.org/walformat.html.
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_PAGE_SIZES = {512 << power for power in range(8)}
_MAGIC = (0x377F0682, 0x377F0683)
_NO_SALTS = bytes(8)

Checksum = tuple[int, int]


class LogIndex(NamedTuple):
    """What SQLite takes of a log: its salts, the number of frames, and the checksum of the last of them."""

    salts: bytes
    frames: int
    checksum: Checksum


class _Frame(NamedTuple):
    """A frame, by the place of its page in the log, and its header."""

    page_start: int
    header: bytes

    @property
    def is_commit(self) -> bool:
        return any(self.header[4:8])

    @property
    def salts(self) -> bytes:
        return self.header[8:16]

    @property
    def checksum(self) -> Checksum:
        return _stored_checksum(self.header[16:24])


def read_index(file: BinaryIO) -> LogIndex:
    """Read the index of a log, the file `-shm`."""
    header = os.pread(file.fileno(), 48, 0)
    frames, first, second = struct.unpack_from("=I4xII", header.ljust(48, b"\0"), 16)
    return LogIndex(header[32:40], frames, (first, second))


def salts_of(log: BinaryIO) -> bytes:
    """Return the salts of a log, which it gets anew each time that it begins anew."""
    return os.pread(log.fileno(), _HEADER_BYTES, 0)[16:24]


def dropped_commits(log: BinaryIO, index: LogIndex) -> int:
    """Return how many commits of a log SQLite drops: those behind a wrong checksum.

    Commits that it does not count although every checksum up to them is right are not dropped: they are under way, or
    the disk has rejected their sync. If a process writes the log meanwhile, the result may be wrong.
    """
    header = os.pread(log.fileno(), _HEADER_BYTES, 0)
    page_bytes, salts = int.from_bytes(header[8:12], "big"), header[16:24]
    is_same_log = index.salts in {salts, _NO_SALTS}  # none if SQLite finds the header of the log invalid
    if not is_same_log or page_bytes not in _PAGE_SIZES:
        return 0
    checksum = index.checksum if index.frames else _checksum_of_header(header)
    dropped = 0
    for frame in _frames(log, page_bytes, index.frames):
        is_of_log = frame.salts == salts  # frames from before the log began anew have other salts
        if checksum is not None:
            page = os.pread(log.fileno(), page_bytes, frame.page_start)
            if len(page) < page_bytes:  # another process has truncated the log meanwhile
                break
            checksum = _checksum(header, frame.header[:8] + page, checksum)
            if not is_of_log or checksum != frame.checksum:
                checksum = None
        dropped += checksum is None and is_of_log and frame.is_commit
    return dropped


def _frames(log: BinaryIO, page_bytes: int, skipped: int) -> Iterator[_Frame]:
    """Yield the whole frames of a log, without the first ones."""
    frame_bytes = _FRAME_HEADER_BYTES + page_bytes
    size = os.fstat(log.fileno()).st_size
    for start in range(_HEADER_BYTES + skipped * frame_bytes, size - frame_bytes + 1, frame_bytes):
        header = os.pread(log.fileno(), _FRAME_HEADER_BYTES, start)
        if len(header) < _FRAME_HEADER_BYTES:  # another process has truncated the log meanwhile
            return
        yield _Frame(start + _FRAME_HEADER_BYTES, header)


def _checksum_of_header(header: bytes) -> Checksum | None:
    """Return the checksum with which that of the first frame begins, or None if the header is invalid."""
    if int.from_bytes(header[:4], "big") not in _MAGIC:
        return None
    checksum = _checksum(header, header[:24], (0, 0))
    return checksum if checksum == _stored_checksum(header[24:32]) else None


def _stored_checksum(content: bytes) -> Checksum:
    first, second = struct.unpack(">II", content)
    return first, second


def _checksum(header: bytes, content: bytes, before: Checksum) -> Checksum:
    """Return the checksum of a content that follows another. The header of the log tells its byte order."""
    first, second = before
    words = struct.unpack(f"{'>' if header[3] & 1 else '<'}{len(content) // 4}I", content)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
