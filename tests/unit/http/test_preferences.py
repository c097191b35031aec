"""The parser of the Prefer header."""

import time

import pytest

from guidsvc.http.headers.prefer import parse


@pytest.mark.parametrize(
    ("header", "preferences"),
    [
        (None, {}),
        ("return=minimal", {"return": "minimal"}),
        ('Return = "Minimal"', {"return": "minimal"}),
        ("respond-async, wait=5, return=minimal; foo=bar", {"respond-async": "", "wait": "5", "return": "minimal"}),
        ("return=total-count, return=minimal", {"return": "total-count"}),
        ('a="x, return=minimal", b', {"a": "x, return=minimal", "b": ""}),
        (",,=,return=minimal", {"return": "minimal"}),
        ("a; return=minimal", {"a": ""}),
    ],
)
def test_first_of_repeated_preferences_counts(header: str | None, preferences: dict[str, str]) -> None:
    assert parse(header) == preferences


@pytest.mark.parametrize("piece", ['a="', '\\"', "a=b;", "=", ",", " "])
def test_header_parsing_takes_bounded_time(piece: str) -> None:
    started = time.process_time()
    parse(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 2
