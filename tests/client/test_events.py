"""The event feed through the client: it resumes at its cursor, and reports missed events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from guidsvc_client import EventsGone, Forbidden, Record, Unreachable
from tests.support.backing_servers import free_port
from tests.support.client_in_thread import client_of
from tests.support.event_feed import EventFeed
from tests.support.scripted_server import RESET, Request, ScriptedServer, problem, scripted_server

A, B = "9094E4C980C74043A4B586B420E69DDF", "B07A5C3E9D2F4A61908B7C6D5E4F3A21"
SECONDS = 60


class FeedSetup(NamedTuple):
    """A feed, its server, and a client."""

    feed: EventFeed
    server: ScriptedServer
    guids: Any


@pytest.fixture
async def feed_setup(kind: str) -> AsyncIterator[FeedSetup]:
    feed = EventFeed()
    async with scripted_server(feed.answer) as server, client_of(kind, server.url, retries=0) as guids:
        yield FeedSetup(feed, server, guids)


async def collect(feed: Any, count: int = 1000) -> list[Any]:
    """Return up to `count` events of a feed."""
    events = []
    async with asyncio.timeout(SECONDS):
        async for event in feed:
            events.append(event)
            if len(events) == count:
                break
    return events


async def test_events_come_in_order_with_their_members(feed_setup: FeedSetup) -> None:
    for number in range(10):
        feed_setup.feed.add("guid.created" if number else "guid.expiring", A, left="60")
    events = await collect(feed_setup.guids.events(follow=False))

    assert [event.version for event in events] == [1_795_000_000_000 + number for number in range(10)]
    assert [event.cursor for event in events] == [feed_setup.feed.cursor(number) for number in range(1, 11)]
    first = events[0]
    assert (first.type, first.guid, first.id, first.at) == ("guid.expiring", A, f"{A}-{first.version}", first.version)
    assert first.record == Record(guid=A, user="a", expire=1_795_601_600, version=first.version)
    assert first.details == {"left": "60"}


async def test_feed_resumes_after_each_event(feed_setup: FeedSetup) -> None:
    for _ in range(6):
        feed_setup.feed.add("guid.created", A)
    feed = feed_setup.guids.events(follow=False)
    first = await collect(feed, 2)
    assert feed.cursor == first[-1].cursor
    rest = await collect(feed)
    resumed = await collect(feed_setup.guids.events(cursor=first[-1].cursor, follow=False))

    assert [event.version for event in first + rest] == [1_795_000_000_000 + number for number in range(6)]
    assert resumed == rest
    assert await collect(feed) == []


async def test_cursor_advances_past_events_that_do_not_match(feed_setup: FeedSetup) -> None:
    for _ in range(9):
        feed_setup.feed.add("guid.renewed", A)
    feed = feed_setup.guids.events(types=["guid.expired", "guid.deleted"], guid=B.lower(), follow=False)

    assert await collect(feed) == []
    assert feed.cursor == feed_setup.feed.cursor(9)
    assert feed_setup.feed.pages == [0, 0, 0], "an empty page may be followed by more events"
    feed_setup.feed.add("guid.deleted", B)
    assert [event.type for event in await collect(feed)] == ["guid.deleted"]


async def test_feed_waits_for_new_events(feed_setup: FeedSetup) -> None:
    feed_setup.feed.add("guid.created", A)
    following = asyncio.create_task(collect(feed_setup.guids.events(start="now"), 2))
    while not feed_setup.server.requests:
        await asyncio.sleep(0.01)
    feed_setup.feed.add("guid.updated", A)
    feed_setup.feed.add("guid.deleted", A, record=None)

    updated, deleted = await following
    assert (updated.type, deleted.type, deleted.record) == ("guid.updated", "guid.deleted", None)
    assert "wait=30" in feed_setup.server.requests[0].target
    assert "from=now" in feed_setup.server.requests[0].target


async def test_following_feed_outlasts_an_outage(feed_setup: FeedSetup) -> None:
    """Each event comes once, whatever happens to the requests in between."""
    working, failures = feed_setup.feed.answer, [RESET, problem("unavailable", 503, Retry_After="0"), RESET]

    async def answer(request: Request) -> bytes:
        return failures.pop() if failures and len(feed_setup.server.requests) > 1 else await working(request)

    feed_setup.server.answer = answer
    for _ in range(6):
        feed_setup.feed.add("guid.created", A)
    events = await collect(feed_setup.guids.events(), 6)
    assert [event.version for event in events] == [1_795_000_000_000 + number for number in range(6)]
    assert not failures


async def test_feed_that_does_not_follow_raises_the_failure(kind: str) -> None:
    async with client_of(kind, f"http://127.0.0.1:{free_port()}", retries=0) as guids:
        with pytest.raises(Unreachable):
            await collect(guids.events(follow=False))


async def test_following_feed_raises_permanent_failures(kind: str) -> None:
    async with scripted_server(lambda _: problem("forbidden", 403)) as server, client_of(kind, server.url) as guids:
        with pytest.raises(Forbidden):
            await collect(guids.events())


@pytest.mark.parametrize("reason", ["trimmed", "rewound", "another-store"])
async def test_missed_events_raise_an_error_with_cursors(feed_setup: FeedSetup, reason: str) -> None:
    for _ in range(5):
        feed_setup.feed.add("guid.created", A)
    cursor = feed_setup.feed.cursor(2)
    if reason == "trimmed":
        feed_setup.feed.trimmed = 3
    elif reason == "rewound":
        cursor = feed_setup.feed.cursor(5)
        del feed_setup.feed.events[4:]
    else:
        feed_setup.feed.epoch = 8

    with pytest.raises(EventsGone) as gone:
        await collect(feed_setup.guids.events(cursor=cursor))
    assert gone.value.reason == reason
    assert gone.value.oldest == feed_setup.feed.cursor(feed_setup.feed.trimmed)
    assert gone.value.now == feed_setup.feed.cursor(len(feed_setup.feed.events))
    rest = await collect(feed_setup.guids.events(cursor=gone.value.oldest, follow=False))
    assert len(rest) == len(feed_setup.feed.events) - feed_setup.feed.trimmed


async def test_feed_of_the_service_resumes_and_ends(guids: Any) -> None:
    """The other tests use a feed whose faults they control. This one uses the real service."""
    start = guids.events(start="now", follow=False)
    assert await collect(start) == []
    made = await guids.create(user="first")
    await guids.patch(made.guid, {"user": "second"})
    await guids.delete(made.guid)

    feed = guids.events(cursor=start.cursor, guid=made.guid, follow=False)
    events = await collect(feed)
    assert [event.type for event in events] == ["guid.created", "guid.updated", "guid.deleted"]
    assert [event.record.user for event in events] == ["first", "second", "second"]
    rest = guids.events(cursor=events[0].cursor, guid=made.guid, follow=False)
    assert [event.id for event in await collect(rest)] == [event.id for event in events[1:]]
    assert await collect(guids.events(cursor=feed.cursor, guid=made.guid, follow=False)) == []
