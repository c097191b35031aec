"""Ends of connections whose plain read waits for Redis: a shutdown, the connection limit, a client that disconnects."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.conftest import ExpectedLogs, Serving
from tests.support.backing_servers import Server
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up, read_reply, reset
from tests.support.metrics import Samples, scrape, value
from tests.support.redis_cache import DOWN
from tests.support.time_limit import within
from tests.support.waiting_reads import PATIENT_SECONDS, WaitingReads

pytestmark = pytest.mark.slow

PATH = f"/guid/{GUID}"
READ = f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
READS = 3
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class RunningService:
    """A service whose reads all go to Redis, which has GUID."""

    def __init__(self, client: Client, service: AsyncExitStack, connections: AsyncExitStack) -> None:
        self.client = client
        self._service = service
        self._connections = connections

    async def connect(self, address: str = "127.0.0.1") -> Connection:
        """Open a connection from an address of this host, which is closed at the end of the test."""
        connection = await asyncio.open_connection("127.0.0.1", self.client.port, local_addr=(address, 0))
        self._connections.push_async_callback(hang_up, connection[1])
        return connection

    async def begin_shutdown(self) -> "asyncio.Task[None]":
        """Begin the shutdown, and return it when the service accepts no more connections."""
        shutdown = asyncio.create_task(self._service.aclose())
        while True:
            try:
                await self.connect()
            except ConnectionRefusedError:
                return shutdown
            await asyncio.sleep(0)


@asynccontextmanager
async def running_service(
    serving: Serving, waiting_reads: WaitingReads, **settings: object
) -> AsyncIterator[RunningService]:
    async with AsyncExitStack() as connections, AsyncExitStack() as service:
        options = {"cache_url": waiting_reads.cache_url, "cache_size": 0, "grace": 60} | settings
        client = await service.enter_async_context(serving(**options))
        await client.put(PATH, {"user": USER, "ttl": 3600})
        await waiting_reads.until_in_redis(lambda: client.get(PATH))
        yield RunningService(client, service, connections)


async def begin_reads(connections: Sequence[Connection], waiting_reads: WaitingReads) -> None:
    """Send a read on each connection, and wait until all have begun in Redis, which is held."""
    for _, writer in connections:
        writer.write(READ)
    await waiting_reads.until_begun(len(connections))


async def read(connection: Connection) -> tuple[int, str | None, bytes]:
    """Return the status of a response, its Connection header, and what follows until the connection is closed."""
    async with within(PATIENT_SECONDS, "a response"):
        reply = await read_reply(connection[0], "GET")
        close = reply.headers.get("Connection")
        return reply.status, close, await connection[0].read() if close == "close" else b""


@pytest.mark.parametrize("fate", ["answers", "dies"])
async def test_read_that_waits_is_answered_in_a_shutdown(
    serving: Serving,
    waiting_reads: WaitingReads,
    own_redis: Server,
    expected_logs: ExpectedLogs,
    fate: str,
) -> None:
    """By Redis or, if that dies, by the store. So is a read that arrives in the shutdown. Each connection is closed."""
    async with running_service(serving, waiting_reads) as service:
        connections = [await service.connect() for _ in range(READS + 1)]
        with waiting_reads.holding():
            await begin_reads(connections[:READS], waiting_reads)
            shutdown = await service.begin_shutdown()
            connections[READS][1].write(READ)
            await waiting_reads.until_in_flight(READS + 1)
            if fate == "dies":
                expected_logs.add(DOWN)
                own_redis.kill()
        assert [await read(connection) for connection in connections] == [(200, "close", b"")] * (READS + 1)
        async with within(PATIENT_SECONDS, "the end of the service"):
            await shutdown
    waiting_reads.assert_nothing_is_left()


async def test_read_that_waits_beyond_the_grace_is_cut_off(
    serving: Serving, waiting_reads: WaitingReads, expected_logs: ExpectedLogs
) -> None:
    """Its connection is closed without a response. The answer of Redis, which comes later, changes nothing."""
    expected_logs.add("grace period over, aborting requests")
    async with running_service(serving, waiting_reads, grace=0.1) as service:
        connections = [await service.connect() for _ in range(READS)]
        with waiting_reads.holding():
            await begin_reads(connections, waiting_reads)
            shutdown = await service.begin_shutdown()
            async with within(PATIENT_SECONDS, "the end of the connections"):
                assert [await reader.read() for reader, _ in connections] == [b""] * READS
        async with within(PATIENT_SECONDS, "the end of the service"):
            await shutdown
    waiting_reads.assert_nothing_is_left()


async def test_read_that_waits_is_the_last_at_the_connection_limit(
    serving: Serving, waiting_reads: WaitingReads, expected_logs: ExpectedLogs
) -> None:
    """A connection that gives way to one of another client is closed after its answer, which says so."""
    expected_logs.add("too many connections")
    async with running_service(serving, waiting_reads, max_connections=READS) as service:
        await service.client.aclose()
        connections = [await service.connect("127.0.0.2") for _ in range(READS)]
        with waiting_reads.holding():
            await begin_reads(connections, waiting_reads)
            other = await service.connect("127.0.0.3")
            other[1].write(READ.replace(PATH.encode(), b"/version"))
            assert await read(other) == (200, None, b"")
        replies = [await read(connection) for connection in connections]
        assert sorted(replies, key=str) == [(200, "close", b"")] + [(200, None, b"")] * (READS - 1)
        waiting_reads.assert_nothing_is_left()


async def test_read_whose_client_disconnects_is_counted_as_gone(serving: Serving, waiting_reads: WaitingReads) -> None:
    """It is not an answered request but a 499. Until Redis answers, it holds nothing but the read of Redis."""
    async with running_service(serving, waiting_reads) as service:
        connections = [await service.connect() for _ in range(READS)]
        before = await scrape(service.client)
        with waiting_reads.holding():
            await begin_reads(connections, waiting_reads)
            for _, writer in connections:
                await reset(writer)
            await waiting_reads.until_in_flight(0)
        assert (await service.client.get(PATH)).status == 200
        after = await scrape(service.client)
        waiting_reads.assert_nothing_is_left()

    assert answered(after) == answered(before) + 1
    name = "guidsvc_requests_refused_total"
    assert value(after, name, reason="gone") == value(before, name, reason="gone") + READS
    labels = {"route": "/guid/{guid}", "method": "GET", "status": "499"}
    assert value(after, "guidsvc_requests_total", **labels) == value(before, "guidsvc_requests_total", **labels) + READS


def answered(samples: Samples) -> float:
    """Return the number of reads that were answered."""
    return value(samples, "guidsvc_requests_total", route="/guid/{guid}", method="GET", status="200")
