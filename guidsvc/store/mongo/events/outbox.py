"""The outbox of a record: the member `g` of its document, which no reader of the record sees.

    due      the Unix second at which the next scheduled step is due, such as the expiry
    stage    the number of these steps that were executed for this version
    out      the entries that are not in the log yet, in the order in which they happened
    pending  the time of the oldest of them, in Unix milliseconds; absent if there is none

One update of the document changes the record and adds the entries of the change, so neither happens without the other.
Every entry of a GUID passes through its document. So their order is the order of the changes.

Damage of one outbox must not stop others. A write keeps the items of an invalid outbox and adds its own after them. If
`out` is not an array, there are no items to keep.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from bson.int64 import Int64
from pymongo import IndexModel

from guidsvc.domain.events.entry import EXPIRED, Entry, Origin, change_of
from guidsvc.domain.events.schedule import EXPIRED_STAGE, PURGED_STAGE, EventPolicy
from guidsvc.domain.lifecycle import is_absent
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.runtime.clock import ContinuousClock, continuous_clock
from guidsvc.store.mongo.documents import NOW, OUTBOX, Document, document_of
from guidsvc.store.mongo.events.entry_documents import entry_in_item, item_of
from guidsvc.telemetry.outage import FirstTimes

INTEGERS = {int, Int64}
"""The types of a whole number in a document. A truth value is none, though Python counts it among them."""
MAX_ITEMS = 64
"""A writer that finds this many entries in the outbox drains it first, so that the document cannot grow."""
HAS_ROOM: dict[str, Any] = {f"g.out.{MAX_ITEMS - 1}": {"$exists": False}}
"""The filter that matches documents with room in their outbox."""
IS_PENDING: dict[str, Any] = {"g.pending": {"$gt": 0}}
IS_DRAINED: dict[str, Any] = {"g.pending": None}
"""The filter that matches documents whose entries are all in the log."""
IS_PURGED: dict[str, Any] = {"g.stage": PURGED_STAGE}
BY_DUE, BY_PENDING = "g_due", "g_pending"
INDEXES = [IndexModel("g.due", name=BY_DUE), IndexModel("g.pending", name=BY_PENDING, sparse=True)]
PASS_SECONDS = 60.0
"""Time for which an invalid outbox is skipped."""
MAX_INVALID = 1000
"""Number of invalid outboxes that are skipped before the sequencer fails as a whole."""
_OUT: dict[str, Any] = {"$cond": [{"$isArray": "$g.out"}, "$g.out", []]}
Pipeline = Sequence[Document]

_log = structlog.get_logger(__name__)


class Outbox(NamedTuple):
    """The entries in an outbox, and the time of the oldest of them in Unix milliseconds; None if there is none."""

    entries: Sequence[Entry]
    pending: int | None


def outbox_in(guid: object, value: object) -> Outbox:
    """Return the outbox in the member `g` of the document of a GUID; CorruptRecord if it is invalid."""
    if not isinstance(value, Mapping):
        raise CorruptRecord(f"the outbox of {guid} is no document")
    items, pending = value.get("out", []), value.get("pending")
    if not isinstance(items, list):
        raise CorruptRecord(f"`out` in the outbox of {guid} is no array")
    if (type(pending) not in INTEGERS) if items else (pending is not None):
        raise CorruptRecord(f"`pending` in the outbox of {guid} does not fit its {len(items)} entries")
    return Outbox([entry_in_item(guid, item) for item in items], pending)


def valid_entries(guid: object, value: object) -> list[Entry]:
    """Return the valid entries in an outbox that may be invalid."""
    items = value.get("out") if isinstance(value, Mapping) else None
    entries: list[Entry] = []
    for item in items if isinstance(items, list) else ():
        with suppress(CorruptRecord):
            entries.append(entry_in_item(guid, item))
    return entries


def ids_in(value: object) -> list[object]:
    """Return the ids of the items in an outbox that may be invalid."""
    items = value.get("out") if isinstance(value, Mapping) else None
    found = (item.get("id") for item in items if isinstance(item, Mapping)) if isinstance(items, list) else ()
    return [each for each in found if isinstance(each, str)]


def repaired(guid: str, value: object) -> Pipeline:
    """Return the update that removes the invalid items from an outbox."""
    schedule = {name: value[name] for name in ("due", "stage") if name in value} if isinstance(value, Mapping) else {}
    items = [item_of(entry) for entry in valid_entries(guid, value)]
    pending = {"pending": _number("$g.pending", NOW)} if items else {}
    return [{"$set": {OUTBOX: {"$mergeObjects": [{"$literal": schedule | {"out": items}}, pending]}}}]


def created(record: Record, policy: EventPolicy, origin: Origin) -> dict[str, Any]:
    """Return the document of a new record, with the entries of its creation in its outbox."""
    stage, due = policy.first(record)
    outbox: dict[str, Any] = {"due": due, "stage": stage}
    items = [item_of(entry) for entry in policy.logged(change_of(None, record, origin)).entries]
    if items:
        outbox |= {"pending": record.updated, "out": items}
    return document_of(record) | {OUTBOX: outbox}


def swapped(old: Record, new: Record, policy: EventPolicy, origin: Origin) -> Pipeline:
    """Return the update that replaces `old` with `new` and adds the entries of the change to the outbox."""
    change = policy.logged(change_of(old, new, origin))
    owed = [_unless_done(each) for each in change.owed]
    stage, due = policy.first(new)
    outbox = _outbox(stage, due, [*owed, {"$literal": [item_of(entry) for entry in change.entries]}])
    return [{"$replaceWith": {"$mergeObjects": [{"$literal": document_of(new)}, {OUTBOX: outbox}]}}]


def is_replaceable(old: Record, new: Record) -> Document:
    """Return the filter that matches documents whose record a change from `old` to `new` may replace.

    The purge of a record is in the log before its document is removed. A change that was decided before the purge must
    not bring the record back. Once the record counts as absent, `new` is a creation of the GUID.
    """
    return {} if is_absent(old, new.updated) else {"g.stage": {"$ne": PURGED_STAGE}}


def advanced(stage: int, due: int, entries: Iterable[Entry]) -> Pipeline:
    """Return the update that advances the stage of a document and adds entries to its outbox."""
    items = [item_of(entry) for entry in entries]
    return [{"$set": {OUTBOX: _outbox(stage, due, [{"$literal": items}])}}]


def drained(ids: Iterable[str]) -> Pipeline:
    """Return the update that takes the entries with these ids, which are in the log, out of the outbox.

    The outbox gets the place in the queue of its oldest entry left: the time of that entry. The time of an expiry, or
    by the clock of a host, may be far from that at which the entry came. It came after the entries before it.
    """
    is_left = {"$not": [{"$in": ["$$each.id", {"$literal": sorted(ids)}]}]}
    left = {"$filter": {"input": _OUT, "as": "each", "cond": is_left}}
    oldest_at = {"$let": {"vars": {"oldest": {"$arrayElemAt": ["$$items", 0]}}, "in": "$$oldest.at"}}
    pending = {"$min": [NOW, {"$max": [_number("$g.pending", NOW), oldest_at]}]}
    return [{"$set": {OUTBOX: _with_items("$g.stage", "$g.due", left, pending=pending)}}]


def _outbox(stage: int, due: int, added: Sequence[Document]) -> Document:
    items = {"$concatArrays": [_OUT, *added]}
    return _with_items(stage, due, items, pending=_number("$g.pending", NOW))


def _number(path: str, otherwise: Document | int) -> Document:
    return {"$cond": [{"$isNumber": path}, path, otherwise]}


def _with_items(stage: int | str, due: int | str, items: Document, *, pending: Document) -> Document:
    is_empty = {"$eq": [{"$size": "$$items"}, 0]}
    members = {"due": due, "stage": stage, "out": "$$items", "pending": {"$cond": [is_empty, "$$REMOVE", pending]}}
    return {"$let": {"vars": {"items": items}, "in": members}}


def _unless_done(entry: Entry) -> Document:
    """Return the entry of a step of the old version, or nothing if that step was done."""
    stage = EXPIRED_STAGE if entry.kind == EXPIRED else PURGED_STAGE
    is_due = {"$lt": [_number("$g.stage", 0), stage]}
    return {"$cond": [is_due, [{"$literal": item_of(entry)}], []]}


class InvalidOutboxes:
    """The invalid outboxes, which are skipped."""

    def __init__(self, timer: ContinuousClock = continuous_clock) -> None:
        self._timer = timer
        self._keys: dict[str, object] = {}
        """The keys of their documents, which may be of any type."""
        self._logged = FirstTimes(MAX_INVALID)
        self._until = 0.0

    def filter(self) -> dict[str, Any]:
        """Return the filter that excludes them."""
        if self._keys and self._timer() >= self._until:
            self._keys.clear()
        return {"_id": {"$nin": list(self._keys.values())}} if self._keys else {}

    def add(self, key: object, error: CorruptRecord) -> None:
        """Skip an outbox from now on. Raise the error if there are too many."""
        if len(self._keys) >= MAX_INVALID:
            raise CorruptRecord(f"more than {MAX_INVALID} outboxes are invalid; the last: {error}") from error
        if not self._keys:
            self._until = self._timer() + PASS_SECONDS
        name = str(key)
        self._keys[name] = key
        if self._logged.is_first(name):
            _log.error(
                "outbox invalid, its events are not logged", guid=name, error=str(error), count=self._logged.count
            )

    def forget(self, key: object) -> None:
        """Stop skipping an outbox, because it was repaired."""
        self._keys.pop(str(key), None)
