"""`ls`: the records that a filter selects."""

from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

import click

from guidsvc.cli import output
from guidsvc.cli.parsing.value_types import OneOf, Parsed
from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.commands.inputs import given
from guidsvc.cli.remote.documents import COLUMNS, FULL_COLUMNS, record_document, record_row
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import DURATION, TEXT

Function = TypeVar("Function", bound=Callable[..., Any])
_MAX_PAGE = 500


def filter_options(state: str) -> Callable[[Function], Function]:
    """Add the options that select records; `state` is the default."""
    options = [
        click.option("--user", type=TEXT, metavar="NAME", help="only records of this user"),
        click.option(
            "--state", type=OneOf(["live", "expired", "all"]), default=state, help=f"only this state [default: {state}]"
        ),
        click.option(
            "--owner", type=TEXT, metavar="NAME", help="only records of this owner; other owners are for admins"
        ),
    ]

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _limit(text: str) -> int:
    """Return a number of records."""
    digits = text.lstrip("0")
    if not text.isascii() or not text.isdecimal() or not digits:
        raise ValueError("must be a whole number, at least 1")
    return int(digits[:18])  # of more, Python converts at most 4,300, and `islice` takes no such number


@click.command(
    cls=RemoteCommand,
    examples=["ls", "ls --user 'Cylance, Inc.' --expires-within 24h", "ls --state expired --count"],
)
@filter_options("live")
@click.option(
    "--expires-within", type=DURATION, metavar="DURATION", help="only what expires within this time, soonest first"
)
@click.option("--sort", type=OneOf(["guid", "expire"]), help="order [default: guid, or expire with --expires-within]")
@click.option("--limit", type=Parsed("N", _limit), metavar="N", help="maximum number of records")
@click.option("--full", "is_full", is_flag=True, help="all members of the records")
@click.option("--count", "is_count", is_flag=True, help="print only the number of records")
@click.pass_obj
def ls(remote: Remote, /, *, limit: int | None, is_full: bool, is_count: bool, **options: Any) -> None:
    """List the records that the options select, live ones by default."""
    filters: Any = _filters(**options)
    page_size = min(limit or _MAX_PAGE, _MAX_PAGE)
    listed = remote.client.list(full=is_full, page_size=page_size, **filters)  # type: ignore[call-overload]
    if is_count:
        output.write(f"{listed.total()}\n")
        return
    show = record_row if remote.is_table else record_document
    records = islice(iter(listed), limit)
    remote.rendering.rows(FULL_COLUMNS if is_full else COLUMNS, map(show, records))


def _filters(*, expires_within: int | None, sort: str | None, **filters: str | None) -> dict[str, Any]:
    within = None if expires_within is None else f"+{expires_within}s"
    order = sort or (None if within is None else "expire")
    return given(**filters, expires_before=within, sort=order)
