"""Incremental NDJSON splitter: cut a streamed body into lines."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_VISIBLE = re.compile(rb"\S")


class Line(NamedTuple):
    """A line that is not blank: its number, from 1, and its text, or None if it was too long."""

    number: int
    text: bytes | None


class NdjsonSplitter:
    """Splitter of a stream into lines of at most `limit` bytes, which end with LF or CR LF."""

    def __init__(self, limit: int) -> None:
        self._max_line_bytes = limit
        self._number = 1
        self._incomplete = bytearray()

    @property
    def number(self) -> int:
        """The number of the incomplete line."""
        return self._number

    @property
    def held_bytes(self) -> int:
        """The buffered bytes of the incomplete line."""
        return len(self._incomplete)

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in this chunk."""
        position = 0
        while position < len(chunk):
            if not self._incomplete and chunk[position] in b"\n\r\t\v\f ":
                position = self._skip_blank(chunk, position)
            end = chunk.find(b"\n", position)
            self._keep(chunk[position:] if end < 0 else chunk[position:end])
            if end < 0:
                return
            yield from self.end()
            self._number += 1
            position = end + 1

    def _skip_blank(self, chunk: bytes, position: int) -> int:
        """Count the next blank lines, in time proportional to their bytes; return the position after them.

        The search covers at most the maximum line length, so a longer blank line is not skipped.
        """
        limit = min(len(chunk), position + self._max_line_bytes)
        visible = _VISIBLE.search(chunk, position, limit)
        end = chunk.rfind(b"\n", position, limit if visible is None else visible.start()) + 1
        if not end:
            return position
        self._number += chunk.count(b"\n", position, end)
        return end

    def end(self) -> Iterator[Line]:
        """Yield the last line, if no line end followed it."""
        text, self._incomplete = bytes(self._incomplete.removesuffix(b"\r")), bytearray()
        if len(text) > self._max_line_bytes:
            yield Line(self._number, None)
        elif text.strip():
            yield Line(self._number, text)

    def _keep(self, part: bytes) -> None:
        """Buffer part of a line; of an overlong line, only enough to detect it."""
        self._incomplete += part[: self._max_line_bytes + 2 - len(self._incomplete)]
