"""`put`, `get` and `patch`: one record."""

import time
from typing import Any

import click

from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.commands.inputs import (
    RecordWords,
    given,
    guid_argument,
    if_match_option,
    member_options,
    split_words,
    stdin_object,
    ttl_option,
    without_guid,
)
from guidsvc.cli.remote.documents import record_document, record_members
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import DURATION, absolute, expiry_members
from guidsvc.domain.durations import Moment, rfc_3339
from guidsvc_client import Record

_NOTHING = "nothing to change: use --user, --expire or --metadata, or `-` to read JSON from standard input"


def _print_written(remote: Remote, record: Record) -> None:
    """Print a record that was written. Note if its expiry has passed, perhaps by mistake: it is not valid."""
    print_record(remote, record)
    if record.expire <= time.time():
        remote.note(f"{record.guid} is not valid: its expiry, {rfc_3339(record.expire)}, has passed")


def print_record(remote: Remote, record: Record) -> None:
    """Print one record."""
    remote.print_one(record_document(record), lambda: record_members(record))


@click.command(
    cls=RemoteCommand,
    is_write=True,
    examples=[
        "put --user 'Cylance, Inc.' --expire 90d",
        'put 9094E4C980C74043A4B586B420E69DDF --user alice --metadata \'{"env": "test"}\'',
        "get GUID -o lines | jq -c '.user = \"bob\"' | {program} put -",
    ],
)
@click.argument("words", nargs=-1, type=RecordWords(), metavar="[GUID] [-]")
@member_options
@ttl_option("lifetime from now, instead of --expire")
@click.option("--new", "is_new", is_flag=True, help="create only; exit with 4 if the record exists")
@if_match_option
@click.pass_obj
def put(remote: Remote, /, words: tuple[str, ...], *, is_new: bool, if_match: Any, **options: Any) -> None:
    """Create or renew a record, or change members of one; `-` reads JSON from standard input.

    Without a GUID, one is drawn. Without --expire and --ttl, an expired record gets the default lifetime; `patch`
    leaves it alone.
    """
    guid, has_stdin = split_words(words)
    members, guid = without_guid(stdin_object(is_put=True) if has_stdin else {}, guid)
    members |= _members(**options)
    if is_new and if_match is not None:
        raise click.UsageError("--new and --if-match exclude each other; remove one of them")
    if guid is None and (is_new or if_match is not None):
        raise click.UsageError("--new and --if-match need a GUID")
    if guid is None:
        _print_written(remote, remote.client.create(**members))
    else:
        condition: Any = {"if_none_match": "*" if is_new else None, "if_match": if_match}
        _print_written(remote, remote.client.put(guid, **condition, **members))


def _members(*, user: str | None, expire: Moment | None, ttl: int | None, metadata: Any) -> dict[str, Any]:
    if expire is not None and ttl is not None:
        raise click.UsageError("--expire and --ttl exclude each other; remove one of them")
    return given(user=user, ttl=ttl, metadata=metadata) | (expiry_members(expire) if expire else {})


@click.command(
    cls=RemoteCommand, examples=["get 9094E4C980C74043A4B586B420E69DDF", "get GUID --full", "get GUID --valid-for 1h"]
)
@guid_argument
@click.option("--full", "is_full", is_flag=True, help="all members, also the version and the owner")
@click.option("--valid-for", type=DURATION, metavar="DURATION", help="exit with 4 if less than this time is left")
@click.pass_obj
def get(remote: Remote, /, guid: str, *, is_full: bool, valid_for: int | None) -> None:
    """Print a record. Exit with 3 if it has expired or does not exist."""
    if is_full:
        print_record(remote, remote.client.get(guid, full=True, valid_for=valid_for))
    else:
        print_record(remote, remote.client.get(guid, valid_for=valid_for))


@click.command(cls=RemoteCommand, is_write=True, examples=['patch GUID --metadata \'{"env": null, "region": "eu"}\''])
@click.argument("words", nargs=-1, required=True, type=RecordWords(), metavar="GUID [-]")
@member_options
@if_match_option
@click.pass_obj
def patch(
    remote: Remote, /, words: tuple[str, ...], *, user: str | None, expire: Moment | None, metadata: Any, if_match: Any
) -> None:
    """Merge members into a record that exists; null in the metadata removes a member. `-` reads a JSON merge patch."""
    guid, has_stdin = split_words(words)
    if guid is None:
        raise click.UsageError("name the GUID of the record")
    changes = stdin_object(is_put=False) if has_stdin else {}
    changes |= given(user=user, metadata=metadata, expire=None if expire is None else absolute(expire))
    if not changes:
        raise click.UsageError(_NOTHING)
    _print_written(remote, remote.client.patch(guid, changes, if_match=if_match))
