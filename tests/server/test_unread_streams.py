"""Shutdown with clients that read nothing: they delay it no longer than clients that read."""

from contextlib import AsyncExitStack
from time import perf_counter

import pytest

from tests.conftest import ExpectedLogs, Serving
from tests.support.event_reader import until_streams
from tests.support.slow_readers import narrow
from tests.support.stored_records import create

pytestmark = pytest.mark.both_servers


async def closing_seconds(serving: Serving, target: str, accept: str, *, grace: float) -> float:
    """Request a stream larger than the connection's buffers, and read nothing. Return the duration of the shutdown.

    The rest of the stream is a page of the store, so the client is behind when the service stops.
    """
    async with AsyncExitStack() as clients, AsyncExitStack() as service:
        client = await service.enter_async_context(serving(grace=grace))
        await create(client, range(400), metadata={"much": "x" * 15_000})
        reader, writer = await clients.enter_async_context(narrow(client.port))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        if target.startswith("/events"):
            await until_streams(client, 1)
        started = perf_counter()
        await service.aclose()
        return perf_counter() - started


@pytest.mark.parametrize(
    ("target", "accept"),
    [
        ("/events", "application/x-ndjson"),
        ("/events?follow=true", "application/x-ndjson"),
        ("/events", "text/event-stream"),
    ],
)
async def test_unread_stream_of_events_delays_no_shutdown(
    serving: Serving, expected_logs: ExpectedLogs, target: str, accept: str
) -> None:
    expected_logs.add("request failed")
    assert await closing_seconds(serving, target, accept, grace=20) < 4


async def test_unread_list_delays_shutdown_by_the_grace(serving: Serving, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("grace period over, aborting requests")
    assert await closing_seconds(serving, "/guid", "application/x-ndjson", grace=2) < 3.5
