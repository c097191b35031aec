"""The tail of the event log in memory: its bounds, and the wake-up of readers."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from pydantic_core import from_json

from guidsvc.domain.events.cursor import draw_key
from guidsvc.domain.events.entry import Entry, Origin
from guidsvc.domain.events.schedule import DEFAULT_POLICY
from guidsvc.domain.events.selection import EventSelection
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import system_clock
from guidsvc.services.events import tail as tails
from guidsvc.services.events.feed import PART_BYTES, EventFeed
from guidsvc.services.events.rendering import FRAME_BYTES, EventView, FeedEvent
from guidsvc.services.events.tail import EventTail
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.event_log import Numbered
from guidsvc.store.sqlite.events.log import SqliteEventLog
from tests.conftest import FakeClock
from tests.support.factories import record

HOUR = 3600
TEXTS = [f'"{text}"' for text in ("x" * 16_000, "x" * 15_990 + "\U0001f600", "\U0001f600" * 4000)]


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    async with open_store(sqlite_url, exclusive=True) as store:
        yield store


@pytest.fixture
async def tail(database: Database) -> AsyncIterator[EventTail]:
    """A tail that is updated in the background."""
    tail = EventTail(database.events)
    async with running_in_background(tail.run):
        yield tail


class Writer:
    """Creates records one after the other."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self._database = database
        self._clock = clock
        self._count = 0

    async def write(self, count: int = 1, *, owner: str = "", metadata: str | None = None) -> None:
        """Create `count` records of an owner."""
        for _ in range(count):
            self._count += 1
            made = record(self._clock(), guid=f"{self._count:032X}", owner=owner, metadata=metadata)
            assert await self._database.records.swap(None, made, origin=Origin("", ""))


@pytest.fixture
def writer(database: Database, clock: FakeClock) -> Writer:
    return Writer(database, clock)


async def until_at(tail: EventTail, number: int) -> None:
    """Wait until the tail has read the entry with this number."""
    async with asyncio.timeout(10):
        while (found := tail.after(number)) is None or len(found) > 0 or (tail._end or 0) < number:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def waiting(tail: EventTail, after: int, owner: str | None = None) -> AsyncIterator["asyncio.Task[None]"]:
    """Wait for an event inside the block."""
    task = asyncio.create_task(tail.wait(after, owner, 30))
    await asyncio.sleep(0)
    yield task
    task.cancel()
    await asyncio.wait((task,))


async def test_tail_is_empty_until_a_reader_waits(tail: EventTail, writer: Writer) -> None:
    await writer.write(3)
    await asyncio.sleep(0.1)
    assert tail.after(0) is None
    with tail.watched():
        await until_at(tail, 3)
        assert tail.after(2) is None, "earlier events must be read from the store"
        await writer.write(2)
        await until_at(tail, 5)
        assert [event.number for event in tail.after(3) or ()] == [4, 5]
        assert [event.number for event in tail.after(4) or ()] == [5]


async def test_tail_is_dropped_after_the_last_reader(
    tail: EventTail, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "LINGER_SECONDS", 0.05)
    for number in range(2):
        with tail.watched():
            await until_at(tail, number)
            await writer.write()
        async with asyncio.timeout(10):
            while tail.after(0) is not None or tail._events:
                await asyncio.sleep(0.01)


