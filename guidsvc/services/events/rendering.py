"""Events as clients see them: JSON, rendered once for all readers."""

import sys
from typing import NamedTuple

from pydantic_core import to_json

from guidsvc.domain.events.cursor import Cursor, CursorKey, checksum_of
from guidsvc.domain.events.entry import EXPIRING, Entry, event_type
from guidsvc.domain.record import render_body
from guidsvc.store.event_log import Numbered
from guidsvc.utf8 import utf8_bytes

FRAME_BYTES = 384
"""Bytes of an event beyond its texts."""
EVENT_BYTES = 1024
"""Memory of an event beyond its texts, in bytes."""


class EventView(NamedTuple):
    """The members of an event that a reader sees, besides those that every reader sees."""

    has_owner: bool
    has_record: bool


class FeedEvent:
    """An entry of the log as clients see it. It is rendered on first use, and then for all readers."""

    __slots__ = ("_appended", "_cursor", "_key", "_parts", "entry", "memory_bytes", "number", "owner", "text_bytes")

    def __init__(self, key: CursorKey, numbered: Numbered) -> None:
        self.number, self.entry, self._appended = numbered
        self.owner = self.entry.owner
        self._key = key
        self._cursor: bytes | None = None
        self._parts: _Parts | None = None
        self.text_bytes = FRAME_BYTES + self.entry.text_bytes
        """The approximate size of the event as clients see it, in bytes."""
        self.memory_bytes = EVENT_BYTES + self.text_bytes + sum(map(_memory_of, self.entry.texts))
        """The approximate memory of the event, with its rendering, in bytes."""

    @property
    def place(self) -> Cursor:
        """The position after the event."""
        return Cursor(self._key, self.number, checksum_of(self.entry.id, self._appended))

    @property
    def cursor(self) -> bytes:
        """The place after the event, as clients see it."""
        if self._cursor is None:
            self._cursor = self.place.encode().encode()
        return self._cursor

    def json(self, view: EventView) -> bytes:
        """Return the event as JSON, with its cursor."""
        return b'{"cursor":"%b",%b}' % (self.cursor, self.members(view))

    def members(self, view: EventView) -> bytes:
        """Return the members of the event apart from its cursor, as JSON without braces."""
        parts = self._parts
        if parts is None:
            parts = self._parts = _render(self.entry)
        return b"%b%b%b%b" % (
            parts.head,
            parts.owner if view.has_owner else b"",
            parts.others,
            parts.record if view.has_record else b"",
        )


def _memory_of(text: str) -> int:
    """Return the memory of a text. A non-ASCII one takes up to four bytes a character, and caches its UTF-8 form."""
    return sys.getsizeof(text) if text.isascii() else sys.getsizeof(text) + utf8_bytes(text)


class _Parts(NamedTuple):
    """The members of an event. Each part but the first begins with a comma, or is empty."""

    head: bytes
    owner: bytes
    others: bytes
    record: bytes


def _render(entry: Entry) -> _Parts:
    head = f'"id":"{entry.id}","type":"{event_type(entry.kind)}","at":"{entry.at}"'
    head += f',"guid":"{entry.guid}","version":"{entry.version}"'
    return _Parts(head.encode(), b',"owner":%b' % to_json(entry.owner), _others(entry), _record(entry))


def _others(entry: Entry) -> bytes:
    members: dict[str, object] = {}
    if entry.changed:
        members["changed"] = entry.changed.split(",")
    if entry.caller:
        members["by"] = entry.caller
    if entry.request_id:
        members["request_id"] = entry.request_id
    if entry.kind == EXPIRING and entry.expire is not None:
        left = max(0, entry.expire * 1000 - entry.at) // 1000
        members |= {"left": str(left), "warning": str(entry.lead)}
    return b",%b" % to_json(members)[1:-1] if members else b""


def _record(entry: Entry) -> bytes:
    if entry.user is None or entry.expire is None:
        return b""
    return b',"record":%b' % render_body(entry.guid, entry.expire, entry.user, entry.metadata)
