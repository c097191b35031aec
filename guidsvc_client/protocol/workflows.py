"""Flows of several calls: the update that loses nothing, the pages of a list, and the next page of a feed of events."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from guidsvc_client.errors import GuidsvcError, RecordWithheld, RepeatedCursor
from guidsvc_client.models import EventPage, FullRecord, Record
from guidsvc_client.problems import PreconditionFailed, ReceiptsFull, Unavailable
from guidsvc_client.protocol.batches import Result, batch, rendered
from guidsvc_client.protocol.call import Flow, Pause, send
from guidsvc_client.protocol.calls import PutChange, get, put
from guidsvc_client.protocol.event_calls import WAIT_SECONDS, Start, page
from guidsvc_client.protocol.retrying import backoff_seconds, is_temporary
from guidsvc_client.protocol.values import Guid

log = logging.getLogger("guidsvc_client")
MAX_CONFLICTS = 50
"""Number of other writers that may come first before an update fails."""
MAX_UNAVAILABLE = 3
"""Number of times that a write is sent again because the service is unavailable."""
EARLY_SECONDS = 1.0
"""An empty page that came sooner did not wait for events."""


def update(guid: Guid, change: Callable[[Record], Record]) -> Flow[Record]:
    """Read a record, change it, and write it if no other client has; otherwise change the new record.

    The write is a batch of one with an idempotency key. So its repetition gets the response of the first attempt, and
    not a failed precondition, which would not tell whether this write or another changed the version. The expiry does
    not change the version: a record that expires before the write must not be renewed by it.
    """
    record = yield from send(get(guid, Record))
    for conflicts in range(1, MAX_CONFLICTS + 1):
        record, version = yield from _with_version(record)
        members = _changed_members(record, change(record))
        if not members:
            return record
        try:
            return (yield from _write(record.guid, version, members))
        except PreconditionFailed as error:
            if error.record is None or conflicts == MAX_CONFLICTS:
                raise
            record = error.record
    raise AssertionError("the last conflict is raised")


def _with_version(record: Record) -> Flow[tuple[Record, int]]:
    """Return a record and its version, which a write must name.

    A proxy that compresses or changes responses weakens or removes their entity tags. Then the version is unknown, and
    the record is read again with all members, of which one is the version.
    """
    if record.version is not None:
        return record, record.version
    full = yield from send(get(record.guid, FullRecord))
    known = Record(guid=full.guid, user=full.user, expire=full.expire, metadata=full.metadata, version=full.version)
    return known, full.version


class PageTurner:
    """Finds the next page of the list at a path, and notices a page that leads back to an earlier one.

    It compares each cursor with one earlier cursor, which it replaces ever more rarely (Brent's algorithm). So a circle
    of any length is noticed, soon after it has been read once or twice, without a record of all cursors.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._cursor: str | None = None  # of the page that it found last
        self._earlier: str | None = None
        self._steps: int = 0  # since the earlier cursor
        self._max_steps: int = 1  # until it is replaced

    def turn(self, cursor: str | None, following: str | None, *, may_stay: bool = False) -> str | None:
        """Return `following`, the cursor that the page after `cursor` names; raise RepeatedCursor if it leads back.

        `may_stay`: the page may name its own cursor, because nothing follows yet.
        """
        if cursor != self._cursor:  # the reader has chosen another place
            self._earlier, self._steps, self._max_steps = cursor, 0, 1
        self._cursor = following
        if following is None or (may_stay and following == cursor):
            return following
        if following in {cursor, self._earlier}:
            raise RepeatedCursor(self._path)
        self._steps += 1
        if self._steps == self._max_steps:
            self._earlier, self._steps = following, 0
            self._max_steps *= 2
        return following


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """Which events a feed has, where it starts without a cursor, and whether it waits for new events."""

    query: dict[str, str]
    start: Start
    should_follow: bool


def next_page(plan: FeedPlan, cursor: str | None) -> Flow[EventPage]:
    """Read the page after a cursor. A feed that follows tries again as long as the service does not respond.

    It pauses after an empty page that came at once, as whatever responds does not wait for events.
    """
    wait_seconds = WAIT_SECONDS if plan.should_follow else 0
    call = page(plan.query, start=plan.start, cursor=cursor, wait_seconds=wait_seconds)
    failures = 0
    while True:
        asked = time.monotonic()
        try:
            found = yield from send(call)
        except GuidsvcError as error:
            if not plan.should_follow or not is_temporary(error):
                raise
            log.debug("events not read, trying again: %s", error)
            yield Pause(backoff_seconds(failures))
            failures += 1
        else:
            is_early = time.monotonic() < asked + EARLY_SECONDS
            if plan.should_follow and is_early and not found.items and not found.has_more:
                yield Pause(EARLY_SECONDS)
            return found


def _write(guid: str, version: int, members: PutChange) -> Flow[Record]:
    """Write members to a version of a record, once."""
    operation = rendered({"guid": guid, "if_match": version, **members})
    failures = 0
    while True:
        try:
            (result,) = yield from send(batch([operation]))
        except ReceiptsFull:  # then without: a lost response remains a doubt, which the caller gets to know
            call = put(guid, members, Record, if_match=version)
            return (yield from send(replace(call, is_repeatable=False)))
        if not isinstance(result.error, Unavailable) or failures == MAX_UNAVAILABLE:
            return _record_of(result)
        yield Pause(backoff_seconds(failures))
        failures += 1


def _record_of(result: Result) -> Record:
    """Return the record of a result, or raise its error."""
    if result.error is not None:
        raise result.error
    if result.record is None:
        raise RecordWithheld(result.version)
    return result.record


def _changed_members(old: Record, new: Record) -> PutChange:
    """Return the members that a change has changed. Unless it sets the expiry, it must not revive the record."""
    if new.guid != old.guid:
        raise ValueError(f"the change returned {new.guid} in place of {old.guid}; return record.replace(...)")
    changed: PutChange = {}
    if new.user != old.user:
        changed["user"] = new.user
    if new.expire != old.expire:
        changed["expire"] = new.expire
    if new.metadata != old.metadata:
        changed["metadata"] = new.metadata
    if changed and "expire" not in changed:
        changed["revive"] = False
    return changed
