"""Reading what a client would like."""

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


@pytest.mark.parametrize("part", ['a="', '\\"', "a=b;", "=", ",", " "])
def test_header_parsing_takes_bounded_time(part: str) -> None:
    begun = time.process_time()
    parse(part * (60_000 // len(part)))
    assert time.process_time() - begun < 2
