"""Records, renewals, events and identities: as the documents of the interface, and as the members of tables.

A document has the members, and the strings of digits, that the service sends. A table has times that people can read.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from guidsvc.domain.durations import rfc_3339
from guidsvc_client import Event, FullRecord, Identity, Key, Readiness, Record, Renewal

_HIDDEN = re.compile(r"[^\x20-\x7e]")
_MAX_CELL = 48
_SPANS = ((86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
"""Seconds of each unit in which a time from now is shown."""


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return JSON in which every character that is not printable is escaped."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    if text.isascii() or text.replace("\n", "").isprintable():
        return text
    return _HIDDEN.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    is_shown = character.isprintable() or character == "\n"
    return character if is_shown else json.dumps(character)[1:-1]


def record_document(record: Record) -> dict[str, Any]:
    """Return a record as the service sends it."""
    document: dict[str, Any] = {"guid": record.guid, "expire": str(record.expire), "user": record.user}
    if record.metadata:
        document["metadata"] = record.metadata
    if isinstance(record, FullRecord):
        names = ("created", "updated", "version", "purge_at", "renew_at", "max_expire")
        document |= {name: _digits(getattr(record, name)) for name in names} | {"state": record.state}
        document |= {} if record.owner is None else {"owner": record.owner}
    return document


def renewal_document(renewal: Renewal) -> dict[str, Any]:
    """Return a renewal as the service sends it."""
    return {
        "guid": renewal.guid,
        "expire": str(renewal.expire),
        "renewed": renewal.is_renewed,
        "granted": str(renewal.granted),
        "capped": renewal.is_capped,
        "max_expire": _digits(renewal.max_expire),
        "renew_at": str(renewal.renew_at),
    }


def event_document(event: Event) -> dict[str, Any]:
    """Return an event as the service sends it."""
    head = {"cursor": event.cursor, "id": event.id, "type": event.type, "at": str(event.at), "guid": event.guid}
    record = {} if event.record is None else {"record": record_document(event.record)}
    return head | {"version": str(event.version)} | dict(event.details) | record


def identity_document(identity: Identity) -> dict[str, Any]:
    """Return an identity as the service sends it."""
    members = {each.name: getattr(identity, each.name) for each in fields(identity)}
    return {name: value for name, value in members.items() if value is not None} | (
        {} if identity.expire is None else {"expire": str(identity.expire)}
    )


def key_document(key: Key) -> dict[str, Any]:
    """Return a key as the service sends it, without its secret."""
    numbers = {name: _digits(getattr(key, name)) for name in ("used", "expire", "max_ttl", "max_life")}
    members = {"id": key.id, "owner": key.owner, "scopes": [*key.scopes], "created": _digits(key.created)}
    optional = {"note": key.note, **numbers}
    return members | {name: value for name, value in optional.items() if value is not None} | {"state": key.state}


def readiness_document(readiness: Readiness) -> dict[str, Any]:
    """Return the state of the service as it sends it."""
    members = {each.name: getattr(readiness, each.name) for each in fields(readiness)}
    ready = members.pop("is_ready")
    return {"ready": ready} | {name: value for name, value in members.items() if value is not None}


def _digits(value: int | None) -> str | None:
    return None if value is None else str(value)


def from_now(seconds: float) -> str:
    """Return how far a time in Unix seconds is away, in its largest unit."""
    left = seconds - time.time()
    for length, unit in _SPANS:
        if abs(left) >= length:
            return f"in {int(left // length)}{unit}" if left > 0 else f"{int(-left // length)}{unit} ago"
    return "now"


def cell(text: str) -> str:
    """Return a text as a cell of a table: cut to a limit."""
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 3]}..."


def record_members(record: Record) -> Mapping[str, object]:
    """Return the members of a record for a table."""
    members: dict[str, object] = {
        "guid": record.guid,
        "user": record.user,
        "expire": f"{rfc_3339(record.expire)} ({from_now(record.expire)})",
        "metadata": record.metadata or "-",
    }
    if record.version is not None:
        members["version"] = record.version
    return members | _full_members(record) if isinstance(record, FullRecord) else members


def _full_members(record: FullRecord) -> dict[str, object]:
    owner = {} if record.owner is None else {"owner": record.owner or "-"}
    return {
        "state": record.state,
        "created": rfc_3339(record.created / 1000),
        "updated": rfc_3339(record.updated / 1000),
        "purge_at": rfc_3339(record.purge_at),
        "renew_at": "-" if record.renew_at is None else rfc_3339(record.renew_at),
        "max_expire": "no limit" if record.max_expire is None else rfc_3339(record.max_expire),
        **owner,
    }


COLUMNS = ("guid", "expires", "left", "user", "metadata")
FULL_COLUMNS = ("guid", "state", "expires", "left", "user", "owner", "version", "metadata")
"""Columns of lists."""


def record_row(record: Record) -> Mapping[str, object]:
    """Return a record as the row of a list."""
    row: dict[str, object] = {
        "guid": record.guid,
        "expires": rfc_3339(record.expire),
        "left": from_now(record.expire).removeprefix("in "),
        "user": cell(record.user),
        "metadata": cell(json_text(record.metadata)) if record.metadata else "-",
    }
    if isinstance(record, FullRecord):
        row |= {"state": record.state, "version": record.version, "owner": cell(record.owner or "-")}
    return row


def renewal_members(renewal: Renewal) -> Mapping[str, object]:
    """Return the members of a renewal for a table."""
    return {
        "guid": renewal.guid,
        "renewed": "yes" if renewal.is_renewed else "no",
        "expire": f"{rfc_3339(renewal.expire)} ({from_now(renewal.expire)})",
        "granted": f"{renewal.granted} s",
        "capped": "yes" if renewal.is_capped else "no",
        "renew_at": rfc_3339(renewal.renew_at),
        "version": "-" if renewal.version is None else renewal.version,
    }
