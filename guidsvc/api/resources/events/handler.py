"""The handler of `/events`."""

import asyncio
import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.client import OK

from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import ACCEL_BUFFERING, LAST_EVENT_ID, LINK
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution.list_response import check_owner
from guidsvc.api.parsing.query import link_to_next
from guidsvc.api.resources.events.forms import EventLines, ServerSentEvents, StreamForm
from guidsvc.api.resources.events.query_checks import check_query
from guidsvc.api.resources.events.stream import CHECK_SECONDS, EventStream, Reader, StreamOptions
from guidsvc.domain.caller import READ
from guidsvc.domain.events import cursor as cursors
from guidsvc.domain.events.cursor import Cursor, SealedCursor
from guidsvc.domain.events.query import CURSOR_FAULT, EventQuery
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import (
    EventsGone,
    Forbidden,
    ForgedCursor,
    InvalidField,
    InvalidRequest,
    ShuttingDown,
    TooManyStreams,
)
from guidsvc.http import constants
from guidsvc.http.headers.negotiation import preferred
from guidsvc.server.abort import call_on_leave, hang_up_at_eof
from guidsvc.services.events.feed import PAGE_BYTES, PART_BYTES, PART_EVENTS, EventFeed, EventPage, selection_of
from guidsvc.services.events.rendering import EventView

_FORMS: dict[str, StreamForm] = {form.content_type: form for form in (EventLines(), ServerSentEvents())}


