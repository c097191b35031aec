"""Lines of JSON, as they arrive in pieces. JSON may contain other separators that `str.splitlines` would split at."""

import json
from collections.abc import Iterator
from typing import Any

from guidsvc_client.errors import GuidsvcError, StreamTruncated

MAX_LINE_BYTES = 1 << 20


class LineReader:
    """Joins the pieces of lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Yield the value of each line that a piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise StreamTruncated(f"a line has more than {MAX_LINE_BYTES} bytes; this is no stream of records")
        yield from map(_value, lines)

    def end(self) -> None:
        """Raise StreamTruncated if a line is incomplete."""
        if self._rest:
            raise StreamTruncated("the stream ended within a line; read it again from the beginning")


def truncated(error: GuidsvcError) -> StreamTruncated:
    """Return the error of a stream that a failure cut off."""
    return StreamTruncated(f"{error}; read the stream again from the beginning")


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise StreamTruncated(f"a line is not JSON: {line[:200]!r}; this is no stream of records") from error
