"""Arguments as the wire has them: GUIDs in any spelling, times, durations, versions."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
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


def expiry_of(value: Moment, name: str = "expire") -> int:
    """Return a time in Unix seconds, rounded up. `name` is that of the argument, for errors.

    TypeError if it is no time, ValueError if it has no time zone.
    """
    match value:
        case int():
            return value
        case datetime(tzinfo=None):
            raise ValueError(f"{name} has no time zone; pass datetime.now(UTC) + ..., not datetime.now() + ...")
        case datetime():
            return math.ceil(value.timestamp())
    raise TypeError(f"{name} must be a datetime or Unix seconds, not {value!r}")


def seconds_of(value: Duration, name: str) -> int:
    """Return a duration in whole seconds, rounded up. `name` is that of the argument, for errors.

    TypeError if it is no duration, ValueError if it is not finite.
    """
    if isinstance(value, timedelta):
        return math.ceil(value.total_seconds())
    if not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]  # not all callers check types
        raise TypeError(f"{name} must be a timedelta or a number of seconds, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    return math.ceil(value)


def number_of_seconds(value: float, name: str) -> float:
    """Return a number of seconds as it is. TypeError if it is no number."""
    if not isinstance(value, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]  # not all callers check types
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    return value


def etag_of(version: Version, name: str = "version") -> str:
    """Return the entity tag of a version. TypeError if it is none."""
    if not isinstance(version, int | str):  # pyright: ignore[reportUnnecessaryIsInstance]  # not all callers check types
        raise TypeError(f'{name} must be a version or "*", not {version!r}')
    return version if isinstance(version, str) else f'"{version}"'


def strings_of(values: Iterable[str], name: str) -> list[str]:
    """Return strings as a list. TypeError if they are one string, whose characters nobody means."""
    if isinstance(values, str):
        raise TypeError(f"{name} must be a list of strings, not {values!r}")
    return list(values)


def version_of(etag: str | None) -> int | None:
    """Return the version of a strong entity tag, or None if there is none."""
    digits = (etag or "").strip('"')
    return int(digits) if re.fullmatch("[0-9]{1,20}", digits) else None


_DURATIONS = ("ttl", "spread", "if_below", "at_least", "valid_for", "max_ttl", "max_life", "overlap")
_CONVERTERS: Mapping[str, Callable[[Any, str], object]] = {
    "guid": lambda value, _: guid_of(value),
    "expire": expiry_of,
    **dict.fromkeys(_DURATIONS, seconds_of),
    **dict.fromkeys(("if_match", "if_none_match"), etag_of),
}


def wire_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a body with their values as the wire has them."""
    return {name: _CONVERTERS[name](value, name) if name in _CONVERTERS else value for name, value in members.items()}
