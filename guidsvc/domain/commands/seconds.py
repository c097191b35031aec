"""Numbers of seconds in bodies and queries, and the members of a life that is counted from now: `ttl` and `spread`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, ValidationError, ValidationInfo, WithJsonSchema
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from guidsvc.domain.commands.fields import refuse_null
from guidsvc.domain.durations import parse_whole_seconds
from guidsvc.domain.record import DIGITS, MAX_TIME, TIME_PATTERN, validation_error

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
            "must be a whole number of seconds from 1 to {most}, as a string of digits or an integer{question}",
            most=MAX_TIME,
            question=_question(value),
        )
    return seconds


def _integer(value: object) -> int | None:
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value.lstrip("0")[:13] or "0")  # 13 digits are out of range, and int() is slow on long strings
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _question(value: object) -> str:
    """Return a question that suggests the seconds of a duration with a unit, such as 30m; else an empty string."""
    if not isinstance(value, str) or DIGITS.fullmatch(value):
        return ""
    try:
        seconds = parse_whole_seconds(value)
    except ValueError:
        return ""
    return f"; did you mean {seconds}?" if seconds else ""


PositiveSeconds = Annotated[int, PlainValidator(_parse_seconds), WithJsonSchema(_SECONDS_SCHEMA)]
"""A number of seconds from 1 to MAX_TIME."""
OptionalSeconds = Annotated[PositiveSeconds | None, BeforeValidator(refuse_null)]
"""The same as an optional member. Clients cannot send null."""


def exclude_expire(value: object, parse: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
    """Parse `ttl`, and reject it beside an `expire`, whether that is valid or not."""
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
        raise validation_error("spread_alone", "requires `ttl`: it adds up to so many seconds to it, at random")
    return value
