"""Cutting a body that is streamed in into its lines."""

from collections.abc import Iterator
from typing import NamedTuple


class Line(NamedTuple):
    """A line that is not blank: its number, from 1, and its text; None where that was too long to be kept."""

    number: int
    text: bytes | None


class Lines:
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
        first, *others = chunk.split(b"\n")
        self._keep(first)
        for part in others:  # of which most are empty where a client sends nothing but line ends
            if self._begun:
                yield from self.end()
            self._number += 1
            if part:
                self._keep(part)

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
