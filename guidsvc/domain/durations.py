"""Durations and points in time as people write them: `90d`, `+24h`, `2027-01-01`, RFC 3339, or plain seconds.

Settings, flags and filters share this parser, so that a text means the same everywhere. This module knows no clock: a
`Moment` that counts from now gets the current time from its caller.
"""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from guidsvc.domain.record import MAX_TIME

UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MAX_SECONDS = 100 * 366 * 86_400
"""Longest duration, in seconds: about 100 years."""
DURATION_FORMS = "a number of seconds or a duration with a unit (90s, 30m, 12h, 90d, 8w)"
MOMENT_FORMS = (
    "a duration from now (90d, 12h, 8w), a date (2027-01-01), a time with its time zone (2027-01-01T12:00:00Z), "
    "or Unix time"
)

_DURATION = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,6})?)(?P<unit>ms|[smhdw])?")
_UNIX_TIME = re.compile(r"[0-9]{1,12}")
_ZONELESS = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
"""The date-time of RFC 3339, section 5.6, which permits a space instead of the T, and small letters."""


class Moment(NamedTuple):
    """A point in time: Unix seconds, or seconds from now."""

    seconds: int
    is_from_now: bool

    def at(self, now_ms: int) -> int:
        """Return the Unix time in seconds; `now_ms` is the current Unix time in milliseconds."""
        return self.seconds + (now_ms // 1000 if self.is_from_now else 0)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90d`, `500ms` or `3600`. Raise ValueError for any other text."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"must be {DURATION_FORMS}")
    seconds = round(float(match["number"]) * UNIT_SECONDS[match["unit"] or "s"], 6)
    if seconds > MAX_SECONDS:
        raise ValueError("must be at most 100 years (36600d)")
    return seconds


def parse_whole_seconds(text: str) -> int:
    """Return the seconds of a duration that must be a whole number of seconds. Raise ValueError for any other."""
    seconds = parse_duration(text)
    if seconds != int(seconds):
        raise ValueError("must be a whole number of seconds")
    return int(seconds)


def parse_moment(text: str) -> Moment:
    """Return the moment that a text names (`MOMENT_FORMS`). Raise ValueError for any other text.

    A number without a unit is Unix time; a leading + makes it seconds from now. A date begins at midnight UTC.
    A fraction of a second is dropped.
    """
    text = text.strip()
    if _UNIX_TIME.fullmatch(text):
        return _bounded(int(text))
    if _DATE.fullmatch(text) or _TIME.fullmatch(text):
        return _bounded(_unix_seconds(text))
    require_zone(text)
    if _DURATION.fullmatch(text.removeprefix("+")) is None:
        raise ValueError(f"must be {MOMENT_FORMS}")
    return Moment(_seconds_from_now(text.removeprefix("+")), is_from_now=True)


def rfc_3339(seconds: float) -> str:
    """Return a Unix time as people read it, such as 2027-01-01T00:00:00Z."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def require_zone(text: str) -> None:
    """Raise ValueError for a time that lacks only its zone."""
    if _ZONELESS.fullmatch(text):
        raise ValueError(f"needs a time zone; for UTC, write {text}Z")


def _seconds_from_now(text: str) -> int:
    try:
        return int(parse_duration(text))
    except ValueError as error:
        raise ValueError("is too far in the future") from error


def _unix_seconds(text: str) -> int:
    """Return the Unix time of an RFC 3339 date or date-time, rounded down to seconds."""
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError("is not a date or time that exists") from error
    zoned = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return int(zoned.timestamp() // 1)


def _bounded(seconds: int) -> Moment:
    if seconds < 0:
        raise ValueError("is before 1970")
    if seconds > MAX_TIME:
        raise ValueError("is too far in the future")
    return Moment(seconds, is_from_now=False)
