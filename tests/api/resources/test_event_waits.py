"""Requests for a page of events that wait for the first event."""

import asyncio

import pytest

from tests.support.event_reader import now, page, reading, types, until_streams
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

PATH = f"/guid/{GUID}"


async def test_wait_may_have_leading_zeros(client: Client) -> None:
    assert (await page(client, f"?wait={'0' * 1000}"))["items"] == []
    reply = await client.get(f"/events?wait={'1' * 1000}")
    assert reply.json["detail"] == "`wait` must be a whole number of seconds from 0 to 30."


@pytest.mark.both_servers
async def test_wait_ends_with_the_first_event(client: Client) -> None:
    cursor = await now(client)
    for query in (f"?cursor={cursor}&wait=30", "?from=now&wait=30"):
        waiting = asyncio.create_task(page(client, query))
        await until_streams(client, 1)
        await client.put(PATH, {"user": query})
        assert types((await asyncio.wait_for(waiting, 10))["items"])[-1] in {"created", "updated"}
    await until_streams(client, 0)


async def test_wait_skips_events_that_do_not_match(client: Client) -> None:
    waiting = asyncio.create_task(page(client, "?type=guid.deleted&wait=30&from=now"))
    await until_streams(client, 1)
    await client.put(PATH, {"user": USER})
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await client.delete(PATH)
    events_page = await asyncio.wait_for(waiting, 10)
    assert types(events_page["items"]) == ["deleted"]
    assert events_page["next"] == await now(client)


async def test_wait_without_event_returns_an_empty_page(client: Client) -> None:
    started = asyncio.get_running_loop().time()
    events_page = await page(client, "?wait=1")
    assert (events_page["items"], events_page["more"]) == ([], False)
    assert asyncio.get_running_loop().time() - started >= 1
    await client.put(PATH, {"user": USER})
    assert types((await page(client, "?wait=30"))["items"]) == ["created"], "a page with an event must not wait"


@pytest.mark.both_servers
async def test_waiting_request_frees_its_place_on_disconnect(client: Client) -> None:
    async with asyncio.timeout(20):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /events?wait=30 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await until_streams(client, 1)
        writer.close()
        await until_streams(client, 0)


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("end", ["close", "half-close"])
@pytest.mark.parametrize("request_for", ["/events?wait=30", "/events?follow=true"])
async def test_pipelined_requests_do_not_hide_a_disconnect(
    client: Client, request_for: str, end: str, count: int
) -> None:
    """This includes more requests than the service parses at a time."""
    accept = "application/x-ndjson" if "follow" in request_for else "application/json"
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"GET {request_for} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n\r\n".encode())
        writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * count)
        await until_streams(client, 1)
        if end == "half-close":
            writer.write_eof()
            assert b"/livez" not in await reader.read()
        writer.close()
        await until_streams(client, 0)


async def test_lines_wait_for_the_first_event(client: Client) -> None:
    async with reading(client.port, "?wait=30") as stream:
        await until_streams(client, 1)
        await client.put(PATH, {"user": USER})
        assert types(await stream.lines()) == ["created", "bookmark"]
