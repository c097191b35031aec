"""Hidden characters in texts of clients are shown as escapes, at little cost."""

import json
import sys
from typing import Any

import pytest

from guidsvc.http.hidden_characters import hidden_count, show_hidden


@pytest.mark.parametrize(
    ("text", "shown", "count"),
    [
        ("plain", "plain", 0),
        ("\u202e", r"\u202e", 1),
        ("a\u202eb\x9f\ufeffc", r"a\u202eb\u009f\ufeffc", 3),
        ("Stra\u00dfe \U0001f469\u200d\U0001f4bb", "Stra\u00dfe \U0001f469\u200d\U0001f4bb", 0),
    ],
)
def test_hidden_characters_are_escaped_as_json_does(text: str, shown: str, count: int) -> None:
    assert (show_hidden(text), hidden_count(text)) == (shown, count)
    assert json.loads(f'"{shown}"') == text


def test_escapes_make_no_call_for_each_character() -> None:
    calls = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        shown = show_hidden("\u202e\u202dx" * 10_000)
    finally:
        sys.setprofile(None)
    assert len(shown) == 13 * 10_000
    assert calls < 100
