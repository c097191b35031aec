"""`rm`, `renew` and `revoke`: the life of one record."""

from typing import Any

import click

from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.commands.inputs import given, guid_argument, if_match_option, ttl_option
from guidsvc.cli.remote.commands.records import print_record
from guidsvc.cli.remote.documents import renewal_document, renewal_members
from guidsvc.cli.remote.failures import OF_ENDS
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import DURATION


@click.command(
    cls=RemoteCommand,
    is_write=True,
    has_output=False,
    advice=OF_ENDS,
    examples=["rm 9094E4C980C74043A4B586B420E69DDF"],
)
@guid_argument
@if_match_option
@click.pass_obj
def rm(remote: Remote, /, guid: str, *, if_match: Any) -> None:
    """Delete a record. It cannot be renewed afterwards."""
    remote.client.delete(guid, if_match=if_match)
    remote.note(f"{guid} is deleted")


@click.command(cls=RemoteCommand, is_write=True, examples=["renew GUID --ttl 60 --if-below 30", "renew GUID --revive"])
@guid_argument
@ttl_option("lifetime from now [default: the default lifetime of the service]")
@click.option("--if-below", type=DURATION, metavar="DURATION", help="renew only if less than this is left")
@click.option(
    "--at-least", type=DURATION, metavar="DURATION", help="minimum lifetime; exit with 4 if limits grant less"
)
@click.option("--revive", is_flag=True, help="also if the record has expired")
@if_match_option
@click.pass_obj
def renew(remote: Remote, /, guid: str, *, if_match: Any, revive: bool, **terms: int | None) -> None:
    """Move the expiry of a record later, never earlier."""
    wanted: Any = given(**terms, revive=revive or None)
    renewal = remote.client.renew(guid, if_match=if_match, **wanted)
    remote.print_one(renewal_document(renewal), lambda: renewal_members(renewal))


@click.command(cls=RemoteCommand, is_write=True, advice=OF_ENDS, examples=["revoke 9094E4C980C74043A4B586B420E69DDF"])
@guid_argument
@if_match_option
@click.pass_obj
def revoke(remote: Remote, /, guid: str, *, if_match: Any) -> None:
    """End the life of a record now. It stays revoked until `put` or `renew --revive --ttl` gives it a new expiry."""
    print_record(remote, remote.client.patch(guid, {"expire": 0}, if_match=if_match))
