"""A stream of events: the events in the log, then new ones, with a bookmark every 15 seconds and at the end.

Nothing is buffered for a stream: it is a position in the log, and continues once its client has read the last part.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from guidsvc.api.resources.events.forms import StreamForm
from guidsvc.domain.events.cursor import Cursor
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsGone
from guidsvc.services.events.feed import PART_EVENTS, EventFeed, EventPage
from guidsvc.services.events.rendering import EventView

FOLLOW_SECONDS, FOLLOW_SPREAD = 3600.0, 0.1
"""Duration of a stream, and its random deviation as a fraction, so that streams do not all end at the same time."""
BOOKMARK_SECONDS = 15.0
CHECK_SECONDS = 0.5
"""Interval of the check that the caller may still read. A session notices a revoked key up to 4 seconds later."""


@dataclass(frozen=True)
class StreamOptions:
    """The options of a stream."""

    limit: int
    """The number of events after which it ends."""
    is_following: bool
    """Whether it continues after the newest event."""
    wait_seconds: float
    """Seconds that a stream without `follow` waits for its first event."""


@dataclass(frozen=True)
class Reader:
    """The client of a stream: its selection, and functions to read more and to confirm its right to read."""

    selection: EventSelection
    view: EventView
    read: Callable[[Cursor, int], Awaitable[EventPage]]
    """Returns the events after a place, up to a maximum number."""
    confirm: Callable[[], Awaitable[None]]
    """Raises Unauthorized if the caller may no longer read."""
    confirm_seconds: float
    """Interval of these calls while the stream waits."""
    stop: asyncio.Future[None]
    """Done once the stream must end, because its connection must close."""


class EventStream:
    """A stream of events for one reader, from a page on."""

    def __init__(
        self, feed: EventFeed, form: StreamForm, reader: Reader, options: StreamOptions, page: EventPage
    ) -> None:
        self._feed = feed
        self._form = form
        self._reader = reader
        self._options = options
        self._page = page
        self._left = options.limit
        now = asyncio.get_running_loop().time()
        self._ends_at = now + FOLLOW_SECONDS * random.uniform(1 - FOLLOW_SPREAD, 1 + FOLLOW_SPREAD)  # noqa: S311  # nosec B311  # no secret
        self._waits_until = self._ends_at if options.is_following else now + options.wait_seconds
        self._bookmark_at = now + BOOKMARK_SECONDS

    async def parts(self) -> AsyncGenerator[bytes]:
        """Yield the parts of the stream. The first one comes at once, even if empty, because it carries the head."""
        place = None if self._page.events else await self._place()
        yield self._form.opening(place) + self._render()
        try:
            while self._goes_on():
                if self._is_bookmark_due():
                    yield await self._bookmark()
                await self._pause()
                await self._reader.confirm()
                self._page = await self._reader.read(self._page.next, min(PART_EVENTS, self._left))
                if self._page.events:
                    yield self._render()
        except EventsGone as error:
            yield self._form.gone(error)
        else:
            yield await self._bookmark()

    def _goes_on(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._feed.is_closed or self._reader.stop.done() or not self._left or now >= self._ends_at:
            return False
        return self._page.has_more or now < self._waits_until

    def _is_bookmark_due(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._bookmark_at:
            return False
        self._bookmark_at = now + BOOKMARK_SECONDS
        return True

    async def _pause(self) -> None:
        """Wait for an event. If more events are there already, only let other requests run."""
        if self._page.has_more:
            await asyncio.sleep(0)
            return
        until = min(self._bookmark_at, self._waits_until)
        seconds = max(0.0, until - asyncio.get_running_loop().time())
        seconds = min(self._reader.confirm_seconds, seconds)
        await self._feed.wait(self._page.next, self._reader.selection, seconds, self._reader.stop)

    def _render(self) -> bytes:
        events = self._page.events
        self._left -= len(events)
        if events and not self._options.is_following:
            self._waits_until = 0.0
        part = b"".join([self._form.event(event, self._reader.view) for event in events])
        self._page = self._page._replace(events=())  # a slow client must keep only the rendered part in memory
        return part

    async def _bookmark(self) -> bytes:
        return self._form.bookmark(await self._place(), self._feed.clock())

    async def _place(self) -> Cursor:
        """Return the place at which the client may continue."""
        return await self._feed.place_after(self._page, self._reader.selection)
