"""Clients detect a broken stream, even if the end of the connection marks the end of the stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from guidsvc.server.protocol.state import ConnectionLimits
from tests.conftest import ExpectedLogs, Serving
from tests.support.certificates import Certificate
from tests.support.http_client import Client
from tests.support.slow_readers import hosting, is_reset, narrow
from tests.support.stored_records import create, drop_records

pytestmark = pytest.mark.both_servers

STREAM = b"GET /guid HTTP/1.0\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n%b\r\n"
COUNT = 120


@asynccontextmanager
async def streaming(
    client: Client, headers: bytes = b"", certificate: Certificate | None = None
) -> AsyncIterator[asyncio.StreamReader]:
    """Request a stream with HTTP/1.0 that is too long to be sent at once; yield its reader after the head."""
    async with narrow(client.port, None if certificate is None else certificate.trusting()) as (reader, writer):
        writer.write(STREAM % headers)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"chunked" not in head
        yield reader


@asynccontextmanager
async def serving_records(serving: Serving, **settings: object) -> AsyncIterator[Client]:
    async with serving(**settings) as client:
        await create(client, range(COUNT), metadata={"much": "x" * 15_000})
        yield client


@pytest.mark.parametrize("headers", [b"", b"Connection: keep-alive\r\n"])
async def test_stream_is_reset_when_the_store_fails(
    serving: Serving, sqlite_url: str, expected_logs: ExpectedLogs, headers: bytes
) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with serving_records(serving) as client, streaming(client, headers) as reader:
        drop_records(sqlite_url)
        assert await is_reset(reader)


async def test_broken_tls_stream_is_reset(
    serving: Serving, sqlite_url: str, expected_logs: ExpectedLogs, certificate: Certificate
) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with AsyncExitStack() as stack:
        async with serving_records(serving):
            pass
        client = await stack.enter_async_context(serving(**certificate.settings))
        reader = await stack.enter_async_context(streaming(client, certificate=certificate))
        drop_records(sqlite_url)
        assert await is_reset(reader)


async def test_stream_cut_by_shutdown_is_reset(serving: Serving, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("grace period over, aborting requests")
    async with AsyncExitStack() as stack:
        async with serving_records(serving, grace=0.2) as client:
            reader = await stack.enter_async_context(streaming(client))
        assert await is_reset(reader)


async def test_stream_without_reader_is_reset(server: str) -> None:
    limits = ConnectionLimits(write_seconds=0.3)
    async with hosting(server, limits) as port, narrow(port) as (reader, writer):
        writer.write(b"GET /stream HTTP/1.0\r\nHost: a\r\n\r\n")
        assert b" 200 " in await reader.readline()
        await asyncio.sleep(1)  # longer than the time limit without progress
        assert await is_reset(reader, bytes_per_second=5_000)


async def test_complete_stream_ends_regularly(serving: Serving) -> None:
    async with serving_records(serving) as client, streaming(client) as reader:
        lines = (await asyncio.wait_for(reader.read(), 60)).splitlines()
        assert len(lines) == COUNT
