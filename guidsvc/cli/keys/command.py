"""`python pdapt.py keys`: administration of API keys on the command line.

It reads the same settings and uses the same store as the service, running or not. It creates a store only with
`--new-store`, so a misspelt path is an error. Keys and lists go to standard output, messages to standard error.
"""

import argparse
import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from json import dumps
from typing import Any, get_args

from guidsvc.cli import output
from guidsvc.cli.command_parser import CommandParser
from guidsvc.cli.keys import argument_types
from guidsvc.cli.store_settings import load_settings
from guidsvc.domain.api_key import OVERLAP_SECONDS, KeyFilter, KeyState
from guidsvc.domain.caller import SCOPES
from guidsvc.domain.durations import DURATION_FORMS, MOMENT_FORMS
from guidsvc.domain.leases.limits import LifeLimits
from guidsvc.errors import GuidsvcError, InvalidRequest, NoStore, NoSuchKey, OutcomeUnknown, StartError
from guidsvc.monitoring.logs import log_config
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import program, runnable
from guidsvc.runtime.clock import Clock
from guidsvc.services.key_service import Issued, KeyService
from guidsvc.store import location_of, open_keys

DEFAULT_SCOPES = "read,write,delete"
COLUMNS = ("id", "owner", "scopes", "created", "used", "expires", "state", "note")

_FIRST_UNIX_TIME = 1_000_000_000
"""A time in 2001. A smaller number without a unit was probably meant as days or hours."""
_EPILOG = "The store is that of the service: --store-url, else GUIDSVC_STORE_URL from the environment or .env."
_EXAMPLES = (
    "create --new-store --owner alice",
    "create --owner ops --scopes admin --expires 90d",
    "list --json",
    "list --owner alice --state live --q billing",
    "rotate 4rGcVd0Xq2Lb --overlap 1h",
    "revoke 4rGcVd0Xq2Lb",
)


def run(words: Sequence[str], *, clock: Clock) -> None:
    """Run a `keys` command; raise StartError, with a one-line message, if it fails. Exit with 2 on usage errors."""
    arguments = parser().parse_args(words)
    settings = load_settings(arguments.store_url)
    _refuse_past_expiry(arguments, clock())
    if arguments.do in {_create, _rotate}:
        output.require_writable()
    log_config.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(_run(arguments, settings.store_url, clock))
    except NoStore as error:
        hint = ", or create it with --new-store" if arguments.do is _create else " with --store-url"
        raise StartError(f"{error}: name the store of the service{hint}") from error
    except StartError:
        raise
    except GuidsvcError as error:
        raise StartError(_error_text(error)) from error


async def _run(arguments: argparse.Namespace, url: str, clock: Clock) -> None:
    async with open_keys(url, create=arguments.new_store) as api_keys:
        output.tell(f"store: {escape(location_of(url))}")
        await arguments.do(KeyService(api_keys, clock=clock), arguments, clock())


def _error_text(error: GuidsvcError) -> str:
    match error:
        case InvalidRequest():
            return "; ".join(f"{fault.pointer.lstrip('/')} {fault.detail}" for fault in error.faults)
        case OutcomeUnknown():
            return f"outcome unknown: {error}; check it with `{runnable('keys list')}`"
        case NoSuchKey():
            return f"{error} `{runnable('keys list')}` shows the ids of all keys."
        case _:
            return str(error)


def _refuse_past_expiry(arguments: argparse.Namespace, now: int) -> None:
    """Exit with 2 if a key to be created would never be valid."""
    expire = None if arguments.do is not _create or arguments.expires is None else arguments.expires.at(now)
    if expire is None or expire * 1000 > now:
        return
    hint = f"{expire} without a unit is Unix time; write {expire}d for days from now"
    detail = f": {hint}" if expire < _FIRST_UNIX_TIME else "; the key would never be valid"
    arguments.command.error(f"argument --expires: is in the past{detail}")


async def _create(key_service: KeyService, arguments: argparse.Namespace, now: int) -> None:
    expire = None if arguments.expires is None else arguments.expires.at(now)
    limits = LifeLimits(arguments.max_ttl, arguments.max_life)
    issued = await key_service.create(
        arguments.owner, arguments.scopes, expire=expire, note=arguments.note, limits=limits
    )
    members = key_service.describe(issued.key)
    until = "never expires" if expire is None else f"expires {_time(expire)}"
    _show(
        issued,
        f"key {issued.key.id} of {members['owner']}: {', '.join(members['scopes'])}, {until}",
        f"the key {issued.key.id} was created, but is lost; revoke it with "
        f"`{runnable('keys revoke')} {issued.key.id}`, and create another",
    )


async def _rotate(key_service: KeyService, arguments: argparse.Namespace, _: int) -> None:
    issued = await key_service.rotate(arguments.id, overlap=arguments.overlap)
    validity = f"the old secret is valid for {arguments.overlap} more seconds"
    _show(
        issued,
        f"key {issued.key.id} rotated: {validity}",
        f"the key {issued.key.id} was rotated, but its new secret is lost, and {validity}; rotate it again with "
        f"`{runnable('keys rotate')} {issued.key.id}`",
    )


async def _note_key(key_service: KeyService, arguments: argparse.Namespace, _: int) -> None:
    key = await key_service.set_note(arguments.id, arguments.text)
    output.tell(f"key {key.id} of {key.owner}: {'note removed' if key.note is None else 'note set'}")


