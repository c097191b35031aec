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
def test_of_preferences_with_one_name_the_first_counts(header: str | None, preferences: dict[str, str]) -> None:
    assert parse(header) == preferences


@pytest.mark.parametrize("part", ['a="', '\\"', "a=b;", "=", ",", " "])
def test_no_header_takes_long_to_read(part: str) -> None:
    begun = time.process_time()
    parse(part * (60_000 // len(part)))
    assert time.process_time() - begun < 2
