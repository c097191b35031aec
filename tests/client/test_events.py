"""The feed of events through the client: it resumes by its cursor, and tells when events are gone."""

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


class Followed(NamedTuple):
    """A feed, its server, and a client of it."""

    feed: EventFeed
    server: ScriptedServer
    guids: Any


@pytest.fixture
async def followed(kind: str) -> AsyncIterator[Followed]:
    feed = EventFeed()
    async with scripted_server(feed.answer) as server, client_of(kind, server.url, retries=0) as guids:
        yield Followed(feed, server, guids)


async def collected(feed: Any, count: int = 1000) -> list[Any]:
    """Return the events of a feed, up to a number of them."""
    events = []
    async with asyncio.timeout(SECONDS):
        async for event in feed:
            events.append(event)
            if len(events) == count:
                break
    return events


async def test_events_come_in_order_with_their_members(followed: Followed) -> None:
    for number in range(10):
        followed.feed.add("guid.created" if number else "guid.expiring", A, left="60")
    events = await collected(followed.guids.events(follow=False))

    assert [event.version for event in events] == [1_795_000_000_000 + number for number in range(10)]
    assert [event.cursor for event in events] == [followed.feed.cursor(number) for number in range(1, 11)]
    first = events[0]
    assert (first.type, first.guid, first.id, first.at) == ("guid.expiring", A, f"{A}-{first.version}", first.version)
    assert first.record == Record(guid=A, user="a", expire=1_795_601_600, version=first.version)
    assert first.details == {"left": "60"}


async def test_feed_resumes_after_each_event(followed: Followed) -> None:
    for _ in range(6):
        followed.feed.add("guid.created", A)
    feed = followed.guids.events(follow=False)
    first = await collected(feed, 2)
    assert feed.cursor == first[-1].cursor
    rest = await collected(feed)
    resumed = await collected(followed.guids.events(cursor=first[-1].cursor, follow=False))

    assert [event.version for event in first + rest] == [1_795_000_000_000 + number for number in range(6)]
    assert resumed == rest
    assert await collected(feed) == []


async def test_cursor_moves_past_events_that_are_left_out(followed: Followed) -> None:
    for _ in range(9):
        followed.feed.add("guid.renewed", A)
    feed = followed.guids.events(types=["guid.expired", "guid.deleted"], guid=B.lower(), follow=False)

    assert await collected(feed) == []
    assert feed.cursor == followed.feed.cursor(9)
    assert followed.feed.pages == [0, 0, 0], "an empty page may have more after it"
    followed.feed.add("guid.deleted", B)
    assert [event.type for event in await collected(feed)] == ["guid.deleted"]


async def test_feed_waits_for_new_events(followed: Followed) -> None:
    followed.feed.add("guid.created", A)
    following = asyncio.create_task(collected(followed.guids.events(start="now"), 2))
    while not followed.server.requests:
        await asyncio.sleep(0.01)
    followed.feed.add("guid.updated", A)
    followed.feed.add("guid.deleted", A, record=None)

    updated, deleted = await following
    assert (updated.type, deleted.type, deleted.record) == ("guid.updated", "guid.deleted", None)
    assert "wait=30" in followed.server.requests[0].target
    assert "from=now" in followed.server.requests[0].target


async def test_following_feed_outlasts_an_outage(followed: Followed) -> None:
    """Each event comes once, whatever becomes of the requests in between."""
    working, failures = followed.feed.answer, [RESET, problem("unavailable", 503, Retry_After="0"), RESET]

    async def answer(request: Request) -> bytes:
        return failures.pop() if failures and len(followed.server.requests) > 1 else await working(request)

    followed.server.answer = answer
    for _ in range(6):
        followed.feed.add("guid.created", A)
    events = await collected(followed.guids.events(), 6)
    assert [event.version for event in events] == [1_795_000_000_000 + number for number in range(6)]
    assert not failures


async def test_feed_that_does_not_follow_raises_the_failure(kind: str) -> None:
    async with client_of(kind, f"http://127.0.0.1:{free_port()}", retries=0) as guids:
        with pytest.raises(Unreachable):
            await collected(guids.events(follow=False))


async def test_following_feed_raises_what_does_not_pass(kind: str) -> None:
    async with scripted_server(lambda _: problem("forbidden", 403)) as server, client_of(kind, server.url) as guids:
        with pytest.raises(Forbidden):
            await collected(guids.events())


@pytest.mark.parametrize("reason", ["trimmed", "rewound", "another-store"])
async def test_events_that_are_gone_raise_where_to_go_on(followed: Followed, reason: str) -> None:
    for _ in range(5):
        followed.feed.add("guid.created", A)
    cursor = followed.feed.cursor(2)
    if reason == "trimmed":
        followed.feed.trimmed = 3
    elif reason == "rewound":
        cursor = followed.feed.cursor(5)
        del followed.feed.events[4:]
    else:
        followed.feed.epoch = 8

    with pytest.raises(EventsGone) as gone:
        await collected(followed.guids.events(cursor=cursor))
    assert gone.value.reason == reason
    assert gone.value.oldest == followed.feed.cursor(followed.feed.trimmed)
    assert gone.value.now == followed.feed.cursor(len(followed.feed.events))
    rest = await collected(followed.guids.events(cursor=gone.value.oldest, follow=False))
    assert len(rest) == len(followed.feed.events) - followed.feed.trimmed


async def test_feed_of_the_service_resumes_and_ends(guids: Any) -> None:
    """The other tests use a feed that breaks on command; this one is that of the service."""
    start = guids.events(start="now", follow=False)
    assert await collected(start) == []
    made = await guids.create(user="first")
    await guids.patch(made.guid, {"user": "second"})
    await guids.delete(made.guid)

    feed = guids.events(cursor=start.cursor, guid=made.guid, follow=False)
    events = await collected(feed)
    assert [event.type for event in events] == ["guid.created", "guid.updated", "guid.deleted"]
    assert [event.record.user for event in events] == ["first", "second", "second"]
    rest = guids.events(cursor=events[0].cursor, guid=made.guid, follow=False)
    assert [event.id for event in await collected(rest)] == [event.id for event in events[1:]]
    assert await collected(guids.events(cursor=feed.cursor, guid=made.guid, follow=False)) == []
