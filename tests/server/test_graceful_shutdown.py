"""The end of the service: who is connected is served to the end, told that it comes, and not kept waiting for it."""

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
Ending = Callable[[], "asyncio.Task[None]"]


@asynccontextmanager
async def ending(
    serving: Serving, **settings: object
) -> AsyncIterator[tuple[Callable[[], Awaitable[Connection]], Ending]]:
    """Serve, inside; yields what connects, and what begins the end of the service."""
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
    typed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{head}{typed}\r\n".encode() + body)
    return await asyncio.wait_for(read_reply(reader, method), 30)


async def is_hung_up_on(connection: Connection) -> bool:
    return await asyncio.wait_for(connection[0].read(), 30) == b""


async def refused(connect: Callable[[], Awaitable[Connection]]) -> None:
    """Return when the service has begun to end: it accepts no more connections."""
    while True:
        try:
            await connect()
        except ConnectionRefusedError:
            return
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", [PATH, "/version", "/guid/" + "F" * 32])
async def test_recent_client_gets_one_last_response_with_close(serving: Serving, path: str) -> None:
    async with ending(serving) as (connect, end):
        connections = [await connect() for _ in range(3)]
        before = [await ask(each, path) for each in connections]
        over = end()
        await refused(connect)
        after = [await ask(each, path) for each in connections]

        assert [each.status for each in after] == [each.status for each in before]
        assert [each.headers.get("Connection") for each in before + after] == [None] * 3 + ["close"] * 3
        assert all([await is_hung_up_on(each) for each in connections])
        await over


async def test_new_connection_is_served_during_shutdown(serving: Serving) -> None:
    async with ending(serving) as (connect, end):
        connection = await connect()
        over = end()
        await refused(connect)
        reply = await ask(connection)
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
        await over


async def test_idle_client_is_disconnected_after_a_while(serving: Serving) -> None:
    async with ending(serving) as (connect, end):
        connection = await connect()
        await ask(connection)
        begun = asyncio.get_running_loop().time()
        over = end()
        assert await is_hung_up_on(connection)
        await over
        assert LAME_SECONDS * 0.9 < asyncio.get_running_loop().time() - begun < 30


@pytest.mark.parametrize("server", ["httptools"])
async def test_long_idle_client_is_disconnected_at_once_and_others_not(serving: Serving) -> None:
    async with ending(serving) as (connect, end):
        idle, busy = await connect(), await connect()
        await ask(idle)
        loop = asyncio.get_running_loop()
        since = loop.time()
        while loop.time() < since + LAME_SECONDS + 3 * TICK_SECONDS:
            assert (await ask(busy)).status == 200
        over = end()
        assert await is_hung_up_on(idle)
        assert (await ask(busy)).status == 200, "it had more time"
        await over


async def test_active_client_gets_another_full_second(serving: Serving) -> None:
    async with ending(serving) as (connect, end):
        connection = await connect()
        await ask(connection)
        await asyncio.sleep(LAME_SECONDS * 0.7)
        over = end()
        await asyncio.sleep(LAME_SECONDS * 0.5)
        assert (await ask(connection)).status == 200
        await over


@pytest.mark.parametrize("server", ["httptools"])
async def test_partial_request_head_is_awaited(serving: Serving) -> None:
    async with ending(serving) as (connect, end):
        reader, writer = await connect()
        writer.write(f"GET {PATH} HT".encode())
        await ask(await connect())  # which came later, and so was read later
        over = end()
        await asyncio.wait([over], timeout=LAME_SECONDS * 1.5)
        writer.write(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).headers["Connection"] == "close"
        await over


async def test_client_without_close_notice_may_ask_again(serving: Serving) -> None:
    async with ending(serving) as (connect, end):
        large = b'{"user": "a", "metadata": {"a": "%b"}}' % (b"x" * 16_000)
        filling = await connect()
        for _ in range(500):
            assert (await ask(filling, "/guid", "POST", large)).status == 201
        connection = reader, writer = await connect()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        writer.write(b"GET /guid HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\n\r\n")
        assert b"Connection" not in await reader.readuntil(b"\r\n\r\n")
        over = end()
        await refused(connect)
        assert len(b"".join([chunk async for chunk in read_chunks(reader)])) > 500 * 16_000
        reply = await ask(connection)
        assert (reply.status, reply.headers["Connection"]) == (200, "close")
        await over


async def test_received_unread_bytes_are_detected() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        assert not has_unread(writer.transport)
        theirs.send(b"x")
        assert has_unread(writer.transport)
        assert await reader.read(1) == b"x"
        assert not has_unread(writer.transport)
        await hang_up(writer)


async def test_request_cut_off_by_the_grace_is_not_logged_as_answered(tmp_path: Path, server: str) -> None:
    operations = [{"user": USER, "metadata": {"x": "x" * 60}}] * 1_000
    with service(tmp_path, "--server", server, "--log-format", "json", "--grace", "0.1") as running:
        client = Client(running.port)
        asked = [asyncio.create_task(client.post("/guid:batch", {"operations": operations})) for _ in range(40)]
        await asyncio.wait(asked, return_when="FIRST_COMPLETED")
        assert await asyncio.to_thread(running.stop) == 0
        replies = await asyncio.gather(*asked, return_exceptions=True)
        await client.aclose()
    answered = [reply.status for reply in replies if isinstance(reply, Reply)]
    assert len(answered) < len(asked), "none was cut off"
    lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    logged = [line["status"] for line in lines if line.get("path") == "/guid:batch"]
    assert [status for status in logged if status >= 500] == [status for status in answered if status >= 500]
