"""Entries as documents, in an outbox and in the log; and selections of entries as filters."""

from collections.abc import Mapping
from typing import Any

import bson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from guidsvc.domain.events.cursor import checksum_of
from guidsvc.domain.events.entry import KINDS, Entry
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.record import GUID_CHARACTERS
from guidsvc.errors import CorruptRecord
from guidsvc.store.event_log import Numbered
from guidsvc.store.mongo.documents import Document

KEY = "guid", "version", "kind", "lead"
"""The members that together occur once in the log. They name an event, as its id does."""
Key = tuple[Any, ...]
_REQUIRED = {"kind", "version", "at", "owner", "lead"}
_DEFAULTS = Entry._field_defaults
_ENTRY = TypeAdapter(Entry, config=ConfigDict(strict=True))


def item_of(entry: Entry) -> dict[str, Any]:
    """Convert an entry to an item of an outbox. The GUID is that of the record's document."""
    fields = entry._asdict()
    del fields["guid"]
    filled = {name: value for name, value in fields.items() if name in _REQUIRED or value != _DEFAULTS[name]}
    return {"id": entry.id} | filled


def entry_in_item(guid: object, item: object) -> Entry:
    """Return the entry in an item of the outbox of a GUID; CorruptRecord if it is invalid."""
    if not isinstance(item, Mapping):
        raise CorruptRecord(f"an item of the outbox of {guid} is no document")
    entry = entry_in({**item, "guid": guid})
    if item.get("id") != entry.id:
        raise CorruptRecord(f"an item of the outbox of {guid} does not have the id of its event, {entry.id}")
    return entry


def log_document(entry: Entry, number: int, total_bytes: int, appended: int) -> dict[str, Any]:
    """Convert an entry to a document of the log; `total_bytes` is the size of all entries before it.

    `appended` is the time of the append in Unix milliseconds. The time of the event may be far older.
    """
    document: dict[str, Any] = {"_id": number, "guid": entry.guid, "appended": appended} | item_of(entry)
    del document["id"]
    document["total"] = total_bytes + len(bson.encode(document))
    return document


def key_of(document: Document) -> Key:
    """Return the key of the event in a document of the log."""
    return tuple(document[name] for name in KEY)


def key_of_entry(entry: Entry) -> Key:
    """Return the key of the event in the log."""
    return tuple(getattr(entry, name) for name in KEY)


def numbered(document: Document) -> Numbered:
    """Convert a document of the log to its entry."""
    return Numbered(document["_id"], entry_in(document), _appended_in(document))


def entry_in(document: Document) -> Entry:
    """Return the entry in a document of the log; CorruptRecord if it is invalid."""
    try:
        return _ENTRY.validate_python({name: document[name] for name in Entry._fields if name in document})
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_url=False))
        raise CorruptRecord(f"an event of {document.get('guid')} is not valid: {faults}") from error


def checksum_in(document: Document) -> int:
    """Return the checksum of an entry in the log; 0 if its document is invalid."""
    event_id = id_in(document)
    return 0 if event_id is None else checksum_of(event_id, _appended_in(document))


def id_in(document: Document) -> str | None:
    """Return the id of an entry in the log; None if its document is invalid."""
    try:
        return entry_in(document).id
    except CorruptRecord:
        return None


def _appended_in(document: Document) -> int:
    """Return when an entry was appended; 0 if that is invalid."""
    appended = document.get("appended")
    return appended if isinstance(appended, int) else 0


def filter_of(selection: EventSelection) -> dict[str, Any]:
    """Convert a selection of entries to a MongoDB filter."""
    wanted: dict[str, Any] = {}
    if selection.owner is not None:
        wanted["owner"] = selection.owner
    if selection.kinds is not None:
        wanted["kind"] = {"$nin": sorted(set(KINDS) - selection.kinds)}  # matches invalid kinds: they end a page
    if len(selection.guid_prefix) == GUID_CHARACTERS:
        wanted["guid"] = selection.guid_prefix
    elif selection.guid_prefix:
        wanted["guid"] = {"$gte": selection.guid_prefix, "$lt": f"{selection.guid_prefix}G"}
    if selection.user is not None:
        wanted["$or"] = [{"user": selection.user}, {"former_user": selection.user}]
    return wanted
