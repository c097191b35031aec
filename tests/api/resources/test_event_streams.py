"""Streams that follow the event feed: bookmarks, limits, and their end."""

import asyncio
import gc
import json
import re
import socket
from contextlib import AsyncExitStack
from time import perf_counter

import pytest
from tornado.httputil import HTTPHeaders

from guidsvc.api.resources.events import stream as event_stream
from guidsvc.server.protocol.send_buffer import SendBudget
from guidsvc.services.events import tail
from guidsvc.store import open_store
from guidsvc.store.event_log import LogBounds
from guidsvc.store.sqlite.events.log import SqliteEventLog
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.event_reader import (
    LINES,
    SSE,
    StreamReader,
    all_events,
    now,
    page,
    reading,
    until_streams,
)
from tests.support.factories import USER
from tests.support.http_client import Client, hang_up
from tests.support.slow_readers import narrow

FOLLOW = "?from=now&follow=true"
RETRY = re.compile(r"retry: (1[5-9]|[23]\d|40)\d\d")


async def write(client: Client, *numbers: int) -> None:
    """Create GUIDs."""
    await asyncio.gather(*(client.put(f"/guid/{number:032X}", {"user": USER}) for number in numbers))


async def numbers(stream: StreamReader, count: int) -> list[int]:
    """Read `count` events; return the numbers of their GUIDs."""
    found: list[int] = []
    while len(found) < count:
        line = await stream.line()
        found += [] if line["type"] == "bookmark" else [int(line["guid"], 16)]
    return found


@pytest.mark.both_servers
async def test_follower_gets_each_event_once(client: Client) -> None:
    await write(client, 1)
    async with reading(client.port, "?follow=true") as lines, reading(client.port, "", SSE) as sse:
        assert lines.headers["Content-Type"] == "application/x-ndjson"
        assert sse.headers["Content-Type"] == "text/event-stream"
        assert {each.headers["X-Accel-Buffering"] for each in (lines, sse)} == {"no"}
        assert RETRY.fullmatch(await sse.text())
        for number in range(2, 30):
            await write(client, number)
        assert await numbers(lines, 29) == list(range(1, 30))
        events = [await sse.block() for _ in range(29)]
    assert [each.event and int(each.event["guid"], 16) for each in events] == list(range(1, 30))
    assert [each.fields["id"] for each in events] == [each["cursor"] for each in await all_events(client)]


async def test_sse_stream_from_now_sends_a_cursor_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a browser would miss events if its first connection broke before the first event."""
    monkeypatch.setattr(event_stream, "BOOKMARK_SECONDS", 600)
    await write(client, 1)
    cursor = await now(client)
    async with reading(client.port, "?from=now", SSE) as stream:
        assert RETRY.fullmatch(await stream.text())
        assert (await stream.block()).fields == {"id": cursor}


@pytest.mark.parametrize("headers", [LINES, SSE], ids=["lines", "sse"])
async def test_bookmarks_are_sent_regularly(
    client: Client, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], clock: FakeClock
) -> None:
    monkeypatch.setattr(event_stream, "BOOKMARK_SECONDS", 0.05)
    async with reading(client.port, f"{FOLLOW}&type=guid.deleted", headers) as stream:
        await write(client, 1, 2)
        cursor = await now(client)
        text = ""
        while cursor not in text:  # the cursor advances, although no event matches
            text = await stream.text()
        if headers is SSE:
            assert text == f"id: {cursor}"
        else:
            assert text == f'{{"type":"bookmark","cursor":"{cursor}","at":"{clock()}"}}'
        assert cursor in await stream.text()


async def test_stream_ends_with_a_bookmark_at_its_time_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (event_stream.FOLLOW_SECONDS, event_stream.FOLLOW_SPREAD) == (3600, 0.1)
    monkeypatch.setattr(event_stream, "FOLLOW_SECONDS", 0.3)
    await write(client, 1)
    for headers in (LINES, SSE):
        async with reading(client.port, "?follow=true", headers) as stream:
            texts = [text async for text in stream.texts()]
            assert not stream.is_cut_off
            assert await now(client) in texts[-1]
    await until_streams(client, 0)


async def test_limit_ends_a_following_stream(client: Client) -> None:
    for headers in (LINES, SSE):
        async with reading(client.port, f"{FOLLOW}&limit=2", headers) as stream:
            await until_streams(client, 1)
            await write(client, 1)
            await write(client, 2, 3)
            texts = [text async for text in stream.texts()]
            assert sum('"record"' in text for text in texts) == 2
        for number in (1, 2, 3):
            await client.delete(f"/guid/{number:032X}")


@pytest.mark.both_servers
async def test_shutdown_ends_streams_with_bookmarks(serving: Serving) -> None:
    async with AsyncExitStack() as streams, AsyncExitStack() as service:
        client = await service.enter_async_context(serving(grace=20))
        await write(client, 1)
        cursor = await now(client)
        following = [await streams.enter_async_context(reading(client.port, FOLLOW, each)) for each in (LINES, SSE) * 5]
        waiting = asyncio.create_task(page(client, "?from=now&wait=30"))
        await until_streams(client, 11)
        started = perf_counter()
        end = asyncio.create_task(service.aclose())
        texts = [[text async for text in stream.texts()] for stream in following]
        shutdown_seconds = perf_counter() - started
        assert all(cursor in each[-1] for each in texts)
        assert not any(stream.is_cut_off for stream in following)
        assert (await waiting)["next"] == cursor
        assert shutdown_seconds < 1
        await end


@pytest.mark.both_servers
@pytest.mark.parametrize("close_kind", ["close", "half-close"])
async def test_stream_ends_when_its_client_disconnects(client: Client, close_kind: str) -> None:
    async with asyncio.timeout(20):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /events?follow=true HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/x-ndjson\r\n\r\n")
        await until_streams(client, 1)
        connection: socket.socket = writer.get_extra_info("socket")
        if close_kind == "half-close":
            connection.shutdown(socket.SHUT_WR)
        else:
            writer.close()
        await until_streams(client, 0)
        await hang_up(writer)


async def test_waiting_streams_hold_no_admission_slot(serving: Serving) -> None:
    async with serving(max_in_progress=1, max_streams=160) as client, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(reading(client.port, FOLLOW)) for _ in range(5)]
        waiting = asyncio.create_task(page(client, "?from=now&wait=30"))
        await until_streams(client, 6)
        assert "guidsvc_requests_in_progress 0.0" in (await client.get("/metrics")).body.decode()
        for number in range(20):
            await write(client, number)
        for stream in streams:
            assert await numbers(stream, 20) == list(range(20))
        assert (await waiting)["items"]


async def test_follower_that_falls_out_of_the_tail_misses_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "TAIL_EVENTS", 4)
    async with reading(client.port, FOLLOW) as stream:
        await until_streams(client, 1)
        expected: list[str] = []
        for start in range(0, 200, 20):
            await write(client, *range(start, start + 20))
        expected = [event["cursor"] for event in await all_events(client)]
        assert [(await stream.line())["cursor"] for _ in range(200)] == expected


async def test_follower_behind_the_log_gets_events_gone(
    serving: Serving, sqlite_url: str, redis_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last line or block has the cursors from which it can continue."""
    monkeypatch.setattr(tail, "TAIL_EVENTS", 1)
    monkeypatch.setattr(SqliteEventLog, "poll_seconds", 0.2)
    async with serving(cache_url=redis_url) as client, open_store(sqlite_url, exclusive=False) as store:
        for headers in (LINES, SSE):
            async with reading(client.port, FOLLOW, headers) as stream:
                await until_streams(client, 1)
                ended = asyncio.create_task(stream.all_texts())
                while not ended.done():  # the follower may read just before the log is trimmed
                    await write(client, *range(5))
                    for number in range(5):
                        await client.delete(f"/guid/{number:032X}")
                    await store.events.trim(clock() + 1, 2**30, 1000)
                    await asyncio.wait((ended,), timeout=0.3)
                text = (await ended)[-1].removeprefix("data: " if headers is SSE else "")
                assert not stream.is_cut_off
            gone = json.loads(text)
            assert gone == {"type": "events.gone", "oldest": gone["oldest"], "now": gone["now"]}
            assert (await page(client, f"?cursor={gone['now']}"))["items"] == []


