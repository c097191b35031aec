"""Cutting a stream into lines."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from guidsvc.http.ndjson import Line, NdjsonSplitter

MOST = 4


def cut(*parts: bytes) -> list[Line]:
    """Return the lines of a stream that comes in these parts."""
    lines = NdjsonSplitter(MOST)
    return [line for part in parts for line in lines.feed(part)] + list(lines.end())


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
def test_any_division_of_the_stream_gives_the_same_lines(text: str, places: list[int]) -> None:
    body = text.encode()
    bounds = [0, *sorted(places), len(body)]

    assert cut(*(body[a:b] for a, b in pairwise(bounds))) == cut(body)
