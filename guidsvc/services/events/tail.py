"""The tail of the event log in memory: the newest events, shared by all readers that have caught up.

A reader is a place in the log, not a queue: nothing is buffered for it. While anybody waits, one task asks the store
for its newest entry, many times a second, and reads what is new into the tail. A reader that falls out of the tail
reads pages from the store.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from guidsvc.domain.events.cursor import CursorKey
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsTrimmed, Unavailable
from guidsvc.services.events.rendering import FeedEvent
from guidsvc.store.event_log import EventLog

TAIL_EVENTS, TAIL_BYTES = 4096, 4 * 1024 * 1024
"""Maximum size of the tail. Beyond it, the oldest events are dropped."""
READ_EVENTS = 512
"""Maximum number of entries in one read of new entries."""
LINGER_SECONDS = 1.0
"""Time for which the tail is updated after the last reader has left, because another one often follows at once."""
RETRY_SECONDS = 1.0
"""Delay after a failed read, in seconds."""
WOKEN_AT_ONCE = 16
"""Maximum number of readers that are woken in one iteration of the event loop, so that requests run in between."""
_ALL = EventSelection()


class _Waiter:
    """A reader that waits for an event after a place."""

    __slots__ = ("after", "future", "owner")

    def __init__(self, after: int, owner: str | None, future: asyncio.Future[None]) -> None:
        self.after = after
        self.owner = owner
        self.future = future

    def wants(self, end: int, owners: set[str], horizon: int) -> bool:
        """Whether the reader must look at events up to `end`, which belong to these owners.

        It also looks if its place is before the `horizon`: else it would fall out of the tail.
        """
        return end > self.after and (self.owner is None or self.owner in owners or self.after < horizon)


class EventTail:
    """The newest events of a log. `run` keeps them current while anybody is inside `watched`."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._events: list[FeedEvent] = []
        self._bytes = 0
        self.key = CursorKey(0, b"")
        """With which the cursors of its events are made, once the bounds of the log are known."""
        self._end: int | None = None  # the number of the last event that was read; None while it is not kept current
        self._waiters: dict[_Waiter, None] = {}
        self._readers = 0
        self._has_readers = asyncio.Event()
        self.is_closed = False
        """Whether no reader may wait any longer."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep the tail current inside the block."""
        self._readers += 1
        self._has_readers.set()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._has_readers.clear()

    def after(self, number: int) -> Sequence[FeedEvent] | None:
        """Return the events after an entry; None if the tail does not reach back to it, and the store must be read."""
        end = self._end
        if end is None:
            return None
        if number >= end:
            return ()
        first = end - len(self._events)  # numbers have no gaps
        return None if number < first else self._events[number - first :]

    async def wait(
        self, after: int, owner: str | None, seconds: float, stop: asyncio.Future[None] | None = None
    ) -> None:
        """Wait until there may be an event of this owner after an entry, up to `seconds`, or until `stop`.

        `stop` is not cancelled.
        """
        if self.is_closed or (self._end is not None and self._end > after):
            return
        waiter = _Waiter(after, owner, asyncio.get_running_loop().create_future())
        self._waiters[waiter] = None
        try:
            futures = (waiter.future,) if stop is None else (waiter.future, stop)
            await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.pop(waiter, None)

    def close(self) -> None:
        """Wake all readers permanently, because the service is shutting down."""
        self.is_closed = True
        self._wake(list(self._waiters))

    async def run(self) -> None:
        """Update the tail while a reader watches it, until cancelled."""
        while True:
            await self._has_readers.wait()
            try:
                await self._follow()
            finally:
                self._forget()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + LINGER_SECONDS
        while self._readers or loop.time() < until:
            if self._readers:
                until = loop.time() + LINGER_SECONDS
            try:
                await self._advance()
            except Unavailable:  # the health of the store says so; readers of its pages get the error
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(self._log.poll_seconds)

    async def _advance(self) -> None:
        """Read the new entries. If they are more than the tail holds, begin at the newest entry."""
        if self._end is None:
            bounds = await self._log.bounds()
            self.key = bounds.key
            self._begin_at(bounds.newest)
            return
        newest = await self._log.newest()
        if not 0 <= newest - self._end <= TAIL_EVENTS:
            self._begin_at(newest)
        while self._end < newest:
            try:
                page = await self._log.read(self._end, READ_EVENTS, _ALL)
            except EventsTrimmed:
                self._begin_at(newest)
                return
            if not page.entries:  # not readable yet
                return
            self._append([FeedEvent(self.key, numbered) for numbered in page.entries])

    def _append(self, events: Sequence[FeedEvent]) -> None:
        """Add events, at least one, and drop the oldest ones beyond the maximum size."""
        self._events += events
        self._bytes += sum(event.memory_bytes for event in events)
        surplus = max(0, len(self._events) - TAIL_EVENTS)
        self._bytes -= sum(event.memory_bytes for event in self._events[:surplus])
        while self._bytes > TAIL_BYTES:
            self._bytes -= self._events[surplus].memory_bytes
            surplus += 1
        del self._events[:surplus]
        end = self._end = events[-1].number
        horizon = end - len(self._events) // 2 if surplus else 0
        owners = {event.owner for event in events}
        self._wake([waiter for waiter in self._waiters if waiter.wants(end, owners, horizon)])

    def _begin_at(self, newest: int) -> None:
        self._forget()
        self._end = newest
        self._wake([waiter for waiter in self._waiters if waiter.after < newest])

    def _forget(self) -> None:
        self._events.clear()
        self._bytes = 0
        self._end = None

    def _wake(self, waiters: Sequence[_Waiter]) -> None:
        for waiter in waiters[:WOKEN_AT_ONCE]:
            self._waiters.pop(waiter, None)
            if not waiter.future.done():
                waiter.future.set_result(None)
        if len(waiters) > WOKEN_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._wake, waiters[WOKEN_AT_ONCE:])
