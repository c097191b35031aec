"""Common inputs of commands: the options of a record, and a JSON object on standard input."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from guidsvc.cli.remote.values import DURATION, EXPIRY, GUID, OBJECT, TEXT, VERSION, parse_object, with_times
from guidsvc.monitoring.logs.printable import escape
from guidsvc.system_errors import plain_reason

Function = TypeVar("Function", bound=Callable[..., Any])
MAX_INPUT_BYTES = 64 * 1024
"""The longest body of one record that the service accepts."""
STDIN = "-"


def guid_argument(function: Function) -> Function:
    """Add the argument GUID."""
    return click.argument("guid", type=GUID, metavar="GUID")(function)


def if_match_option(function: Function) -> Function:
    """Add the option of a precondition."""
    return click.option(
        "--if-match", type=VERSION, metavar="VERSION", help="only if the record has this version; * for any"
    )(function)


def member_options(function: Function) -> Function:
    """Add the options that set members of a record."""
    options = [
        click.option("--user", type=TEXT, metavar="NAME", help="user of the record"),
        click.option("--expire", type=EXPIRY, metavar="WHEN", help="90d or +24h from now, ISO 8601, or Unix seconds"),
        click.option("--metadata", type=OBJECT, metavar="JSON", help='a JSON object, such as \'{"env": "test"}\''),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def ttl_option(text: str) -> Callable[[Function], Function]:
    """Add the option of a life from now."""
    return click.option("--ttl", type=DURATION, metavar="DURATION", help=text)


class RecordWords(click.ParamType[str]):
    """A GUID, or `-` for standard input."""

    name = "guid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the GUID as the service writes it."""
        return STDIN if value == STDIN else GUID.convert(value, param, ctx)


def split_words(words: tuple[str, ...]) -> tuple[str | None, bool]:
    """Return the GUID of `[GUID] [-]`, and whether to read standard input. A second of either is a usage error."""
    guids = [word for word in words if word != STDIN]
    if len(guids) > 1 or len(words) - len(guids) > 1:
        raise click.UsageError("name one GUID, and `-` to read JSON from standard input")
    return (guids[0] if guids else None), len(words) > len(guids)


def stdin_object(*, is_put: bool) -> dict[str, Any]:
    """Return the JSON object on standard input. A UsageError says what is wrong with it."""
    try:
        content = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"standard input cannot be read: {plain_reason(error)}; name another file") from None
    if len(content) > MAX_INPUT_BYTES:
        raise click.UsageError(f"standard input has more than {MAX_INPUT_BYTES} bytes; use `import` for many records")
    try:
        return with_times(parse_object(content.decode()), is_put=is_put)
    except UnicodeDecodeError:
        raise click.UsageError("standard input is not UTF-8; convert it") from None
    except ValueError as error:
        raise click.UsageError(f"standard input {error}") from None


def given(**members: Any) -> dict[str, Any]:
    """Return the members that are set."""
    return {name: value for name, value in members.items() if value is not None}


def without_guid(members: Mapping[str, Any], guid: str | None) -> tuple[dict[str, Any], str | None]:
    """Return the members of a record without its GUID, and the GUID. A contradiction is a usage error."""
    rest = dict(members)
    inner = rest.pop("guid", None)
    if inner is None:
        return rest, guid
    ctx = click.get_current_context()
    named = GUID.convert(inner, None, ctx)
    if named != inner:
        ctx.obj.note(f"{escape(str(inner))} is read as {named}")
    if guid not in {None, named}:
        raise click.UsageError(f"standard input is for {named}, and not for {guid}; remove one of them")
    return rest, named
