"""`guidsvc keys`: administration of API keys on the command line.

It reads the same settings and uses the same store as the service, running or not. It creates a store only with
`--new-store`, so a misspelt path is an error. Keys and lists go to standard output, messages to standard error.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, get_args

import click

from guidsvc.cli import output
from guidsvc.cli.keys import argument_types
from guidsvc.cli.parsing.command import Command, Group
from guidsvc.cli.parsing.value_types import OneOf, Parsed
from guidsvc.cli.rendering import Rendering
from guidsvc.cli.store_settings import load_settings
from guidsvc.domain.api_key import OVERLAP_SECONDS, KeyFilter, KeyState
from guidsvc.domain.caller import SCOPES
from guidsvc.domain.durations import DURATION_FORMS, MOMENT_FORMS, Moment, parse_moment, rfc_3339
from guidsvc.domain.leases.limits import LifeLimits
from guidsvc.errors import GuidsvcError, InvalidRequest, NoStore, NoSuchKey, OutcomeUnknown, StartError
from guidsvc.monitoring.logs import log_config
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import runnable
from guidsvc.runtime.clock import system_clock
from guidsvc.services.key_service import Issued, KeyService
from guidsvc.store import location_of, open_keys

DEFAULT_SCOPES = "read,write,delete"
COLUMNS = ("id", "owner", "scopes", "created", "used", "expires", "state", "note")

_FIRST_UNIX_TIME = 1_000_000_000
"""A time in 2001. A smaller number without a unit was probably meant as days or hours."""
_EPILOG = "The store is that of the service: --store-url, else GUIDSVC_STORE_URL from the environment or .env."
_EXAMPLES = (
    "keys create --new-store --owner alice",
    "keys create --owner ops --scopes admin --expires 90d",
    "keys list --json",
    "keys list --owner alice --state live --q billing",
    "keys rotate 4rGcVd0Xq2Lb --overlap 1h",
    "keys revoke 4rGcVd0Xq2Lb",
)
_Work = Callable[[KeyService], Coroutine[None, None, None]]


def _execute(store_url: str | None, work: _Work, *, new_store: bool = False, hint: str = " with --store-url") -> None:
    """Open the key service on the store, and run the work; raise StartError, with a one-line message, if it fails."""
    settings = load_settings(store_url)
    log_config.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(_run(settings.store_url, work, new_store=new_store))
    except NoStore as error:
        raise StartError(f"{error}: name the store of the service{hint}") from error
    except StartError:
        raise
    except GuidsvcError as error:
        raise StartError(_error_text(error)) from error


async def _run(url: str, work: _Work, *, new_store: bool) -> None:
    async with open_keys(url, create=new_store) as api_keys:
        output.tell(f"store: {escape(location_of(url))}")
        await work(KeyService(api_keys, clock=system_clock))


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


def _refuse_past_expiry(expires: Moment | None, now: int) -> int | None:
    """Return the time of the expiry. Raise a usage error if a key to be created would never be valid."""
    expire = None if expires is None else expires.at(now)
    if expire is None or expire * 1000 > now:
        return expire
    hint = f"{expire} without a unit is Unix time; write {expire}d for days from now"
    detail = f": {hint}" if expire < _FIRST_UNIX_TIME else "; the key would never be valid"
    raise click.BadParameter(f"is in the past{detail}", param_hint="--expires")


def _show(issued: Issued, message: str, loss: str) -> None:
    """Print a key. `loss` says what to do if it cannot be printed: it exists nowhere else."""
    output.tell(f"{message}. It is shown only now:")
    output.write(f"{issued.text}\n", done=loss)


def _row(members: dict[str, Any]) -> dict[str, object]:
    """Return the cells of a key in the table."""
    used, expire = members.get("used"), members.get("expire")
    return members | {
        "created": rfc_3339(int(members["created"]) // 1000),
        "used": "never" if used is None else rfc_3339(int(used) // 1000),
        "expires": "never" if expire is None else rfc_3339(int(expire)),
    }


# Commands


@click.group(
    "keys",
    cls=Group,
    help="Create, list, rotate and revoke the API keys that requests need with access control.",
    notes=_EPILOG,
    examples=_EXAMPLES,
)
def keys() -> None:
    """Administer API keys."""


def _command(name: str, about: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator that makes a function a command of `keys`, with the option --store-url."""

    def decorate(function: Callable[..., None]) -> click.Command:
        with_store = click.option("--store-url", metavar="URL", help="store of the service [default: its setting]")
        command = keys.command(
            name, cls=Command, short_help=about, help=f"{about[0].upper()}{about[1:]}.", notes=_EPILOG
        )
        return command(with_store(function))

    return decorate


_ID = click.argument(
    "key_id",
    metavar="ID",
    type=Parsed("ID", argument_types.key_id),
    help="id of the key: the part between gs_ and the next _",
)


def _limit(name: str, since: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        name,
        type=Parsed("DURATION", argument_types.limit),
        default=0,
        metavar="DURATION",
        help=f"longest life that its writes may give a GUID, from {since}: {DURATION_FORMS}",
    )