async def test_reader_of_rare_events_continues_at_a_bookmark(
    serving: Serving, sqlite_url: str, redis_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues at the last bookmark and misses nothing, although all earlier events were trimmed."""
    monkeypatch.setattr(event_stream, "BOOKMARK_SECONDS", 0.05)
    async with serving(cache_url=redis_url) as client, open_store(sqlite_url, exclusive=False) as store:
        first = await now(client)
        async with reading(client.port, f"{FOLLOW}&type=guid.deleted") as stream:
            await write(client, *range(100))
            newest = await now(client)
            while (line := await stream.line())["cursor"] != newest:
                assert line["type"] == "bookmark"
        await client.delete(f"/guid/{1:032X}")
        await store.events.trim(clock() + 1, 2**30, 100)
        assert_problem(await client.get(f"/events?cursor={first}"), 410, "events-gone")
        events_page = await page(client, f"?type=guid.deleted&cursor={newest}")
        assert [event["guid"] for event in events_page["items"]] == [f"{1:032X}"]


@pytest.mark.slow
async def test_slow_reader_costs_little_memory(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that it has not received yet are read from the store later. Meanwhile other readers get all events."""
    metadata = {"a": "x" * 16_000}
    async with narrow(client.port) as (reader, writer), reading(client.port, FOLLOW) as other:
        writer.write(f"GET /events{FOLLOW} HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\n\r\n".encode())
        await until_streams(client, 2)
        unsent = []
        for start in range(0, 1000, 50):
            puts = (
                client.put(f"/guid/{number:032X}", {"user": USER, "metadata": metadata})
                for number in range(start, start + 50)
            )
            await asyncio.gather(*puts)
            assert sorted(await numbers(other, 50)) == list(range(start, start + 50))
            unsent.append(sum(budget.unsent_bytes for budget in gc.get_objects() if type(budget) is SendBudget))
        assert max(unsent) < 256 * 1024
        assert unsent[-1] > 0, "the slow reader must fall behind"
        head = await reader.readuntil(b"\r\n\r\n")
        stream = StreamReader(200, HTTPHeaders.parse(head.decode().partition("\r\n")[2]), reader, is_sse=False)
        assert sorted(await numbers(stream, 1000)) == list(range(1000)), "the slow reader must miss nothing"


async def test_reconnection_delays_of_browsers_differ(client: Client) -> None:
    async def reconnection_delay() -> str:
        async with reading(client.port, "", SSE) as stream:
            text = await stream.text()
            assert RETRY.fullmatch(text)
            return text

    assert len({await reconnection_delay() for _ in range(20)}) > 5


async def test_waiting_stream_frees_its_place_on_disconnect(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    bounds = SqliteEventLog.bounds

    async def gated_bounds(log: SqliteEventLog, owner: str | None = None) -> LogBounds:
        await gate.wait()
        return await bounds(log, owner)

    async with asyncio.timeout(20):
        with monkeypatch.context() as patch:
            patch.setattr(SqliteEventLog, "bounds", gated_bounds)
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(b"GET /events?follow=true HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\n\r\n")
            await until_streams(client, 1)
            await hang_up(writer)
            await until_streams(client, 0)
