"""The fields of commands and queries, and how they are validated and described in the API."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from guidsvc.domain.record import MAX_TIME, TIME_PATTERN, Time, validation_error

DIGITS = re.compile(r"[0-9]+")


def _parse_expire(value: object) -> int:
    """Parse an expiry: a string of ASCII digits or an integer. `Time` checks the range."""
    if isinstance(value, str) and DIGITS.fullmatch(value):
        # Leading zeros have no meaning. 13 digits are out of range already, and int() is slow on long strings.
        return int(value.lstrip("0")[:13] or "0")
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise validation_error("expire_type", "must be Unix time in seconds, as a string of digits or an integer")


def refuse_null(value: object) -> object:
    """Reject null, which some clients send to omit a member."""
    if value is None:
        raise validation_error("null", "must not be null; leave the member out instead")
    return value


def optional_field(description: str) -> Any:
    """Make an optional member: None if absent. Clients cannot send None."""
    return Field(default=None, description=description, json_schema_extra=_forget_none)


def forget_default(schema: dict[str, Any]) -> None:
    """Remove the default of a member from its JSON schema."""
    schema.pop("default")


def _forget_none(schema: dict[str, Any]) -> None:
    forget_default(schema)
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    schema.update(kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


_TIME_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": TIME_PATTERN}, {"type": "integer", "minimum": 0, "maximum": MAX_TIME}]
}
Expire = Annotated[Time, BeforeValidator(_parse_expire), WithJsonSchema(_TIME_SCHEMA)]
