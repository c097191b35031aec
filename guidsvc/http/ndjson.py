"""Cutting a body that is streamed in into its lines."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_VISIBLE = re.compile(rb"\S")


class Line(NamedTuple):
    """A line that is not blank: its number, from 1, and its text; None where that was too long to be kept."""

    number: int
    text: bytes | None


class NdjsonSplitter:
    """The lines of a stream, none of which may have more than `most` bytes; line ends are LF, or CR LF."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._number = 1
        self._begun = bytearray()

    @property
    def number(self) -> int:
        """The number of the line that is not complete yet."""
        return self._number

    @property
    def held_bytes(self) -> int:
        """How many bytes of the line that is not complete are held."""
        return len(self._begun)

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in this part of the stream."""
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
        """Count the blank lines that come next, at the cost of their bytes; return where they end.

        It looks no further than a line may be long: of a longer one not even the blanks are skipped.
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
        """Keep no more than shows that a line is too long."""
        self._begun += part[: self._most + 2 - len(self._begun)]