class EventsHandler(Handler):
    """The feed of events."""

    label = "events"

    @operation(
        "listEvents",
        "Read events",
        ResponseSpec(
            200,
            "A page of events, or a stream of them.",
            schemas.EventPage,
            other={
                constants.NDJSON: "Events and bookmarks, one per line, as JSON.",
                constants.EVENT_STREAM: "Server-sent events. The stream continues after the newest event.",
            },
            headers=(LINK, ACCEL_BUFFERING),
        ),
        query=EventQuery,
        headers=(LAST_EVENT_ID,),
        problems=(InvalidRequest, EventsGone, TooManyStreams),
        required_scope=READ,
    )
    async def get(self) -> None:
        """Return the events of GUIDs: a page, a stream of lines, or server-sent events.

        The events of one GUID are in order. To continue, send `next`. The same event always has the same `id`. Ignore
        unknown types, because new ones may be added.
        """
        query, form = self._parse()
        if form is None:
            await self._send_page(query)
        else:
            await self._send_stream(query, form)

    head = get

    @property
    def feed(self) -> EventFeed:
        """The feed. Forbidden if there is no event log."""
        if self.context.feed is None:
            detail = (
                "This service keeps no events, for any key: it runs with --events off. To keep them, start it with "
                "--events all, or --events changes."
            )
            raise Forbidden(None, detail)
        return self.context.feed

    async def flush_part(self) -> None:
        """Send a part; meanwhile, check that the caller may still read, and that the service is not shutting down."""
        sent = self.flush()
        while not sent.done():
            await asyncio.wait((sent,), timeout=CHECK_SECONDS)
            if not sent.done() and self.feed.is_closed:
                raise ShuttingDown("the client did not take the rest of a stream of events")
            await self.confirm()
        await sent

    def _parse(self) -> tuple[EventQuery, StreamForm | None]:
        """Return the query, with the cursor of Last-Event-ID if there is one, and the form of a stream."""
        _ = self.feed  # without a log, no other check matters
        query = self.read_query(EventQuery)
        check_owner(query.owner, self.session)
        content_type = preferred(self.request.headers.get("Accept"), (constants.JSON, *_FORMS))
        check_query(query, self.feed.policy, content_type)
        last = self.request.headers.get("Last-Event-ID", "")
        if last:
            query = query.model_copy(update={"cursor": _last_event(last)})
        return query, _FORMS.get(content_type)

    async def _send_page(self, query: EventQuery) -> None:
        selection = selection_of(query, self.caller)
        page = await self._first_page(query, selection)
        if query.wait and self.request.method == "GET" and not (page.events or page.has_more):
            page = await self._waited_page(query, selection, page)
        view = self._view(query)
        items = b",".join([each.json(view) for each in page.events])
        cursor = (await self.feed.place_after(page, selection)).encode()
        end = f'],"next":"{cursor}","more":{"true" if page.has_more else "false"}}}'
        self.set_header("Link", link_to_next(self.request, cursor, without="from"))
        self.respond(OK, b'{"items":[%b%b' % (items, end.encode()))

    async def _waited_page(self, query: EventQuery, selection: EventSelection, page: EventPage) -> EventPage:
        """Wait for the first event after an empty page; return the next page."""
        loop = asyncio.get_running_loop()
        until = loop.time() + query.wait
        stop = self._stop_signal()
        self._streaming = asyncio.current_task()
        with self._waiting():
            while not (page.events or self.feed.is_closed or stop.done()) and (left := until - loop.time()) > 0:
                await self.feed.wait(page.next, selection, min(CHECK_SECONDS, left), stop)
                await self.confirm()
                page = await self._next_page(page.next, selection, query.page)
        self._streaming = None
        return page

    async def _next_page(self, place: Cursor, selection: EventSelection, limit: int) -> EventPage:
        """Return the events after a place: from memory, or else from the store."""
        page = self.feed.at_hand(place, selection, limit)
        return await self._read(place, selection, limit) if page is None else page

    async def _send_stream(self, query: EventQuery, form: StreamForm) -> None:
        is_following = query.follow == "true" or form.content_type == constants.EVENT_STREAM
        limit = sys.maxsize if query.limit is None else query.limit
        selection = selection_of(query, self.caller)

        async def read(place: Cursor, most: int) -> EventPage:
            return await self._next_page(place, selection, most)

        confirm_seconds = math.inf if self.session is None else CHECK_SECONDS
        reader = Reader(selection, self._view(query), read, self.confirm, confirm_seconds, self._stop_signal())
        options = StreamOptions(limit, is_following, query.wait)
        self._streaming = asyncio.current_task()
        with self._waiting() if is_following or query.wait else self._slot_of_stream():
            page = await self._stream_start(query, selection, min(PART_EVENTS, limit))
            self.set_header("Content-Type", form.content_type)
            self.set_header(ACCEL_BUFFERING.name, "no")
            stream = EventStream(self.feed, form, reader, options, page)
            await self.stream(stream.parts(), is_done=True)  # it takes slots and confirms the session itself

    async def _first_page(self, query: EventQuery, selection: EventSelection) -> EventPage:
        """Find the place at which the reader begins, and read a page."""
        async with self.list_slot(self.feed.pages):
            return await self._begin(query, selection, query.page, PAGE_BYTES)

    async def _stream_start(self, query: EventQuery, selection: EventSelection, limit: int) -> EventPage:
        """Find the place at which a stream begins, and read its first part.

        It waits for its turn without limit, as for later parts: there are at most as many waiters as streams. A browser
        would never reconnect after a 503.
        """
        async with self.feed.pages.slot(self.queue_name), self.slot(patient=True):
            return await self._begin(query, selection, limit, PART_BYTES)

    async def _begin(self, query: EventQuery, selection: EventSelection, limit: int, most_bytes: int) -> EventPage:
        place = await self._start(query, selection)
        page = await self.feed.read(place, selection, limit, self.queue_name, most_bytes)
        await self.confirm()  # last, as a page may wait for its turn and for the store
        return page

    async def _start(self, query: EventQuery, selection: EventSelection) -> Cursor:
        """Return the place at which the reader begins."""
        try:
            return await self.feed.start(query.cursor, selection.owner, is_now=query.begin == "now")
        except ForgedCursor as error:
            is_header = bool(self.request.headers.get("Last-Event-ID"))
            raise _invalid_last_event() if is_header else _invalid_cursor() from error

    async def _read(self, place: Cursor, selection: EventSelection, limit: int) -> EventPage:
        """Read from the store for a reader that was waiting. It holds a slot only while it reads."""
        async with self.feed.pages.slot(self.queue_name), self.slot(patient=True):
            page = await self.feed.read(place, selection, limit, self.queue_name, PART_BYTES)
        await self.confirm()  # last, as it may wait for its turn and for the store
        return page

    def _view(self, query: EventQuery) -> EventView:
        return EventView(has_owner=self.caller.is_admin, has_record=query.view is None)

    def _slot_of_stream(self) -> AbstractContextManager[None]:
        """Return a block that counts as a stream; TooManyStreams if there are too many."""
        return self.feed.streams.slot(self.queue_name)

    def _stop_signal(self) -> asyncio.Future[None]:
        """Return a future that is done once the connection must close, so that the request stops waiting for events."""
        stop = asyncio.get_running_loop().create_future()

        def end() -> bool:
            stop.set_result(None)
            return True  # the client continues at its last cursor

        call_on_leave(self.request.connection, end)
        return stop

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Count as a stream within the block, and update the feed; raise TooManyStreams if there are too many."""
        with self._slot_of_stream(), self.feed.watched():
            hang_up_at_eof(self.request.connection)
            yield


def _last_event(text: str) -> SealedCursor:
    cursor = cursors.decode(text)
    if cursor is None:
        raise _invalid_last_event()
    return cursor


def _invalid_last_event() -> InvalidRequest:
    return InvalidRequest(InvalidField("", CURSOR_FAULT, header="Last-Event-ID"))


def _invalid_cursor() -> InvalidRequest:
    return InvalidRequest(InvalidField("", CURSOR_FAULT, parameter="cursor"))