async def _revoke(key_service: KeyService, arguments: argparse.Namespace, _: int) -> None:
    key = await key_service.revoke(arguments.id)
    output.tell(f"key {key.id} of {key.owner} revoked: every process rejects it within 5 s")


async def _list(key_service: KeyService, arguments: argparse.Namespace, _: int) -> None:
    wanted = KeyFilter(arguments.owner, arguments.state, arguments.q)
    descriptions = [key_service.describe(key) async for key in key_service.walk(wanted)]
    lines = map(dumps, descriptions) if arguments.json else _table([COLUMNS, *map(_cells, descriptions)])
    output.write("".join(f"{line}\n" for line in lines))


def _show(issued: Issued, message: str, loss: str) -> None:
    """Print a key. `loss` says what to do if it cannot be printed: it exists nowhere else."""
    output.tell(f"{message}. It is shown only now:")
    output.write(f"{issued.text}\n", done=loss)


def _cells(members: dict[str, Any]) -> Sequence[str]:
    used, expire = members.get("used"), members.get("expire")
    return (
        members["id"],
        escape(members["owner"]),
        ",".join(members["scopes"]),
        _time(int(members["created"]) // 1000),
        "never" if used is None else _time(int(used) // 1000),
        "never" if expire is None else _time(int(expire)),
        members["state"],
        escape(members.get("note", "")),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with columns as wide as their content."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Argument parsing


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of `keys`."""
    about = "Create, list, rotate and revoke the API keys that requests need with access control."
    root = CommandParser(
        program("keys"),
        description=about,
        epilog=f"{_EPILOG}\n\nexamples:\n" + "\n".join(f"  {runnable('keys')} {each}" for each in _EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    _add_create(commands)
    _add_list(commands)
    note = _command(commands, "note", _note_key, "set what a key is for, or remove that note")
    _id(note)
    note.add_argument(
        "text",
        type=argument_types.note,
        nargs="?",
        metavar="TEXT",
        help="the new note; without it, the note is removed",
    )
    _id(_command(commands, "revoke", _revoke, "revoke a key; it remains listed"))
    _add_rotate(commands)
    return root


def _add_create(commands: Any) -> None:
    create = _command(commands, "create", _create, "create a key and print it; it is shown only once")
    create.add_argument(
        "--owner",
        type=argument_types.owner,
        required=True,
        metavar="NAME",
        help="owner of the key, and of the records that it creates",
    )
    create.add_argument(
        "--scopes",
        type=argument_types.scopes,
        default=DEFAULT_SCOPES,
        metavar="SCOPES",
        help=f"permissions, separated by commas: {', '.join(SCOPES)}; monitor may only read /metrics "
        "and /stats; admin includes all of them, for the records of all owners, and the keys "
        f"[default: {DEFAULT_SCOPES}]",
    )
    create.add_argument(
        "--expires",
        type=argument_types.expiry,
        metavar="WHEN",
        help=f"expiry: {MOMENT_FORMS}; a key without one never expires",
    )
    create.add_argument(
        "--note", type=argument_types.note, metavar="TEXT", help="what the key is for, shown in the list"
    )
    for name, since in (("--max-ttl", "now"), ("--max-life", "the creation of the GUID")):
        text = f"longest life that its writes may give a GUID, from {since}: {DURATION_FORMS}"
        create.add_argument(name, type=argument_types.limit, default=0, metavar="DURATION", help=text)
    create.add_argument("--new-store", action="store_true", help="create the store if it does not exist")
    create.add_argument("--create", dest="new_store", action="store_true", help=argparse.SUPPRESS)  # its former name


def _add_list(commands: Any) -> None:
    listing = _command(commands, "list", _list, "list the keys, sorted by id, including revoked and expired ones")
    listing.add_argument("--owner", type=argument_types.owner, metavar="NAME", help="only keys of exactly this owner")
    listing.add_argument(
        "--state",
        choices=get_args(KeyState),
        metavar="STATE",
        help=f"only keys in this state: {', '.join(get_args(KeyState))}",
    )
    listing.add_argument(
        "--q",
        type=argument_types.search_text,
        metavar="TEXT",
        help="only keys whose note contains this text, in upper or lower case, or whose id begins with it",
    )
    listing.add_argument("--json", action="store_true", help="print a JSON object per line instead of a table")


def _add_rotate(commands: Any) -> None:
    rotate = _command(commands, "rotate", _rotate, "give a key a new secret and print it; it is shown only once")
    _id(rotate)
    rotate.add_argument(
        "--overlap",
        type=argument_types.overlap,
        default=OVERLAP_SECONDS,
        metavar="DURATION",
        help="how long the old secret stays valid, in seconds or as 30m, 12h, 7d; use 0 if it has leaked "
        f"[default: {OVERLAP_SECONDS}]",
    )


def _command(commands: Any, name: str, do: object, about: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=_EPILOG
    )
    command.add_argument("--store-url", metavar="URL", help="store of the service [default: its setting]")
    command.set_defaults(do=do, command=command, new_store=False)
    return command


def _id(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "id", type=argument_types.key_id, metavar="ID", help="id of the key: the part between gs_ and the next _"
    )
