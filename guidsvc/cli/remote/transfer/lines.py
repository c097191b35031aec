"""The lines of a file, and the operations that they stand for."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from guidsvc.cli.remote.values import parse_object
from guidsvc_client.protocol.values import guid_of

MAX_LINE_BYTES = 64 * 1024
"""The longest operation that the service accepts."""
MAX_LINES, MAX_BYTES = 1000, 3_500_000
"""The most lines, and bytes, of a batch."""
_NUMBERS = ("expire", "ttl", "spread")
_CONDITIONS = {"op", "if_match", "if_none_match"}


@dataclass(frozen=True, slots=True)
class Operation:
    """A line that puts a record."""

    number: int
    guid: str
    members: Mapping[str, Any]


@dataclass(slots=True)
class Chunk:
    """The lines of one batch: the operations, and the lines that are none, with the reason."""

    first: int
    operations: list[Operation] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    size_bytes: int = 0
    line: int = 0
    """The number of the last line."""
    digest: str = ""
    """The digest of the file up to its end."""


class ReadError(Exception):
    """The file cannot be read further."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class LineReader:
    """Reads a file of lines chunk by chunk, and digests what it has read."""

    def __init__(self, file: BinaryIO, line: int = 0) -> None:
        self._file = file
        self._line = line
        self._digest = hashlib.sha256()

    def skip(self, size_bytes: int) -> str:
        """Read the beginning of the file, and return its digest. Raise ReadError if that fails."""
        while size_bytes > 0 and (piece := self._read(self._file.read, min(size_bytes, 1 << 20))):
            self._digest.update(piece)
            size_bytes -= len(piece)
        return self._digest.hexdigest()

    def chunks(self) -> Iterator[Chunk]:
        """Yield the lines as batches. Raise ReadError if the file cannot be read."""
        while True:
            chunk = Chunk(self._line + 1)
            while len(chunk.operations) + len(chunk.faults) < MAX_LINES and chunk.size_bytes < MAX_BYTES:
                if not self._read_line(chunk):
                    break
            if not chunk.size_bytes:
                return
            chunk.line, chunk.digest = self._line, self._digest.hexdigest()
            yield chunk

    def _read_line(self, chunk: Chunk) -> bool:
        """Add a line to a chunk; return whether there was one."""
        content = self._read(self._file.readline, MAX_LINE_BYTES + 2)
        if not content:
            return False
        self._line += 1
        is_too_long = len(content) > MAX_LINE_BYTES + 1 or (len(content) > MAX_LINE_BYTES and content[-1:] != b"\n")
        self._add(content, chunk)
        if is_too_long:
            self._skip_rest(content, chunk)
            chunk.faults.append((self._line, f"has more than {MAX_LINE_BYTES} bytes; the service accepts no more"))
            return True
        if content.strip():
            try:
                chunk.operations.append(operation(self._line, content))
            except ValueError as error:
                chunk.faults.append((self._line, str(error)))
        return True

    def _skip_rest(self, content: bytes, chunk: Chunk) -> None:
        while content and content[-1:] != b"\n":
            content = self._read(self._file.readline, 1 << 20)
            self._add(content, chunk)

    def _read(self, read: Callable[[int], bytes], size_bytes: int) -> bytes:
        try:
            return read(size_bytes)
        except OSError as error:
            raise ReadError(error) from error

    def _add(self, content: bytes, chunk: Chunk) -> None:
        self._digest.update(content)
        chunk.size_bytes += len(content)


def operation(number: int, content: bytes) -> Operation:
    """Return the put operation of a line. Raise ValueError if it is not a record."""
    members = parse_object(content.decode())
    if "guid" not in members:
        raise ValueError("has no guid; add one, so that the line can be imported once only")
    if conditions := members.keys() & _CONDITIONS:
        raise ValueError(f"has {', '.join(sorted(conditions))}; a line is a record, and --on-conflict is for all lines")
    guid = guid_of(str(members.pop("guid")))
    return Operation(number, guid, {name: _value(name, value) for name, value in members.items()})


def _value(name: str, value: Any) -> Any:
    if name not in _NUMBERS:
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 12:  # noqa: PLR2004
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{name} must be a whole number of seconds, such as 1798761600")


def halves(operations: Sequence[Operation]) -> tuple[Sequence[Operation], Sequence[Operation]]:
    """Return the two halves of a batch."""
    middle = len(operations) // 2
    return operations[:middle], operations[middle:]


def parts_without_repeats(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """Divide operations, in order, so that no part has a GUID twice."""
    part: list[Operation] = []
    guids: set[str] = set()
    for each in operations:
        if each.guid in guids:
            yield part
            part, guids = [], set()
        part.append(each)
        guids.add(each.guid)
    if part:
        yield part
