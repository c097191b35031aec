"""At the limit of connections, requests that would last long end early, and say where the client can go on."""

import asyncio
import gc
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from guidsvc.api.resources.batch.executor import GROUP, BatchExecutor, Result
from guidsvc.server.connection_table import ConnectionTable
from guidsvc.server.protocol.connection import Connection
from tests.conftest import ExpectedLogs, Serving
from tests.support.certificates import Certificate
from tests.support.event_reader import parse_block
from tests.support.factories import GUID
from tests.support.http_client import Client, Reply, chunk, hang_up, read_reply

LIMIT = 24
NEWCOMERS = 20
"""More than the 16 places beyond the limit."""
JOIN_SECONDS = 8
"""Less than a long request lasts."""
OWNER = "127.0.0.2"
"""The address that has all connections."""
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
GET = json.dumps({"op": "get", "guid": GUID}).encode() + b"\n"
NOT_AN_OPERATION = b"1\n" * (1_000 + GROUP)


def batch(query: bytes = b"") -> bytes:
    """Return the head of a batch of lines in chunks."""
    return (
        b"POST /guid:batch%b HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" % query
    )


def events(query: bytes, accept: bytes, version: bytes = b"1.1") -> bytes:
    """Return a request for events."""
    return b"GET /events?from=now%b HTTP/%b\r\nHost: a\r\nAccept: %b\r\n\r\n" % (query, version, accept)


SSE = events(b"", b"text/event-stream")
LONG_REQUESTS = {
    "batch": batch() + chunk(b"{"),
    "batch-without-lines": batch(),
    "batch-executed-lines": batch() + chunk(GET * (GROUP + 1)),
    "batch-validate-only": batch(b"?validate_only=true") + chunk(GET * GROUP),
    "batch-discarded": batch() + chunk(NOT_AN_OPERATION),
    "batch-pipelined": LIVEZ + batch() + chunk(b"{"),
    "upload": b"PUT /guid/%b?view=full HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{" % GUID.encode(),
    "events-sse": SSE,
    "events-lines": events(b"&follow=true", b"application/x-ndjson"),
    "events-lines-wait": events(b"&wait=30", b"application/x-ndjson"),
    "events-lines-http-1.0": events(b"&follow=true", b"application/x-ndjson", b"1.0"),
    "events-page-wait": events(b"&wait=30", b"application/json"),
    "events-pipelined": SSE + LIVEZ,
}

WITH_RESULTS = {"batch-executed-lines", "batch-validate-only", "batch-discarded"}
"""Requests of which lines were executed: their results must be sent."""


@asynccontextmanager
async def full_service(
    serving: Serving, request: bytes, tls: ssl.SSLContext | None = None, **settings: object
) -> AsyncIterator[tuple[Client, list[Pair]]]:
    """A service of which one address has all connections, each with this request in progress."""
    gc.collect()  # what other tests left
    async with (
        asyncio.timeout(60),
        serving(max_connections=LIMIT, max_streams=16 * LIMIT, **{"queue_timeout": 60, **settings}) as client,
        AsyncExitStack() as stack,
    ):
        pairs = [await connect(stack, client.port, OWNER, tls) for _ in range(LIMIT)]
        for _, writer in pairs:
            writer.write(request)
        tables = connection_tables()
        while sum(is_in_progress(each) for each in connections(tables)) < LIMIT:
            await asyncio.sleep(0.01)
        yield client, pairs


