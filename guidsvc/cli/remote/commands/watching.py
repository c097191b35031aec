"""`watch`: a line for each event, as it happens."""

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import click

from guidsvc.cli import output
from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.commands.inputs import given
from guidsvc.cli.remote.curl import BASE, KEY_HEADER, quoted_url
from guidsvc.cli.remote.documents import cell, event_document, from_now, json_text
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import GUID, TEXT
from guidsvc.domain.durations import rfc_3339
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import runnable
from guidsvc_client import Client, Event, EventFeed, EventsGone, GuidsvcError, Problem, Sent
from guidsvc_client.protocol.event_calls import query_of
from guidsvc_client.protocol.retrying import backoff_seconds

START = ("oldest", "now")
_SILENT_SECONDS = 60.0
"""Minimum interval between two notes that the service does not respond."""
_REASONS = {
    "trimmed": "the service has deleted them already",
    "rewound": "the store was put back to an earlier state, such as a backup",
    "another-store": "the service has another store now",
}


@click.command(
    cls=RemoteCommand,
    examples=["watch", "watch --type guid.expiring,guid.expired --since oldest", "watch --since CURSOR -o lines"],
)
@click.option(
    "--type", "types", type=TEXT, multiple=True, metavar="TYPE", help="only this type, such as guid.expired; repeatable"
)
@click.option("--guid", type=GUID, metavar="GUID", help="only events of this GUID")
@click.option("--user", type=TEXT, metavar="NAME", help="only records of this user")
@click.option("--owner", type=TEXT, metavar="NAME", help="only records of this owner; for admins")
@click.option(
    "--since",
    type=TEXT,
    default="now",
    metavar="CURSOR",
    help="begin after this event, or with `oldest` [default: now]",
)
@click.pass_obj
def watch(remote: Remote, /, *, types: Sequence[str], since: str, **options: str | None) -> None:
    """Print a line for each event of GUIDs, until you press Ctrl-C.

    It waits while the service does not respond, and then continues at its cursor.
    """
    filters: dict[str, Any] = given(**options, types=[each for text in types for each in text.split(",")] or None)
    if remote.is_curl:
        output.write(f"{_curl(remote, filters, since)}\n")
        return
    _Watch(remote, filters, since).run()


class _Watch:
    """A watch and its position."""

    def __init__(self, remote: Remote, filters: dict[str, Any], since: str) -> None:
        self._remote = remote
        self._filters = filters
        self._start: Any = since if since in START else "oldest"
        self._cursor = None if since in START else since
        self._last_note = float("-inf")
        self._gaps = 0  # since the last event

    def run(self) -> None:
        """Print the events so far, then new ones. An error of the first request is an error of the command."""
        try:
            self._read(self._remote.client, should_follow=False)
            self._read(self._remote.client.with_options(on_retry=self._note_retry), should_follow=True)
        except KeyboardInterrupt:
            if self._cursor:
                self._remote.note(f"to continue after the last event, add --since {self._cursor}")
            raise

    def _read(self, client: Client, *, should_follow: bool) -> None:
        while True:
            feed = client.events(start=self._start, cursor=self._cursor, follow=should_follow, **self._filters)
            try:
                self._print_all(feed)
            except EventsGone as gone:
                self._note_gap(gone)
                continue
            return

    def _print_all(self, feed: EventFeed) -> None:
        try:
            for event in feed:
                self._print(event)
                self._last_note, self._gaps = float("-inf"), 0
        finally:
            self._cursor = feed.cursor

    def _print(self, event: Event) -> None:
        if self._remote.is_table:
            output.write(f"{_row(event)}\n")
        else:
            output.write(f"{json_text(event_document(event))}\n")

    def _note_gap(self, gone: EventsGone) -> None:
        """Report that events were missed, and continue with the oldest one."""
        reason = _REASONS.get(gone.reason, gone.reason)
        self._remote.warn(
            f"events were missed: {reason}; continuing with the oldest event. Read all records again: {runnable('ls')}"
        )
        self._cursor = gone.oldest
        if self._gaps:  # the log is trimmed faster than it is read
            time.sleep(backoff_seconds(self._gaps))
        self._gaps += 1

    def _note_retry(self, _: Sent, error: GuidsvcError) -> None:
        now = time.monotonic()
        if now >= self._last_note + _SILENT_SECONDS:
            self._last_note = now
            reason = f": {error.detail}" if isinstance(error, Problem) else ""
            self._remote.note(f"{self._remote.target.url} does not respond; waiting for it{reason}")


def _row(event: Event) -> str:
    record = event.record
    user = "-" if record is None else cell(escape(record.user))
    match event.type:
        case "guid.created" | "guid.updated" | "guid.renewed" if record is not None:
            detail = f"expires {from_now(record.expire)}"
        case "guid.expiring":
            detail = f"{event.details.get('left')} s left"
        case _:
            detail = ""
    return f"{rfc_3339(event.at / 1000)}  {event.type:13}  {event.guid}  {user:20}  {detail}".rstrip()


def _curl(remote: Remote, filters: dict[str, Any], since: str) -> str:
    """Return the line that follows the events with curl, one per line."""
    place = {"from": since} if since in START else {"cursor": since}
    query = urlencode({"follow": "true", **query_of(filters), **place})  # type: ignore[arg-type]
    key = [KEY_HEADER] if remote.target.key else []
    words = [BASE, "--no-buffer", *key, "--header 'Accept: application/x-ndjson'"]
    return " ".join([*words, quoted_url(f"{remote.target.url}/events?{query}")])
