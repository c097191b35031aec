"""GUIDs, versions, times and JSON as people type them."""

import time
from typing import Any

import pytest

from guidsvc.cli.remote.values import absolute, expiry_members, parse_object, parse_version, with_times
from guidsvc.domain.durations import parse_moment

DAY = 86_400


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("90d", {"ttl": 90 * DAY}),
        ("+24h", {"ttl": DAY}),
        ("12h", {"ttl": DAY // 2}),
        ("2027-01-01", {"expire": 1_798_761_600}),
        ("2027-01-01T02:00:00+02:00", {"expire": 1_798_761_600}),
        ("1798761600", {"expire": 1_798_761_600}),
        ("0", {"expire": 0}),
    ],
)
def test_expiry_is_a_life_or_a_time(text: str, members: dict[str, int]) -> None:
    moment = parse_moment(text)

    assert expiry_members(moment) == members
    assert absolute(moment) == pytest.approx(members.get("expire", time.time() + members.get("ttl", 0)), abs=5)


@pytest.mark.parametrize(("text", "version"), [("17", 17), ('"17"', 17), ("*", "*"), (" 17 ", 17)])
def test_version_may_be_an_entity_tag(text: str, version: int | str) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "-1", "W/17", "1" * 20, "\u0661"])
def test_text_that_is_no_version_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="must be a version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not JSON"),
        ("7", "must be a JSON object"),
        ("{}x", "is not JSON"),
        ('{"a": {"b": 1, "b": 2}}', "a member name is repeated"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ('{"a": 1e400}', "1e400 is too large"),
        ('{"a": "\\udc00"}', "must be UTF-8"),
        ('{"a":' * 5000, "nested too deeply"),
        ('{"a": 1' + "0" * 5000 + "}", "is not JSON"),
    ],
)
def test_text_that_is_no_object_is_rejected(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_object(text)


def test_times_in_json_may_be_texts() -> None:
    members: dict[str, Any] = {"user": "a", "expire": "90d", "spread": "1h"}

    assert with_times(members, is_put=True) == {"user": "a", "ttl": 90 * DAY, "spread": 3600}
    assert with_times({"expire": "1798761600"}, is_put=False) == {"expire": 1_798_761_600}
    assert with_times({"expire": "90d"}, is_put=False)["expire"] == pytest.approx(time.time() + 90 * DAY, abs=5)


@pytest.mark.parametrize("value", [None, [], 1.5, "soon", -1])
def test_wrong_times_in_json_are_rejected(value: object) -> None:
    for name in ("expire", "ttl"):
        with pytest.raises(ValueError, match=f"has the wrong {name}: it"):
            with_times({name: value}, is_put=True)
