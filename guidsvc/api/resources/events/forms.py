"""The forms of a stream of events: lines of JSON, and server-sent events."""

import random
from typing import Protocol

from pydantic_core import to_json

from guidsvc.domain.events.cursor import Cursor
from guidsvc.errors import EventsGone
from guidsvc.http.constants import EVENT_STREAM, NDJSON
from guidsvc.services.events.rendering import EventView, FeedEvent

RETRY_MS = (1500, 4000)
"""Bounds of the random delay before a browser reconnects, so that not all browsers reconnect at once."""


class StreamForm(Protocol):
    """How a stream writes events, bookmarks, and its end."""

    content_type: str

    def opening(self, place: Cursor | None) -> bytes:
        """Return the beginning of the stream. `place` is its start, if no event follows at once."""

    def event(self, event: FeedEvent, view: EventView) -> bytes:
        """Return an event."""

    def bookmark(self, place: Cursor, at: int) -> bytes:
        """Return a bookmark: the reader has all events up to this place. `at` is the time, in Unix milliseconds."""

    def gone(self, error: EventsGone) -> bytes:
        """Return the last part of a stream whose place is no longer in the log."""


class EventLines:
    """Lines of JSON."""

    content_type = NDJSON

    def opening(self, place: Cursor | None) -> bytes:  # noqa: ARG002  # a line needs none
        return b""

    def event(self, event: FeedEvent, view: EventView) -> bytes:
        return event.json(view) + b"\n"

    def bookmark(self, place: Cursor, at: int) -> bytes:
        return f'{{"type":"bookmark","cursor":"{place.encode()}","at":"{at}"}}\n'.encode()

    def gone(self, error: EventsGone) -> bytes:
        return _gone(error) + b"\n"


class ServerSentEvents:
    """Server-sent events, as the HTML standard defines them.

    They have no names: a browser passes named events only to listeners for that name. A bookmark is a block of nothing
    but an id: a browser dispatches no event, and connects again from there.
    """

    content_type = EVENT_STREAM

    def opening(self, place: Cursor | None) -> bytes:
        """Return the delay of a reconnection, and its place if no event follows at once."""
        retry_ms = random.randint(*RETRY_MS)  # noqa: S311  # nosec B311  # no secret
        return b"retry: %d\n\n" % retry_ms + (b"" if place is None else self._id(place))

    def event(self, event: FeedEvent, view: EventView) -> bytes:
        return b"id: %b\ndata: {%b}\n\n" % (event.cursor, event.members(view))

    def bookmark(self, place: Cursor, at: int) -> bytes:  # noqa: ARG002  # a browser reads nothing of a bookmark
        return self._id(place)

    def gone(self, error: EventsGone) -> bytes:
        return b"data: %b\n\n" % _gone(error)

    @staticmethod
    def _id(place: Cursor) -> bytes:
        return f"id: {place.encode()}\n\n".encode()


def _gone(error: EventsGone) -> bytes:
    return to_json({"type": "events.gone", "oldest": error.oldest, "now": error.now})