@_command("create", "create a key and print it; it is shown only once")
@click.option(
    "--owner",
    type=Parsed("NAME", argument_types.owner),
    required=True,
    metavar="NAME",
    help="owner of the key, and of the records that it creates",
)
@click.option(
    "--scopes",
    type=Parsed("SCOPES", argument_types.scopes),
    default=DEFAULT_SCOPES,
    metavar="SCOPES",
    help=f"permissions, separated by commas: {', '.join(SCOPES)}; monitor may only read /metrics "
    f"and /stats; admin includes all of them, for the records of all owners, and the keys [default: {DEFAULT_SCOPES}]",
)
@click.option(
    "--expires",
    type=Parsed("WHEN", parse_moment),
    metavar="WHEN",
    help=f"expiry: {MOMENT_FORMS}; a key without one never expires",
)
@click.option(
    "--note", type=Parsed("TEXT", argument_types.note), metavar="TEXT", help="what the key is for, shown in the list"
)
@_limit("--max-ttl", "now")
@_limit("--max-life", "the creation of the GUID")
@click.option("--new-store", is_flag=True, help="create the store if it does not exist")
@click.option("--create", "former_name", is_flag=True, hidden=True)
def create(store_url: str | None, *, new_store: bool, former_name: bool, **given: Any) -> None:
    """Create a key."""
    expire = _refuse_past_expiry(given["expires"], system_clock())
    output.require_writable()
    limits = LifeLimits(given["max_ttl"], given["max_life"])

    async def work(key_service: KeyService) -> None:
        issued = await key_service.create(
            given["owner"], given["scopes"], expire=expire, note=given["note"], limits=limits
        )
        _show_created(issued, key_service, expire)

    hint = ", or create it with --new-store"
    _execute(store_url, work, new_store=new_store or former_name, hint=hint)


def _show_created(issued: Issued, key_service: KeyService, expire: int | None) -> None:
    members = key_service.describe(issued.key)
    until = "never expires" if expire is None else f"expires {rfc_3339(expire)}"
    _show(
        issued,
        f"key {issued.key.id} of {members['owner']}: {', '.join(members['scopes'])}, {until}",
        f"the key {issued.key.id} was created, but is lost; revoke it with "
        f"`{runnable('keys revoke')} {issued.key.id}`, and create another",
    )


@_command("list", "list the keys, sorted by id, including revoked and expired ones")
@click.option(
    "--owner", type=Parsed("NAME", argument_types.owner), metavar="NAME", help="only keys of exactly this owner"
)
@click.option(
    "--state",
    type=OneOf(get_args(KeyState)),
    metavar="STATE",
    help=f"only keys in this state: {', '.join(get_args(KeyState))}",
)
@click.option(
    "--q",
    type=Parsed("TEXT", argument_types.search_text),
    metavar="TEXT",
    help="only keys whose note contains this text, in upper or lower case, or whose id begins with it",
)
@click.option("--json", "is_json", is_flag=True, help="print a JSON object per line instead of a table")
def list_keys(
    store_url: str | None, *, is_json: bool, owner: str | None, state: KeyState | None, q: str | None
) -> None:
    """List the keys."""

    async def work(key_service: KeyService) -> None:
        wanted = KeyFilter(owner, state, q)
        descriptions = [key_service.describe(key) async for key in key_service.walk(wanted)]
        if is_json:
            Rendering("lines").rows(COLUMNS, descriptions)
        else:
            Rendering("table").rows(COLUMNS, map(_row, descriptions))

    _execute(store_url, work)


@_command("note", "set what a key is for, or remove that note")
@_ID
@click.argument(
    "text",
    type=Parsed("TEXT", argument_types.note),
    required=False,
    metavar="TEXT",
    help="the new note; without it, the note is removed",
)
def set_note(store_url: str | None, key_id: str, text: str | None) -> None:
    """Set the note of a key, or remove it."""

    async def work(key_service: KeyService) -> None:
        key = await key_service.set_note(key_id, text)
        output.tell(f"key {key.id} of {key.owner}: {'note removed' if key.note is None else 'note set'}")

    _execute(store_url, work)


@_command("revoke", "revoke a key; it remains listed")
@_ID
def revoke(store_url: str | None, key_id: str) -> None:
    """Revoke a key."""

    async def work(key_service: KeyService) -> None:
        key = await key_service.revoke(key_id)
        output.tell(f"key {key.id} of {key.owner} revoked: every process rejects it within 5 s")

    _execute(store_url, work)


@_command("rotate", "give a key a new secret and print it; it is shown only once")
@_ID
@click.option(
    "--overlap",
    type=Parsed("DURATION", argument_types.overlap),
    default=OVERLAP_SECONDS,
    metavar="DURATION",
    help="how long the old secret stays valid, in seconds or as 30m, 12h, 7d; use 0 if it has leaked "
    f"[default: {OVERLAP_SECONDS}]",
)
def rotate(store_url: str | None, key_id: str, overlap: int) -> None:
    """Give a key a new secret."""
    output.require_writable()

    async def work(key_service: KeyService) -> None:
        issued = await key_service.rotate(key_id, overlap=overlap)
        validity = f"the old secret is valid for {overlap} more seconds"
        _show(
            issued,
            f"key {issued.key.id} rotated: {validity}",
            f"the key {issued.key.id} was rotated, but its new secret is lost, and {validity}; rotate it again with "
            f"`{runnable('keys rotate')} {issued.key.id}`",
        )

    _execute(store_url, work)
