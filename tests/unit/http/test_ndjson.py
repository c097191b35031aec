"""The NDJSON splitter."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from guidsvc.http.ndjson import Line, NdjsonSplitter

MAX_LINE_BYTES = 4


def cut(*pieces: bytes) -> list[Line]:
    """Return the lines of a stream that arrives in these pieces."""
    lines = NdjsonSplitter(MAX_LINE_BYTES)
    return [line for piece in pieces for line in lines.feed(piece)] + list(lines.end())


def test_blank_lines_are_counted_and_skipped() -> None:
    assert cut(b"a\n\n \n\r\nb\n") == [Line(1, b"a"), Line(5, b"b")]


def test_line_at_the_size_limit_is_kept_and_a_longer_one_is_not() -> None:
    assert cut(b"1234\n12345\n1234\r\n123456789\nx") == [
        Line(1, b"1234"),
        Line(2, None),
        Line(3, b"1234"),
        Line(4, None),
        Line(5, b"x"),
    ]


@given(st.text(alphabet="ab\r\n ", max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_any_division_of_the_stream_gives_the_same_lines(text: str, cuts: list[int]) -> None:
    body = text.encode()
    bounds = [0, *sorted(cuts), len(body)]

    assert cut(*(body[a:b] for a, b in pairwise(bounds))) == cut(body)
