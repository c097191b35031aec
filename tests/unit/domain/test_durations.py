"""The parser of durations and points in time that settings, flags and filters share."""

import pytest

from guidsvc.domain.durations import MAX_SECONDS, Moment, parse_duration, parse_moment, parse_whole_seconds
from guidsvc.domain.record import MAX_TIME

NEW_YEAR = 1_798_761_600
"""The start of 2027 in UTC, in Unix seconds."""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3600", 3600),
        ("0", 0),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("45s", 45),
        ("30m", 1800),
        ("12h", 43_200),
        ("90d", 7_776_000),
        ("8w", 4_838_400),
        ("0.5h", 1800),
        (" 7d ", 604_800),
        ("36600d", MAX_SECONDS),
    ],
)
def test_duration_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "d", "-1", "+1", "1 d", "90D", "1y", "1e3", "inf", "nan", "0x10", "٣", "1h30m", "1."]
)
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^must be a number of seconds or a duration with a unit \(90s, 30m, 12h, 90d, 8w\)$"
    ):
        parse_duration(text)


def test_duration_is_at_most_100_years() -> None:
    with pytest.raises(ValueError, match=r"^must be at most 100 years \(36600d\)$"):
        parse_duration("36601d")


def test_fraction_of_a_second_is_no_whole_duration() -> None:
    assert parse_whole_seconds("1.5m") == 90
    with pytest.raises(ValueError, match=r"^must be a whole number of seconds$"):
        parse_whole_seconds("1500ms")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1798761600", NEW_YEAR),
        ("0", 0),
        ("2027-01-01", NEW_YEAR),
        ("2027-01-01T00:00:00Z", NEW_YEAR),
        ("2027-01-01t00:00:00z", NEW_YEAR),
        ("2027-01-01 00:00:00Z", NEW_YEAR),
        ("2027-01-01T01:30:00+01:30", NEW_YEAR),
        ("2026-12-31T19:00:00-05:00", NEW_YEAR),
        ("2027-01-01T00:00:00.999Z", NEW_YEAR),
        ("9999-12-31T23:59:59Z", MAX_TIME),
    ],
)
def test_moment_is_a_date_a_time_or_unix_time(text: str, seconds: int) -> None:
    assert parse_moment(text) == Moment(seconds, is_from_now=False)


@pytest.mark.parametrize(("text", "seconds"), [("+24h", 86_400), ("90d", 7_776_000), ("+60", 60), ("1s", 1)])
def test_moment_counts_from_now(text: str, seconds: int) -> None:
    moment = parse_moment(text)

    assert moment == Moment(seconds, is_from_now=True)
    assert moment.at(now_ms=1_000_999) == 1000 + seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tomorrow", "must be a duration from now"),
        ("", "must be a duration from now"),
        ("-1", "must be a duration from now"),
        ("++1d", "must be a duration from now"),
        ("2027-01-01T00:00:00", "needs a time zone; for UTC, write 2027-01-01T00:00:00Z"),
        ("2027-01", "must be a duration from now"),
        ("2027-02-30", "is not a date or time that exists"),
        ("2027-01-01T25:00:00Z", "is not a date or time that exists"),
        ("2027-01-01T00:00:60Z", "is not a date or time that exists"),
        ("1969-12-31", "is before 1970"),
        ("253402300800", "is too far in the future"),
        ("9999-12-31T23:59:59-01:00", "is too far in the future"),
        ("9999999d", "is too far in the future"),
    ],
)
def test_other_text_is_no_moment(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        parse_moment(text)
