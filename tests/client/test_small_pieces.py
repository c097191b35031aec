"""Responses in many small pieces: they cost no more than their bytes, and leave the event loop to others."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Self, SupportsIndex

import httpx2
import pytest

from guidsvc_client import AsyncClient, StreamTruncated
from guidsvc_client.protocol.ndjson import MAX_LINE_BYTES, LineReader

URL = "http://guidsvc.test"
GUID = "9094E4C980C74043A4B586B420E69DDF"
RECORD = json.dumps({"guid": GUID, "expire": "4102444800", "user": "a" * 20_000}).encode()


class CountedBytes(bytes):
    """Bytes that count how many of them are copied or searched."""

    counts: list[int]

    @classmethod
    def of(cls, content: bytes, counts: list[int]) -> Self:
        counted = cls(content)
        counted.counts = counts
        return counted

    def __radd__(self, start: bytes | bytearray) -> Self:  # type: ignore[misc]  # it takes precedence in a subclass
        """Return both as new bytes."""
        if isinstance(start, bytearray):  # which appends in place
            self.counts.append(len(self))
            return NotImplemented
        self.counts.append(len(start) + len(self))
        return self.of(bytes(start) + bytes(self), self.counts)

    def split(self, sep: object = None, maxsplit: SupportsIndex = -1) -> list[bytes]:
        self.counts.append(len(self))
        parts = bytes(self).split(b"\n", maxsplit)
        return [self.of(part, self.counts) for part in parts]


class Pieces(httpx2.AsyncByteStream):
    """A response that arrives byte by byte, and never makes its reader wait."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield each byte."""
        for place in range(len(self._content)):
            yield self._content[place : place + 1]


def test_line_in_single_bytes_costs_no_more_than_its_bytes() -> None:
    counts: list[int] = []
    reader = LineReader(len)
    values = [
        value for byte in b'"%b"\n' % (b"a" * 5000) for value in reader.feed(CountedBytes.of(bytes([byte]), counts))
    ]

    assert values == [5000]
    assert sum(counts) < 4 * 5003


def test_lines_are_read_however_they_are_cut() -> None:
    content = b'1\n{"a": "\xe2\x80\xa8"}\n[2]\n3'
    for size in range(1, len(content) + 1):
        reader = LineReader(lambda value: value)
        pieces = [content[place : place + size] for place in range(0, len(content), size)]
        assert [value for piece in pieces for value in reader.feed(piece)] == [1, {"a": "\u2028"}, [2]]
        with pytest.raises(StreamTruncated, match="ended within a line"):
            reader.end()


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_line_over_its_bound_is_rejected(end: bytes) -> None:
    reader = LineReader(len)
    assert list(reader.feed(b'"%b"\n' % (b"a" * (MAX_LINE_BYTES - 2)))) == [MAX_LINE_BYTES - 2]
    with pytest.raises(StreamTruncated, match=f"more than {MAX_LINE_BYTES} bytes"):
        list(reader.feed(b'"%b"' % (b"a" * (MAX_LINE_BYTES - 1)) + end))


@pytest.mark.parametrize("kind", ["stream", "record"])
async def test_other_tasks_run_while_small_pieces_are_read(kind: str) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Pieces(RECORD + b"\n")))
    async with AsyncClient(URL, http=httpx2.AsyncClient(transport=transport)) as guids:
        other = asyncio.create_task(count_turns())
        record = await guids.get(GUID) if kind == "record" else await anext(aiter(guids.stream()))
        other.cancel()
    assert record.guid == GUID
    assert turns > len(RECORD) / 100
