"""GUIDs, expiries, durations and JSON as people type them on a command line."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from guidsvc.cli.parsing.value_types import Parsed
from guidsvc.domain.durations import Moment, parse_moment, parse_whole_seconds
from guidsvc.runtime.clock import system_clock
from guidsvc_client.protocol.values import guid_of

_Value = TypeVar("_Value")
_VERSION = re.compile(r"[0-9]{1,19}")


def expiry_members(moment: Moment) -> dict[str, int]:
    """Return the members that set an expiry when a record is put. The service counts from now by its own clock."""
    return {"ttl": moment.seconds} if moment.is_from_now else {"expire": moment.seconds}


def absolute(moment: Moment) -> int:
    """Return a moment in Unix seconds. Seconds from now are counted by the clock of this host."""
    return moment.at(system_clock())


def with_times(members: Mapping[str, Any], *, is_put: bool) -> dict[str, Any]:
    """Return the members of a JSON object with its times as numbers, however they are written. ValueError for others.

    A put may have a life from now, which the service counts; in any other change it becomes a time.
    """
    times: dict[str, int] = {}
    if "expire" in members:
        moment: Moment = _parsed("expire", members["expire"], parse_moment)
        times |= expiry_members(moment) if is_put else {"expire": absolute(moment)}
    times |= {name: _parsed(name, members[name], parse_whole_seconds) for name in ("ttl", "spread") if name in members}
    return {name: value for name, value in members.items() if name != "expire"} | times


def _parsed(name: str, value: object, parse: Callable[[str], _Value]) -> _Value:
    try:
        return parse(str(value) if isinstance(value, int | str) else "")
    except ValueError as error:
        raise ValueError(f"has the wrong {name}: it {error}") from None


def parse_version(text: str) -> int | str:
    """Return a version of a record, or `*` for any. The version may be an entity tag in quotes."""
    digits = text.strip().strip('"')
    if digits == "*":
        return digits
    if _VERSION.fullmatch(digits) is None:
        raise ValueError("must be a version, as `get --full` shows it, or '*' for any")
    return int(digits)


def parse_object(text: str) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        value = json.loads(  # noqa: TID251  # its RecursionError is caught
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("is nested too deeply; the service accepts 8 levels") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError('must be a JSON object, such as {"env": "test"}')  # noqa: TRY004  # of a text, not of a type
    if "\\u" in text or not text.isascii():
        parse_text(json.dumps(value, ensure_ascii=False))
    return value


def parse_text(text: str) -> str:
    """Return a text, which must consist of characters of Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8, without halves of characters (surrogates); remove them") from error
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member name is repeated; remove one of them")
    return members


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


class GuidType(click.ParamType[str]):
    """A GUID in any spelling. The original text is stored in the context, for a message."""

    name = "guid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the GUID as the service writes it."""
        try:
            guid = guid_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if guid != value and ctx is not None:
            ctx.meta.setdefault(SPELLINGS, []).append((value, guid))
        return guid


SPELLINGS = f"{__name__}.spellings"
"""The key in `Context.meta` of the normalised GUIDs, with their original texts."""
GUID = GuidType()


TEXT = Parsed("text", parse_text)
EXPIRY = Parsed("expiry", parse_moment)
DURATION = Parsed("duration", parse_whole_seconds)
VERSION: Parsed[Any] = Parsed("version", parse_version)
OBJECT: Parsed[Any] = Parsed("json", parse_object)
