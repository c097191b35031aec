"""Arguments as the wire has them: GUIDs in any spelling, times, durations, versions."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

Guid = str | UUID
Moment = datetime | int
"""A time: a datetime with a time zone, or Unix seconds."""
Duration = timedelta | float
"""A timedelta, or seconds."""
Version = int | Literal["*"]
"""The version of a record, or `*` for any."""

_GUID = re.compile(
    r"(?:urn:uuid:)?(\{)?([0-9a-f]{8})(-?)([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{12})(?(1)\})"
)


def guid_of(value: Guid) -> str:
    """Return a GUID as the service writes it: 32 upper-case hexadecimal digits. ValueError if it is none."""
    found = _GUID.fullmatch(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{value!r} is not a GUID; pass 32 hexadecimal digits, with or without dashes")
    return "".join(found.group(2, 4, 5, 6, 7)).upper()


def expiry_of(value: Moment) -> int:
    """Return a time in Unix seconds, rounded up. ValueError if it has no time zone."""
    if isinstance(value, int):
        return value
    if value.tzinfo is None:
        raise ValueError("the time has no time zone; pass datetime.now(UTC) + ..., not datetime.now() + ...")
    return math.ceil(value.timestamp())


def seconds_of(value: Duration) -> int:
    """Return a duration in whole seconds, rounded up."""
    return math.ceil(value.total_seconds() if isinstance(value, timedelta) else value)


def etag_of(version: Version) -> str:
    """Return the entity tag of a version."""
    return version if isinstance(version, str) else f'"{version}"'


def version_of(etag: str | None) -> int | None:
    """Return the version of a strong entity tag, or None if there is none."""
    digits = (etag or "").strip('"')
    return int(digits) if re.fullmatch("[0-9]{1,20}", digits) else None


_DURATIONS = ("ttl", "spread", "if_below", "at_least", "valid_for", "max_ttl", "max_life", "overlap")
_CONVERTERS: Mapping[str, Callable[[Any], object]] = {
    "guid": guid_of,
    "expire": expiry_of,
    **dict.fromkeys(_DURATIONS, seconds_of),
    **dict.fromkeys(("if_match", "if_none_match"), etag_of),
}


def wire_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a body with their values as the wire has them."""
    return {name: _CONVERTERS[name](value) if name in _CONVERTERS else value for name, value in members.items()}
