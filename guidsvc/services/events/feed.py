"""The feed of events: the start of a reader, its next events, and waiting for them.

A reader is a position in the log. Its events come from the tail in memory if it has caught up, else from the store.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import NamedTuple

from guidsvc.domain.caller import Caller
from guidsvc.domain.events.cursor import Cursor, SealedCursor
from guidsvc.domain.events.query import EventQuery
from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsGone, EventsTrimmed, ForgedCursor
from guidsvc.errors.events import GoneReason
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.services.events.rendering import FeedEvent
from guidsvc.services.events.stream_slots import StreamSlots
from guidsvc.services.events.tail import EventTail
from guidsvc.store.event_log import PAGE_BYTES as LOG_PAGE_BYTES
from guidsvc.store.event_log import EventLog, LogBounds

PAGES = 16
"""Maximum number of pages that are read from the store concurrently, to bound memory; further readers wait."""
PAGE_BYTES = LOG_PAGE_BYTES
"""Approximate maximum size of a page."""
PART_BYTES, PART_EVENTS = 64 * 1024, 64
"""Approximate maximum size of a part of a stream, and maximum number of its events."""


class EventPage(NamedTuple):
    """Events in the order of the log, and the place after them."""

    events: Sequence[FeedEvent]
    next: Cursor
    has_more: bool
    """Whether an event of the selection follows, or may follow: not all entries after `next` were looked at.

    It never depends on entries of owners that the selection leaves out.
    """


def selection_of(query: EventQuery, caller: Caller) -> EventSelection:
    """Return the events that a query selects. Admins may select those of any owner or all; others only their own."""
    return EventSelection(
        owner=query.owner if caller.is_admin else caller.owner,
        kinds=query.type,
        guid_prefix=query.guid or query.guid_prefix or "",
        user=query.user,
    )


class EventFeed:
    """The feed of the events of a log, for all readers of a process."""

    def __init__(self, log: EventLog, *, policy: EventPolicy, clock: Clock, max_streams: int) -> None:
        self._log = log
        self.policy = policy
        """The policy of the log."""
        self.clock = clock
        self._tail = EventTail(log)
        self.pages = FairSemaphore(PAGES)
        """Slots for readers of the store: each must hold one."""
        self.streams = StreamSlots(max_streams)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["EventFeed"]:
        """Within the block, update the tail while a reader waits."""
        async with running_in_background(self._tail.run):
            yield self

    def watched(self) -> AbstractContextManager[None]:
        """Return a block in which a reader may `wait`."""
        return self._tail.watched()

    def close(self) -> None:
        """End all waits, because the service is shutting down."""
        self._tail.close()

    @property
    def is_closed(self) -> bool:
        """Whether all waits have been ended."""
        return self._tail.is_closed

    async def start(self, cursor: SealedCursor | None, owner: str | None = None, *, is_now: bool) -> Cursor:
        """Return the place of a cursor for a reader of an owner, or of all; without one, the newest or the oldest.

        EventsGone if it is not in the log, or the cursor is of another one; ForgedCursor if no log made it.
        """
        bounds = await self._log.bounds(owner)
        if cursor is None:
            return _now(bounds) if is_now else _oldest(bounds)
        if cursor.epoch != bounds.key.epoch:
            raise await self._gone("another-store", bounds, owner)
        place = cursor.unseal(bounds.key)
        if place is None:
            raise ForgedCursor
        reason = await self._fault_of(place, bounds)
        if reason is not None:
            raise await self._gone(reason, bounds, owner)
        return place

    async def read(
        self, place: Cursor, selection: EventSelection, limit: int, queue_name: str, most_bytes: int = PAGE_BYTES
    ) -> EventPage:
        """Read the events after a place from the store. The caller holds one of the `pages`."""
        try:
            page = await self._log.read(place.number, limit + 1, selection, queue_name=queue_name)
        except EventsTrimmed as error:
            owner = selection.owner
            raise await self._gone("trimmed", await self._log.bounds(owner), owner) from error
        entries = page.entries[:limit]  # one more was read, to find out whether one follows
        events = _fitting([FeedEvent(place.key, numbered) for numbered in entries], most_bytes)
        if len(events) < len(page.entries):
            return EventPage(events, events[-1].place, has_more=True)
        if page.looked_to <= place.number:
            return EventPage((), place, has_more=False)
        end = Cursor(place.key, page.looked_to, page.looked_to_checksum)
        return EventPage(events, end, has_more=page.looked_to < page.newest)

    def at_hand(self, place: Cursor, selection: EventSelection, limit: int) -> EventPage | None:
        """Return the events after a place if they are in memory; None if they must be read from the store."""
        found = self._tail.after(place.number) if place.key == self._tail.key else None
        if found is None:  # or cursors were invalidated since the tail began
            return None
        if not found:
            return EventPage((), place, has_more=False)
        events, has_more = _select(found, selection, limit)
        return EventPage(events, (events if has_more else found)[-1].place, has_more)

    async def place_after(self, page: EventPage, selection: EventSelection) -> Cursor:
        """Return the place to give to a client after a page.

        If more follows, that is where the page ends. Before damage, this may be after an event of another owner: from
        a lasting place, the client would come to the same end again and again.
        """
        return page.next if page.has_more else await self._lasting(page.next, selection.owner)

    async def _lasting(self, place: Cursor, owner: str | None) -> Cursor:
        """Return the place after the newest event of an owner up to a place, if the owner has a recent one.

        Events of other owners may be removed sooner, and then a cursor behind one of them cannot be checked.
        """
        if not owner:
            return place
        found = await self._log.newest_of(owner, place.number)
        return place if found is None else Cursor(place.key, *found)

    async def wait(self, place: Cursor, selection: EventSelection, seconds: float, stop: asyncio.Future[None]) -> None:
        """Wait up to `seconds` until there may be an event after a place.

        The wait ends early with `stop`, and when the feed is closed.
        """
        await self._tail.wait(place.number, selection.owner, seconds, stop)

    async def _gone(self, reason: GoneReason, bounds: LogBounds, owner: str | None) -> EventsGone:
        """Return the error for a reader of an owner, or of all."""
        now = await self._lasting(_now(bounds), owner)
        if now.number < bounds.floor:  # damage follows that event
            now = _now(bounds)
        return EventsGone(reason, oldest=_oldest(bounds).encode(), now=now.encode())

    async def _fault_of(self, place: Cursor, bounds: LogBounds) -> GoneReason | None:
        if place.number > bounds.newest:
            return "rewound"
        known = {bounds.floor: bounds.floor_checksum, bounds.newest: bounds.newest_checksum}
        checksum = known.get(place.number)
        if checksum is None:
            checksum = await self._log.checksum(place.number)
        if checksum is None:  # it was trimmed
            return "trimmed"
        return None if checksum == place.checksum else "rewound"


def _oldest(bounds: LogBounds) -> Cursor:
    return Cursor(bounds.key, bounds.floor, bounds.floor_checksum)


def _now(bounds: LogBounds) -> Cursor:
    return Cursor(bounds.key, bounds.newest, bounds.newest_checksum)


def _select(events: Sequence[FeedEvent], selection: EventSelection, limit: int) -> tuple[Sequence[FeedEvent], bool]:
    """Return the first events that match, up to a limit and to PART_BYTES, and whether another one follows."""
    selected: list[FeedEvent] = []
    size, owner = 0, selection.owner
    for event in events:
        if (owner is None or event.owner == owner) and selection.matches(event.entry):
            if len(selected) == limit or size >= PART_BYTES:
                return selected, True
            selected.append(event)
            size += event.text_bytes
    return selected, False


def _fitting(events: Sequence[FeedEvent], most_bytes: int) -> Sequence[FeedEvent]:
    """Return the longest prefix of at most `most_bytes`, or the first event if it is larger."""
    size = 0
    for count, event in enumerate(events):
        size += event.text_bytes
        if count and size > most_bytes:
            return events[:count]
    return events
