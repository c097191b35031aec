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
    """Splitter of a stream into lines of at most `most` bytes, which end with LF or CR LF."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._number = 1
        self._begun = bytearray()

    @property
    def number(self) -> int:
        """The number of the incomplete line."""
        return self._number

    @property
    def held_bytes(self) -> int:
        """The buffered bytes of the incomplete line."""
        return len(self._begun)

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in this chunk."""
        place = 0
        while place < len(chunk):
            if not self._begun and chunk[place] in b"\n\r\t\v\f ":
                place = self._skip_blank(chunk, place)
            end = chunk.find(b"\n", place)
            self._keep(chunk[place:] if end < 0 else chunk[place:end])
            if end < 0:
                return
            yield from self.end()
            self._number += 1
            place = end + 1

    def _skip_blank(self, chunk: bytes, place: int) -> int:
        """Count the next blank lines, in time proportional to their bytes; return the position after them.

        The search covers at most the maximum line length, so a longer blank line is not skipped.
        """
        most = min(len(chunk), place + self._most)
        visible = _VISIBLE.search(chunk, place, most)
        end = chunk.rfind(b"\n", place, most if visible is None else visible.start()) + 1
        if not end:
            return place
        self._number += chunk.count(b"\n", place, end)
        return end

    def end(self) -> Iterator[Line]:
        """Yield the last line, if no line end followed it."""
        text, self._begun = bytes(self._begun.removesuffix(b"\r")), bytearray()
        if len(text) > self._most:
            yield Line(self._number, None)
        elif text.strip():
            yield Line(self._number, text)

    def _keep(self, part: bytes) -> None:
        """Buffer part of a line; of an overlong line, only enough to detect it."""
        self._begun += part[: self._most + 2 - len(self._begun)]
