"""Graceful shutdown: open connections are served, told to close, and do not delay the end of the service."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from guidsvc.server.protocol.state import has_unread
from guidsvc.server.server import LAME_SECONDS
from guidsvc.server.ticks import TICK_SECONDS
from tests.conftest import Serving
from tests.support.backing_servers import service
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply, hang_up, read_chunks, read_reply

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Shutdown = Callable[[], "asyncio.Task[None]"]


@asynccontextmanager
async def stoppable_service(
    serving: Serving, **settings: object
) -> AsyncIterator[tuple[Callable[[], Awaitable[Connection]], Shutdown]]:
    """Run a service inside the block; yield a function that connects, and one that starts the shutdown."""
    async with AsyncExitStack() as stack, AsyncExitStack() as service:
        client = await service.enter_async_context(serving(**{"grace": 20} | settings))
        await client.put(PATH, {"user": USER})

        async def connect() -> Connection:
            connection = await asyncio.open_connection("127.0.0.1", client.port)
            stack.push_async_callback(hang_up, connection[1])
            return connection

        yield connect, lambda: asyncio.create_task(service.aclose())


async def ask(connection: Connection, path: str = PATH, method: str = "GET", body: bytes = b"") -> Reply:
    reader, writer = connection
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n"
    body_headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{head}{body_headers}\r\n".encode() + body)
    return await asyncio.wait_for(read_reply(reader, method), 30)


async def is_disconnected(connection: Connection) -> bool:
    return await asyncio.wait_for(connection[0].read(), 30) == b""


async def wait_until_refused(connect: Callable[[], Awaitable[Connection]]) -> None:
    """Return when the shutdown has begun and the service accepts no more connections."""
    while True:
        try:
            await connect()
        except ConnectionRefusedError:
            return
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", [PATH, "/version", "/guid/" + "F" * 32])
async def test_recent_client_gets_one_last_response_with_close(serving: Serving, path: str) -> None:
    async with stoppable_service(serving) as (connect, end):
        connections = [await connect() for _ in range(3)]
        replies_before = [await ask(item, path) for item in connections]
        shutdown = end()
        await wait_until_refused(connect)
        replies_after = [await ask(item, path) for item in connections]

        assert [item.status for item in replies_after] == [item.status for item in replies_before]
        assert [item.headers.get("Connection") for item in replies_before + replies_after] == [None] * 3 + ["close"] * 3
        assert all([await is_disconnected(item) for item in connections])
        await shutdown


async def test_new_connection_is_served_during_shutdown(serving: Serving) -> None:
    async with stoppable_service(serving) as (connect, end):
        connection = await connect()
        shutdown = end()
        await wait_until_refused(connect)
        reply = await ask(connection)
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
        await shutdown


async def test_idle_client_is_disconnected_after_a_while(serving: Serving) -> None:
    async with stoppable_service(serving) as (connect, end):
        connection = await connect()
        await ask(connection)
        start = asyncio.get_running_loop().time()
        shutdown = end()
        assert await is_disconnected(connection)
        await shutdown
        assert LAME_SECONDS * 0.9 < asyncio.get_running_loop().time() - start < 30


@pytest.mark.parametrize("server", ["httptools"])
async def test_long_idle_client_is_disconnected_at_once_and_others_not(serving: Serving) -> None:
    async with stoppable_service(serving) as (connect, end):
        idle, busy = await connect(), await connect()
        await ask(idle)
        loop = asyncio.get_running_loop()
        start = loop.time()
        while loop.time() < start + LAME_SECONDS + 3 * TICK_SECONDS:
            assert (await ask(busy)).status == 200
            await asyncio.sleep(TICK_SECONDS / 20)
        shutdown = end()
        assert await is_disconnected(idle)
        assert (await ask(busy)).status == 200, "a recently active client has more time"
        await shutdown


async def test_active_client_gets_another_full_second(serving: Serving) -> None:
    async with stoppable_service(serving) as (connect, end):
        connection = await connect()
        await ask(connection)
        await asyncio.sleep(LAME_SECONDS * 0.7)
        shutdown = end()
        await asyncio.sleep(LAME_SECONDS * 0.5)
        assert (await ask(connection)).status == 200
        await shutdown


@pytest.mark.parametrize("server", ["httptools"])
async def test_partial_request_head_is_awaited(serving: Serving) -> None:
    async with stoppable_service(serving) as (connect, end):
        reader, writer = await connect()
        writer.write(f"GET {PATH} HT".encode())
        await ask(await connect())  # sent later, so the partial head has been read before
        shutdown = end()
        await asyncio.wait([shutdown], timeout=LAME_SECONDS * 1.5)
        writer.write(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).headers["Connection"] == "close"
        await shutdown


async def test_client_without_close_notice_may_ask_again(serving: Serving) -> None:
    """Also if its response takes longer than clients have that wait for none."""
    async with stoppable_service(serving) as (connect, end):
        large = b'{"user": "a", "metadata": {"a": "%b"}}' % (b"x" * 16_000)
        filling_connection = await connect()
        for _ in range(500):
            assert (await ask(filling_connection, "/guid", "POST", large)).status == 201
        connection = reader, writer = await connect()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        writer.write(b"GET /guid HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\n\r\n")
        assert b"Connection" not in await reader.readuntil(b"\r\n\r\n")
        shutdown = end()
        await wait_until_refused(connect)
        await asyncio.sleep(1.3 * LAME_SECONDS)
        assert len(b"".join([chunk async for chunk in read_chunks(reader)])) > 500 * 16_000
        reply = await ask(connection)
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
        await shutdown


async def test_received_unread_bytes_are_detected() -> None:
    own_socket, peer_socket = socket.socketpair()
    with peer_socket:
        reader, writer = await asyncio.open_connection(sock=own_socket)
        assert not has_unread(writer.transport)
        peer_socket.send(b"x")
        assert has_unread(writer.transport)
        assert await reader.read(1) == b"x"
        assert not has_unread(writer.transport)
        await hang_up(writer)


async def test_request_cut_off_by_the_grace_is_not_logged_as_answered(tmp_path: Path, server: str) -> None:
    operations = [{"user": USER, "metadata": {"x": "x" * 60}}] * 1_000
    with service(tmp_path, "--server", server, "--log-format", "json", "--grace", "0.1") as running:
        client = Client(running.port)
        requests = [asyncio.create_task(client.post("/guid:batch", {"operations": operations})) for _ in range(40)]
        await asyncio.wait(requests, return_when="FIRST_COMPLETED")
        assert await asyncio.to_thread(running.stop) == 0
        replies = await asyncio.gather(*requests, return_exceptions=True)
        await client.aclose()
    statuses = [reply.status for reply in replies if isinstance(reply, Reply)]
    assert len(statuses) < len(requests), "at least one must be cut off"
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    logged_statuses = [line["status"] for line in lines if line.get("path") == "/guid:batch"]
    assert [status for status in logged_statuses if status >= 500] == [status for status in statuses if status >= 500]
    assert logged_statuses.count(0), "a request that got no response"
    assert len(logged_statuses) == len(requests)
