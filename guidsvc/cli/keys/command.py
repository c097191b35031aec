"""`guidsvc keys`: administration of API keys on the command line.

Over a store, it reads the same settings and uses the same store as the service, running or not. With `--url` or
`--profile`, it uses the interface of a running service. Keys and lists go to standard output, messages to standard
error.
"""

import shlex
from collections.abc import Callable, Iterable
from typing import Any, get_args

import click

from guidsvc.cli import output
from guidsvc.cli.keys import argument_types
from guidsvc.cli.keys.administration import Document, KeyAdministration, KeyWithSecret, NewKey
from guidsvc.cli.keys.place import Place, PlaceCommand, administration
from guidsvc.cli.parsing.command import Group
from guidsvc.cli.parsing.value_types import OneOf, Parsed
from guidsvc.cli.rendering import FORMS, Form, Rendering
from guidsvc.domain.api_key import OVERLAP_SECONDS, KeyFilter, KeyState
from guidsvc.domain.caller import SCOPES
from guidsvc.domain.durations import DURATION_FORMS, MOMENT_FORMS, Moment, parse_moment, rfc_3339
from guidsvc.domain.leases.limits import LifeLimits
from guidsvc.program import runnable
from guidsvc.runtime.clock import system_clock

DEFAULT_SCOPES = "read,write,delete"
COLUMNS = ("id", "owner", "scopes", "created", "used", "expires", "state", "note")

_ENDED = "all earlier secrets have ended: every process rejects them within 5 s"
_FIRST_UNIX_TIME = 1_000_000_000
"""A time in 2001. A smaller number without a unit was probably meant as days or hours."""
_EPILOG = (
    "The store is that of the service: --store-url, else GUIDSVC_STORE_URL from the environment or .env. With --url or "
    "--profile, the keys are those of a running service, which needs an admin key."
)
_EXAMPLES = (
    "keys create --new-store --owner alice",
    "keys create --owner ops --scopes admin --expires 90d",
    "keys list --json",
    "keys list --owner alice --state live --q billing",
    "keys list --url https://guids.example --key-file admin.key",
    "keys rotate 4rGcVd0Xq2Lb --overlap 1h",
    "keys revoke 4rGcVd0Xq2Lb --profile prod",
)


def _refuse_past_expiry(expires: Moment | None, now: int) -> int | None:
    """Return the time of the expiry. Raise a usage error if a key to be created would never be valid."""
    expire = None if expires is None else expires.at(now)
    if expire is None or expire * 1000 > now:
        return expire
    hint = f"{expire} without a unit is Unix time; write {expire}d for days from now"
    detail = f": {hint}" if expire < _FIRST_UNIX_TIME else "; the key would never be valid"
    raise click.BadParameter(f"is in the past{detail}", param_hint="--expires")


def _show(issued: KeyWithSecret, message: str, loss: str) -> None:
    """Print a key. `loss` says what to do if it cannot be printed, because no other copy exists."""
    output.tell(f"{message}. The new key is shown only now:")
    output.write(f"{issued.text}\n", done=loss)


def _again(keys: KeyAdministration, name: str, key_id: str) -> str:
    """Return another command for a key at the same place."""
    return f"`{runnable(shlex.join(['keys', name, key_id, *keys.flags]))}`"


