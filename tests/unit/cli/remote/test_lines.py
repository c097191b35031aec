"""The lines of a file: batches of bounded size, and a digest of what was read."""

import hashlib
import io
import tracemalloc
from itertools import islice

import pytest

from guidsvc.cli.remote.transfer.lines import MAX_BYTES, MAX_LINES, LineReader

GUID = "9094E4C980C74043A4B586B420E69DDF"


def line_of(number: int, size: int = 0) -> bytes:
    """Return a line with a number, of at least this size."""
    return b'{"guid":"%032X","user":"%s"}\n' % (number, b"u" * max(1, size - 60))


class EndlessLines(io.RawIOBase):
    """A file of a million lines, of which none is in memory."""

    def __init__(self, count: int) -> None:
        self._lines = map(line_of, range(count))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        line = next(self._lines, b"")
        buffer[: len(line)] = line
        return len(line)


@pytest.mark.slow
def test_million_lines_are_read_in_bounded_memory() -> None:
    chunks = LineReader(io.BufferedReader(EndlessLines(1_000_000), 4096)).chunks()
    tracemalloc.start()
    try:
        count = sum(len(chunk.operations) for chunk in islice(chunks, 8))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 8 * MAX_LINES
    assert peak_bytes < 8_000_000


def test_chunk_has_at_most_so_many_lines_and_bytes() -> None:
    small = LineReader(io.BytesIO(b"".join(map(line_of, range(MAX_LINES + 1)))))
    large = LineReader(io.BytesIO(b"".join(line_of(each, 60_000) for each in range(100))))

    assert [len(chunk.operations) for chunk in small.chunks()] == [MAX_LINES, 1]
    assert max(chunk.size_bytes for chunk in large.chunks()) < MAX_BYTES + 70_000


def test_digest_is_that_of_the_bytes_before() -> None:
    content = b"".join(map(line_of, range(2500))) + b"\n\noops\n" + b"x" * 200_000 + b"\n" + line_of(1).rstrip()
    chunks = list(LineReader(io.BytesIO(content)).chunks())
    end = 0
    for chunk in chunks:
        end += chunk.size_bytes
        assert chunk.digest == hashlib.sha256(content[:end]).hexdigest()
        assert LineReader(io.BytesIO(content)).skip(end) == chunk.digest
    assert (end, chunks[-1].line) == (len(content), 2505)
    assert [number for number, _ in chunks[-1].faults] == [2503, 2504]


def test_rest_after_a_place_is_read_alike() -> None:
    content = b"".join(map(line_of, range(2500)))
    first, second, third = LineReader(io.BytesIO(content)).chunks()
    reader = LineReader(io.BytesIO(content), first.line)
    reader.skip(first.size_bytes)

    assert list(reader.chunks()) == [second, third]


def test_longest_line_is_accepted_and_a_longer_one_not() -> None:
    longest = line_of(1, 65_000).rstrip(b"\n")
    longest = longest[:-2] + b"u" * (65_536 - len(longest)) + longest[-2:]
    for end in (b"", b"\n"):
        (chunk,) = LineReader(io.BytesIO(longest + end)).chunks()
        assert (len(chunk.operations), chunk.faults) == (1, [])
        (chunk,) = LineReader(io.BytesIO(b" " + longest + end)).chunks()
        assert (chunk.operations, [number for number, _ in chunk.faults]) == ([], [1])
