"""The outbox of a record: the member `g` of its document, which no reader of the record sees.

    due      the Unix second at which the next step of time is due, such as the expiry
    stage    how many of these steps were done for this version
    out      the entries that are not in the log yet, in the order in which they happened
    pending  the time of the oldest of them, in Unix milliseconds; absent if there is none

One update of the document changes the record and adds the entries of the change, so neither happens without the other.
Every entry of a GUID passes through its document. So their order is the order of the changes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from pymongo import IndexModel

from guidsvc.domain.events.entry import EXPIRED, Entry, Origin, change_of
from guidsvc.domain.events.schedule import EXPIRED_STAGE, PURGED_STAGE, EventPolicy
from guidsvc.domain.record import Record
from guidsvc.store.mongo.documents import NOW, OUTBOX, Document, document_of
from guidsvc.store.mongo.events.entry_documents import item_of

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
Pipeline = Sequence[Document]


def created(record: Record, policy: EventPolicy, origin: Origin) -> dict[str, Any]:
    """Return the document of a new record, with the entries of its creation in its outbox."""
    stage, due = policy.first(record)
    outbox: dict[str, Any] = {"due": due, "stage": stage}
    items = _items(change_of(None, record, origin).entries, policy)
    if items:
        outbox |= {"pending": record.updated, "out": items}
    return document_of(record) | {OUTBOX: outbox}


def swapped(old: Record, new: Record, policy: EventPolicy, origin: Origin) -> Pipeline:
    """Return the update that replaces `old` with `new` and adds the entries of the change to the outbox."""
    change = change_of(old, new, origin)
    owed = [_unless_done(each) for each in change.owed if policy.logs(each.kind)]
    stage, due = policy.first(new)
    outbox = _outbox(stage, due, [*owed, {"$literal": _items(change.entries, policy)}])
    return [{"$replaceWith": {"$mergeObjects": [{"$literal": document_of(new)}, {OUTBOX: outbox}]}}]


def advanced(stage: int, due: int, entries: Iterable[Entry], policy: EventPolicy) -> Pipeline:
    """Return the update that advances the stage of a document and adds entries to its outbox."""
    return [{"$set": {OUTBOX: _outbox(stage, due, [{"$literal": _items(entries, policy)}])}}]


def drained(ids: Iterable[str]) -> Pipeline:
    """Return the update that takes the entries with these ids, which are in the log, out of the outbox."""
    is_left = {"$not": [{"$in": ["$$each.id", {"$literal": sorted(ids)}]}]}
    left = {"$filter": {"input": {"$ifNull": ["$g.out", []]}, "as": "each", "cond": is_left}}
    return [{"$set": {OUTBOX: _with_items("$g.stage", "$g.due", left, pending=NOW)}}]


def _outbox(stage: int, due: int, added: Sequence[Document]) -> Document:
    items = {"$concatArrays": [{"$ifNull": ["$g.out", []]}, *added]}
    return _with_items(stage, due, items, pending={"$ifNull": ["$g.pending", NOW]})


def _with_items(stage: int | str, due: int | str, items: Document, *, pending: Document) -> Document:
    is_empty = {"$eq": [{"$size": "$$items"}, 0]}
    members = {"due": due, "stage": stage, "out": "$$items", "pending": {"$cond": [is_empty, "$$REMOVE", pending]}}
    return {"$let": {"vars": {"items": items}, "in": members}}


def _unless_done(entry: Entry) -> Document:
    """Return the entry of a step of the old version, or nothing if that step was done."""
    stage = EXPIRED_STAGE if entry.kind == EXPIRED else PURGED_STAGE
    is_due = {"$lt": [{"$ifNull": ["$g.stage", 0]}, stage]}
    return {"$cond": [is_due, [{"$literal": item_of(entry)}], []]}


def _items(entries: Iterable[Entry], policy: EventPolicy) -> list[dict[str, Any]]:
    return [item_of(entry) for entry in entries if policy.logs(entry.kind)]
