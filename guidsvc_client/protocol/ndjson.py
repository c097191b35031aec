"""Lines of JSON, as they arrive in pieces. JSON may contain other separators that `str.splitlines` would split at."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from guidsvc_client.errors import GuidsvcError, StreamTruncated

MAX_LINE_BYTES = 1 << 20
Value = TypeVar("Value")


class LineReader(Generic[Value]):
    """Joins the pieces of lines, and reads each with this function of its JSON."""

    def __init__(self, read: Callable[[Any], Value]) -> None:
        self._rest = bytearray()  # of the line that is incomplete
        self._read = read

    def feed(self, piece: bytes) -> Iterator[Value]:
        """Yield the value of each line that a piece completes. A piece that completes none costs only its own bytes."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._add(end)
            line = bytes(self._rest)
            self._rest.clear()
            yield self._value(line)
        self._add(rest)

    def _add(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > MAX_LINE_BYTES:
            raise StreamTruncated(f"a line has more than {MAX_LINE_BYTES} bytes; this is no stream of records")

    def end(self) -> None:
        """Raise StreamTruncated if a line is incomplete."""
        if self._rest:
            raise StreamTruncated("the stream ended within a line; read it again from the beginning")

    def _value(self, line: bytes) -> Value:
        try:
            return self._read(json.loads(line))
        except Exception as error:  # a line may hold anything; see `Reply.reading`
            raise StreamTruncated(f"a line is no record: {line[:200]!r}; check the URL and the proxies") from error


def truncated(error: GuidsvcError) -> StreamTruncated:
    """Return the error of a stream that a failure cut off."""
    return StreamTruncated(f"{error}; read the stream again from the beginning")
