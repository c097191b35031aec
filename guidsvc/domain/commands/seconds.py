"""Numbers of seconds in bodies and queries, and the members of a life that is counted from now: `ttl` and `spread`."""

import re
from math import ceil
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, ValidationError, ValidationInfo, WithJsonSchema
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from guidsvc.domain.commands.fields import refuse_null
from guidsvc.domain.durations import parse_duration
from guidsvc.domain.record import DIGITS, MAX_TIME, TIME_PATTERN, validation_error

JSON_FORMS = ", as a string of digits or an integer"
"""The end of the rule for numbers of seconds in JSON; a query string has only text."""
MAX_DURATION = 40
"""Maximum length of a text that is read as a duration, in characters."""
_FRACTION = re.compile(r"[0-9]+\.[0-9]*")
_EXCLUDES = "excludes `expire`; send one of them"
_POSITIVE_PATTERN = TIME_PATTERN.replace("[0-9]{1,11}|[0-1][0-9]{11}", "[1-9][0-9]{0,10}|1[0-9]{11}")
_SECONDS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "pattern": _POSITIVE_PATTERN},
        {"type": "integer", "minimum": 1, "maximum": MAX_TIME},
    ]
}


def _parse_seconds(value: object) -> int:
    """Parse a number of seconds, 1 or more: a string of ASCII digits or an integer."""
    seconds = _integer(value)
    if seconds is None or not 1 <= seconds <= MAX_TIME:
        raise validation_error(
            "seconds",
            "must be a whole number of seconds from 1 to {most}{forms}{advice}",
            most=MAX_TIME,
            forms=JSON_FORMS,
            advice=_advice(value),
        )
    return seconds


def _integer(value: object) -> int | None:
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value.lstrip("0")[:13] or "0")  # 13 digits are out of range, and int() is slow on long strings
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _advice(value: object) -> str:
    """Suggest the next whole number of seconds for a fraction, 60.5, or a duration, 30m; else return an empty text."""
    if isinstance(value, float):
        is_fraction, seconds = True, value
    elif isinstance(value, str) and len(value) <= MAX_DURATION and not DIGITS.fullmatch(value):
        is_fraction, seconds = _FRACTION.fullmatch(value) is not None, _seconds_of(value)
    else:
        return ""
    rule = ", without fraction or exponent" if is_fraction else ""
    return f"{rule}; did you mean {ceil(seconds)}?" if 0 < seconds <= MAX_TIME else rule


def _seconds_of(text: str) -> float:
    """Return the seconds of a duration, or 0 if the text is none."""
    try:
        return parse_duration(text)
    except ValueError:
        return 0


PositiveSeconds = Annotated[int, PlainValidator(_parse_seconds), WithJsonSchema(_SECONDS_SCHEMA)]
"""A number of seconds from 1 to MAX_TIME."""
OptionalSeconds = Annotated[PositiveSeconds | None, BeforeValidator(refuse_null)]
"""The same as an optional member. Clients cannot send null."""


def exclude_expire(value: object, parse: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    """Parse `ttl`, and reject it together with `expire`, whether that is valid or not."""
    has_expire = info.data.get("expire", 0) is not None  # absent from the data if it is invalid
    try:
        ttl = parse(value)
    except ValidationError as error:
        if not has_expire:
            raise
        reason = error.errors(include_url=False)[0]["msg"]
        raise validation_error("ttl_excludes", "{reason}; and it {rule}", reason=reason, rule=_EXCLUDES) from error
    if has_expire:
        raise validation_error("ttl_excludes", "{rule}", rule=_EXCLUDES)
    return ttl


def require_ttl(value: object, info: ValidationInfo) -> object:
    """Reject `spread` without a `ttl`."""
    if info.data.get("ttl", 0) is None:
        raise validation_error("spread_alone", "requires `ttl`, to which it adds up to this many seconds at random")
    return value
