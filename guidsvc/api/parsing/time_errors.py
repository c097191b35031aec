"""Messages about values that are not a Unix time in seconds. They suggest the time that was probably meant."""

import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from guidsvc.domain.durations import UNIT_SECONDS
from guidsvc.domain.record import MAX_TIME

EXAMPLE_TIME = 1_798_761_600
"""2027-01-01T00:00:00Z."""
MAX_DATE = 40
"""Maximum length of a text that is read as a date or a number, in characters."""
_RULE = f"must be Unix time in seconds, as a string of digits or an integer, such as {EXAMPLE_TIME}"
_NUMBER = re.compile(r"([+-]?)([0-9]+)(\.[0-9]*)?([eE][+]?[0-9]{1,2})?")
_DURATION = re.compile(r"\+?[0-9]+ ?(?:[smhdwy]|(?:sec(?:ond)?|min(?:ute)?|hour|day|week|month|year)s?)|P[0-9T].*")
_COUNTED = re.compile(r"\+?([0-9]{1,12}) ?([smhdw])(?:ec(?:ond)?s?|in(?:ute)?s?|ours?|ays?|eeks?)?")
"""A number of units of fixed length."""
_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_FIRST_YEAR, _LAST_YEAR = 978_307_200, 4_133_980_800  # 2001 to 2101: no other unit has such a number of seconds


def explain(value: object) -> str:
    """Return why a JSON value, or the text of a query parameter, is not a Unix time, and what to send instead."""
    if isinstance(value, bool):
        return f"{_RULE}, not {str(value).lower()}"
    if isinstance(value, int):
        return _number(value)
    if isinstance(value, float):
        return _fraction(value)
    return _text(value.strip()) if isinstance(value, str) and len(value) <= MAX_DATE else _RULE


def _number(value: int) -> str:
    """Say why an integer is out of range."""
    if value < 0:
        return "must not be negative: Unix time in seconds is 0 or more"
    for unit, per_second in _UNITS.items():
        if _FIRST_YEAR <= value // per_second <= _LAST_YEAR:
            return f"must be Unix time in seconds, not in {unit}; {_meant(value // per_second)}"
    return f"must be Unix time in seconds, at most {MAX_TIME}, the end of the year 9999"


def _fraction(value: float) -> str:
    if value < 0:
        return _number(-1)
    advice = _meant(int(value)) if _FIRST_YEAR <= value <= MAX_TIME else _example()
    return f"must be a whole number of seconds, without fraction or exponent; {advice}"


def _text(text: str) -> str:
    if match := _NUMBER.fullmatch(text):
        sign, _, fraction, exponent = match.groups()
        if fraction or exponent:
            return _fraction(float(text))
        return _number(int(text)) if sign == "-" or int(text) > MAX_TIME else _digits_only(int(text))
    if _DURATION.fullmatch(text):
        return f"must be a time, not a duration; {_from_now(text)}"
    date = _date(text)
    if date is None:
        return _RULE
    seconds = int(date.timestamp())
    return _number(-1) if seconds < 0 else f"must be Unix time in seconds, not a date; {_meant(seconds)}"


def _from_now(text: str) -> str:
    """Name the Unix time that is a duration from now, or the current one if the length of the unit varies."""
    now, match = int(time.time()), _COUNTED.fullmatch(text)
    later = now + int(match[1]) * int(UNIT_SECONDS[match[2]]) if match else MAX_TIME + 1
    if later > MAX_TIME:
        return f"add it to the current Unix time, {now}"
    return f"{text.removeprefix('+')} from now is {later}"


def _digits_only(seconds: int) -> str:
    return f"must have only digits, without spaces or a sign; {_meant(seconds)}"


def _date(text: str) -> datetime | None:
    """Return the time of an ISO 8601 or RFC 5322 date, in UTC unless it says otherwise."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(text)
            return date if date.tzinfo else date.replace(tzinfo=UTC)
        except (ValueError, IndexError, TypeError, OverflowError):
            continue
    return None


def _meant(seconds: int) -> str:
    return f"did you mean {seconds}?"


def _example() -> str:
    return f"send {EXAMPLE_TIME}, for example"