async def test_tail_is_bounded_in_events_and_bytes(
    tail: EventTail, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (tails.TAIL_EVENTS, tails.TAIL_BYTES) == (4096, 4 * 2**20)
    monkeypatch.setattr(tails, "TAIL_EVENTS", 8)
    monkeypatch.setattr(tails, "TAIL_BYTES", 100_000)
    with tail.watched():
        await until_at(tail, 0)
        for start in range(0, 20, 5):
            await writer.write(5)
            await until_at(tail, start + 5)
        assert [event.number for event in tail._events] == list(range(13, 21))
        assert tail.after(11) is None
        assert len(tail.after(12) or ()) == 8
        await writer.write(5, metadata=f'{{"a":"{"x" * 16_000}"}}')
        await until_at(tail, 25)
        assert [event.number for event in tail._events] == [24, 25]
        assert tail._bytes == sum(event.memory_bytes for event in tail._events) <= 100_000


async def test_tail_restarts_at_the_newest_after_a_large_gap(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "TAIL_EVENTS", 4)
    tail = EventTail(database.events)
    await tail._advance()
    await writer.write(5)
    async with waiting(tail, 0) as waiter:
        await tail._advance()
        await asyncio.wait_for(waiter, 10)
    assert tail.after(0) is None
    assert tail.after(5) == ()


async def test_entry_that_cannot_be_read_yet_is_read_later(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = EventTail(database.events)
    await tail._advance()
    with monkeypatch.context() as patched:
        patched.setattr(SqliteEventLog, "newest", _one)
        await asyncio.wait_for(tail._advance(), 10)
        assert tail.after(0) == ()
    await writer.write()
    await tail._advance()
    assert [event.number for event in tail.after(0) or ()] == [1]


async def _one(_: SqliteEventLog) -> int:
    return 1


async def test_reader_is_woken_for_its_owner_only(database: Database, writer: Writer) -> None:
    tail = EventTail(database.events)
    await tail._advance()
    async with waiting(tail, 0, "alice") as alice, waiting(tail, 0, "bob") as bob, waiting(tail, 0) as admin:
        await writer.write(owner="alice")
        await tail._advance()
        await asyncio.wait_for(asyncio.gather(alice, admin), 10)
        assert not bob.done()
    assert tail._waiters == {}, "readers that leave must be forgotten"


async def test_reader_is_woken_before_it_falls_out(
    database: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is woken although none of the events is of its owner."""
    monkeypatch.setattr(tails, "TAIL_EVENTS", 8)
    tail = EventTail(database.events)
    await tail._advance()
    async with waiting(tail, 0, "bob") as bob:
        for _ in range(4):
            await asyncio.sleep(0)
            assert not bob.done()
            await writer.write(2, owner="alice")
            await tail._advance()
        await writer.write(owner="alice")
        await tail._advance()
        await asyncio.wait_for(bob, 10)
    assert tail.after(1) is not None


async def test_waiters_are_woken_in_groups(database: Database, writer: Writer) -> None:
    """So requests are served in between."""
    tail = EventTail(database.events)
    await tail._advance()
    waiters = [asyncio.create_task(tail.wait(0, None, 30)) for _ in range(100)]
    await asyncio.sleep(0)
    await writer.write()
    await tail._advance()
    woken = []
    while not all(waiter.done() for waiter in waiters):
        woken.append(sum(waiter.done() for waiter in waiters))
        await asyncio.sleep(0)
    steps = [later - earlier for earlier, later in pairwise(woken)]
    assert max(steps) <= tails.WOKEN_AT_ONCE


async def test_close_wakes_all_readers_permanently(tail: EventTail) -> None:
    with tail.watched():
        async with waiting(tail, 100) as waiter:
            tail.close()
            await asyncio.wait_for(waiter, 10)
            await asyncio.wait_for(tail.wait(100, None, 30), 10)
            assert tail.is_closed


async def test_wait_ends_at_its_time_limit(tail: EventTail) -> None:
    with tail.watched():
        await asyncio.wait_for(tail.wait(0, None, 0.02), 10)
    assert tail._waiters == {}


async def test_invalidated_cursor_is_not_served_from_memory(database: Database, writer: Writer) -> None:
    """The events of the tail have cursors of another epoch."""
    feed = EventFeed(database.events, policy=DEFAULT_POLICY, clock=system_clock, max_streams=1)
    await feed._tail._advance()
    await writer.write()
    await feed._tail._advance()
    here = await feed.start(None, is_now=False)
    voided = here._replace(key=replace(here.key, epoch=here.key.epoch ^ 1))
    assert feed.at_hand(here, EventSelection(), 10) is not None
    assert feed.at_hand(voided, EventSelection(), 10) is None


@pytest.mark.parametrize("text", TEXTS, ids=["ascii", "one wide", "wide"])
def test_memory_estimate_of_events_is_accurate(text: str) -> None:
    """One wide character makes a text take four bytes per character, and more for its UTF-8 form."""
    key, view = draw_key(), EventView(has_owner=True, has_record=True)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        entries = [
            Entry("updated", f"{number:032X}", number, number, "o", f"u{number}", HOUR, from_json(text), "user")
            for number in range(1000, 1100)
        ]
        events = [FeedEvent(key, Numbered(entry.at, entry, entry.at)) for entry in entries]
        rendered_bytes = sum(len(event.json(view)) for event in events)
        real = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = sum(event.memory_bytes for event in events)
    assert real < counted < 1.6 * real
    assert rendered_bytes < sum(event.text_bytes for event in events) < rendered_bytes + 100 * FRAME_BYTES


@pytest.mark.parametrize("text", TEXTS, ids=["ascii", "one wide", "wide"])
async def test_parts_are_bounded_in_bytes(database: Database, writer: Writer, text: str) -> None:
    """This holds for pages from the tail and from the store."""
    feed = EventFeed(database.events, policy=DEFAULT_POLICY, clock=system_clock, max_streams=1)
    await feed._tail._advance()
    here = await feed.start(None, is_now=False)
    await writer.write(12, metadata=f'{{"a":{text}}}')
    await feed._tail._advance()

    at_hand = feed.at_hand(here, EventSelection(), 64)
    assert at_hand is not None
    for page in (at_hand, await feed.read(here, EventSelection(), 64, "a", PART_BYTES)):
        assert page.has_more
        size = sum(len(event.json(EventView(has_owner=True, has_record=True))) for event in page.events)
        assert PART_BYTES - 17_000 < size < PART_BYTES + 17_000