def _row(members: Document) -> dict[str, object]:
    """Return the cells of a key in the table."""
    used, expire = members.get("used"), members.get("expire")
    return {
        **members,
        "created": rfc_3339(int(members["created"]) // 1000),
        "used": "never" if used is None else rfc_3339(int(used) // 1000),
        "expires": "never" if expire is None else rfc_3339(int(expire)),
    }


def _members(members: Document) -> dict[str, object]:
    """Return the members of a key in the table of one key."""
    row = _row(members)
    limits = {name: f"{members[name]} s" for name in ("max_ttl", "max_life") if name in members}
    return {name: row[name] for name in COLUMNS if name in row} | limits


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
    """Return a decorator that makes a function a command of `keys`, with the options of its place."""
    return keys.command(name, cls=PlaceCommand, short_help=about, help=f"{about[0].upper()}{about[1:]}.", notes=_EPILOG)


_ID = click.argument(
    "key_id",
    metavar="ID",
    type=Parsed("ID", argument_types.key_id),
    help="id of the key: the part between gs_ and the next _",
)


_FORM = click.option(
    "-o",
    "--output",
    "form",
    type=OneOf(FORMS),
    default="table",
    metavar="|".join(FORMS),
    help="form of the data: a table, one JSON document, or a JSON object per line [default: table]",
)
_JSON = click.option("--json", "form", flag_value="lines", help="the same as -o lines")


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
def create(place: Place, *, new_store: bool, former_name: bool, **given: Any) -> None:
    """Create a key."""
    expire = _refuse_past_expiry(given["expires"], system_clock())
    output.require_writable()
    limits = LifeLimits(given["max_ttl"], given["max_life"])
    key = NewKey(given["owner"], given["scopes"], expire, given["note"], limits)
    with administration(place, is_write=True, can_create=True, new_store=new_store or former_name) as keys:
        _show_created(keys, keys.create(key), expire)


def _show_created(keys: KeyAdministration, issued: KeyWithSecret, expire: int | None) -> None:
    members = issued.document
    key_id, until = members["id"], "never expires" if expire is None else f"expires {rfc_3339(expire)}"
    _show(
        issued,
        f"key {key_id} of {members['owner']}: {', '.join(members['scopes'])}, {until}",
        f"the key {key_id} was created, but is lost; revoke it with {_again(keys, 'revoke', key_id)}, and create "
        "another",
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
@_FORM
@_JSON
def list_keys(place: Place, *, form: Form, owner: str | None, state: KeyState | None, q: str | None) -> None:
    """List the keys."""
    with administration(place, is_write=False) as keys:
        found: Iterable[Document] = keys.list(KeyFilter(owner, state, q))
        Rendering(form).rows(COLUMNS, map(_row, found) if form == "table" else found)


@_command("show", "print a key, without its secret")
@_ID
@_FORM
@_JSON
def show(place: Place, key_id: str, *, form: Form) -> None:
    """Print a key."""
    with administration(place, is_write=False) as keys:
        document = keys.get(key_id)
        Rendering(form).record(_members(document) if form == "table" else document)


@_command("note", "set what a key is for, or remove that note")
@_ID
@click.argument(
    "text",
    type=Parsed("TEXT", argument_types.note),
    required=False,
    metavar="TEXT",
    help="the new note; without it, the note is removed",
)
def set_note(place: Place, key_id: str, text: str | None) -> None:
    """Set or remove the note of a key."""
    with administration(place, is_write=True) as keys:
        key = keys.set_note(key_id, text)
        output.tell(f"key {key['id']} of {key['owner']}: {'note set' if 'note' in key else 'note removed'}")


@_command("revoke", "revoke a key; it remains listed")
@_ID
def revoke(place: Place, key_id: str) -> None:
    """Revoke a key."""
    with administration(place, is_write=True) as keys:
        key = keys.revoke(key_id)
        output.tell(f"key {key['id']} of {key['owner']} revoked: every process rejects it within 5 s")


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
def rotate(place: Place, key_id: str, overlap: int) -> None:
    """Give a key a new secret."""
    output.require_writable()
    with administration(place, is_write=True) as keys:
        validity = f"the old secret is valid for {overlap} more seconds" if overlap else _ENDED
        _show(
            keys.rotate(key_id, overlap),
            f"key {key_id} rotated: {validity}",
            f"the key {key_id} was rotated, but its new secret is lost, and {validity}; rotate it again with "
            f"{_again(keys, 'rotate', key_id)}",
        )