async def connect(stack: AsyncExitStack, port: int, address: str, tls: ssl.SSLContext | None = None) -> Pair:
    """Open a connection from an address of this host."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0), ssl=tls)
    stack.push_async_callback(hang_up, writer)
    return reader, writer


def connection_tables() -> list[ConnectionTable]:
    """Return the tables of connections in this process. The search takes milliseconds: do not repeat it."""
    return [each for each in gc.get_objects() if type(each) is ConnectionTable]


def connections(tables: Iterable[ConnectionTable]) -> list[Connection]:
    """Return the open connections of the service in this process."""
    return [each for table in tables for each in table.connections if isinstance(each, Connection)]


def is_in_progress(connection: Connection) -> bool:
    """Whether a request is in progress that waits for its client or for events."""
    cycle = connection._cycle
    if cycle is None or cycle.message.buffered_bytes:
        return False
    return cycle.is_waiting or (cycle._writer is not None and cycle._writer._leave_callback is not None)


async def join(stack: AsyncExitStack, port: int, number: int, tls: ssl.SSLContext | None = None) -> None:
    """Open a connection from an address of its own that is served, and keep it open.

    It may get a 503 while the system of a client has not acknowledged the last responses, which takes some 40 ms.
    """
    async with asyncio.timeout(JOIN_SECONDS):
        while True:
            with suppress(ConnectionError):  # beyond some rejections over TLS, others are closed without a response
                reader, writer = await connect(stack, port, f"127.0.0.{10 + number}", tls)
                writer.write(LIVEZ)
                if (await read_reply(reader, "GET")).status == 200:
                    return
            await asyncio.sleep(0.02)


async def leave(client: Client, pairs: list[Pair]) -> Pair:
    """Let one of the connections leave, and return it once it has responded."""
    async with asyncio.timeout(JOIN_SECONDS), AsyncExitStack() as stack:
        await join(stack, client.port, 0)
        while True:
            for reader, writer in pairs:
                if reader._eof:  # type: ignore[attr-defined]  # public only once all data is read
                    return reader, writer
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _of_the_limit(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("too many connections")
    expected_logs.add("operation failed")
    expected_logs.add("request failed")


@pytest.mark.parametrize("name", LONG_REQUESTS)
async def test_connections_held_by_long_requests_give_way(serving: Serving, name: str) -> None:
    async with full_service(serving, LONG_REQUESTS[name]) as (client, _), AsyncExitStack() as stack:
        for number in range(NEWCOMERS):
            await join(stack, client.port, number)


@pytest.mark.parametrize("name", ["batch", "batch-executed-lines", "events-sse", "upload"])
async def test_connections_held_over_tls_give_way(serving: Serving, name: str, certificate: Certificate) -> None:
    tls = certificate.trusting()
    service = full_service(serving, LONG_REQUESTS[name], tls, **certificate.settings)
    async with service as (client, _), AsyncExitStack() as stack:
        for number in range(NEWCOMERS):
            await join(stack, client.port, number, tls)


@pytest.mark.parametrize("name", [name for name in LONG_REQUESTS if name not in WITH_RESULTS])
async def test_requests_that_lose_nothing_give_way_at_any_rate(serving: Serving, name: str) -> None:
    """More others come than there are places, before a client has acknowledged anything."""
    async with full_service(serving, LONG_REQUESTS[name]) as (client, _), AsyncExitStack() as stack:
        pairs = [await connect(stack, client.port, f"127.0.0.{10 + number}") for number in range(NEWCOMERS)]
        for _, writer in pairs:
            writer.write(LIVEZ)
        replies = [await read_reply(reader, "GET") for reader, _ in pairs]
        assert [reply.status for reply in replies] == [200] * NEWCOMERS


async def test_leaving_batch_names_its_first_unexecuted_line(serving: Serving) -> None:
    line = b'{"user":"a"}\n'
    async with full_service(serving, batch() + chunk(line * (GROUP + 2))) as (client, pairs):
        reader, _ = await leave(client, pairs)
        reply = await read_reply(reader, "POST")
        *results, last = reply.lines
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
        assert [result["status"] for result in results] == [201] * GROUP
        assert (last["status"], last["problem"]["code"], last["problem"]["line"]) == (503, "unavailable", GROUP + 1)
        assert last["problem"]["detail"] == "The service has too many connections. Nothing was changed; try again."
        assert await reader.read() == b""


async def test_leaving_batch_without_executed_lines_is_rejected(serving: Serving) -> None:
    async with full_service(serving, batch() + chunk(b'{"user":"a"}\n' * 3)) as (client, pairs):
        reply = await read_reply((await leave(client, pairs))[0], "POST")
        assert (reply.status, reply.json["code"], reply.headers["Connection"]) == (503, "unavailable", "close")
        assert "Retry-After" in reply.headers
        assert (await client.get("/guid")).json["items"] == []


class Gate:
    """Holds up the execution of groups of operations."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.groups = 0

    def performer(self) -> Any:
        """Return a method in place of that of the executor."""
        perform = BatchExecutor.perform

        async def held(executor: BatchExecutor, operations: Any, factory: Any = None) -> list[Result]:
            self.groups += 1
            await self.opened.wait()
            return await perform(executor, operations, factory)

        return held


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n"], ids=["incomplete", "complete"])
async def test_leaving_batch_executes_its_present_group(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    """Also if it is the first one, which a 503 would deny; and a batch that was received as a whole is executed."""
    gate = Gate()
    monkeypatch.setattr(BatchExecutor, "perform", gate.performer())
    extra = 1 if end else GROUP + 1
    async with asyncio.timeout(60), serving(max_connections=2) as client, AsyncExitStack() as stack:
        reader, writer = await connect(stack, client.port, OWNER)
        await connect(stack, client.port, "127.0.0.3")
        writer.write(batch() + chunk(GET * (GROUP if not end else 1)) + (chunk(GET * extra) + end))
        while not gate.groups:
            await asyncio.sleep(0.01)
        (connection,) = [each for each in connections(connection_tables()) if each._cycle is not None]
        assert not connection.leave()
        gate.opened.set()
        reply: Reply = await read_reply(reader, "POST")
        statuses = [result["status"] for result in reply.lines]
        assert statuses == ([404] * 2 if end else [404] * GROUP + [503])
        assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize("name", ["events-sse", "events-lines", "events-lines-wait", "events-pipelined"])
async def test_leaving_stream_ends_with_a_bookmark(serving: Serving, name: str) -> None:
    async with full_service(serving, LONG_REQUESTS[name]) as (client, pairs):
        reply = await read_reply((await leave(client, pairs))[0], "GET")  # it fails if the stream is incomplete
        if reply.headers["Content-Type"] == "text/event-stream":
            bookmark = parse_block(reply.body.decode().split("\n\n")[-2])
            assert set(bookmark.fields) == {"id"}
        else:
            assert [each["type"] for each in reply.lines] == ["bookmark"]


async def test_leaving_request_for_a_page_returns_an_empty_one(serving: Serving) -> None:
    async with full_service(serving, LONG_REQUESTS["events-page-wait"]) as (client, pairs):
        reply = await read_reply((await leave(client, pairs))[0], "GET")
        assert (reply.status, reply.json["items"], reply.json["more"]) == (200, [], False)
        assert reply.headers["Connection"] == "close"
        assert (await client.get(f"/events?cursor={reply.json['next']}")).json["items"] == []


async def test_stream_on_a_leaving_connection_ends_at_once(serving: Serving) -> None:
    """The connection was asked to leave while the request for the stream was behind another one, or unread."""
    async with asyncio.timeout(60), serving() as client, AsyncExitStack() as stack:
        reader, writer = await connect(stack, client.port, OWNER)
        writer.write(LIVEZ)
        await read_reply(reader, "GET")
        (connection,) = connections(connection_tables())
        writer.write(SSE)
        assert not connection.leave()
        assert (await reader.read()).endswith(b"0\r\n\r\n")
