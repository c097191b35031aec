"""At the connection limit, connections that execute requests give way too, without losing a response."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import pytest
from tornado.web import Application, RequestHandler

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.server.abort import call_on_leave
from guidsvc.server.protocol.state import ConnectionLimits
from guidsvc.server.server import Server, serving_on
from guidsvc.telemetry.metrics import RequestMetrics
from tests.conftest import ExpectedLogs
from tests.support.http_client import Reply, hang_up, read_reply

LIMIT = 4
WAIT, NOW = (b"POST /%b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % name for name in (b"wait", b"now"))
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Gate:
    """An event for which handlers wait, and the number of requests that have reached it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.requests = 0


class Waiting(RequestHandler):
    """Waits at the gate, like a request that executes for long; then responds."""

    def initialize(self, gate: Gate) -> None:
        self.gate = gate

    async def post(self) -> None:
        self.gate.requests += 1
        await self.gate.opened.wait()
        self.write(b"written")


class Streaming(Waiting):
    """Sends a part of its response before it waits at the gate."""

    async def post(self) -> None:
        self.write(b"a part")
        await self.flush()
        await super().post()


class Endless(Waiting):
    """Waits at the gate, like a request that reads before it waits for events; then never responds."""

    async def post(self) -> None:
        await super().post()
        call_on_leave(self.request.connection, lambda: True)
        await asyncio.Event().wait()


class Large(Waiting):
    """Waits at the gate, then sends more than the buffers of a connection hold."""

    async def post(self) -> None:
        await super().post()
        self.write(bytes(16 * 1024 * 1024))


class Now(RequestHandler):
    """Responds at once."""

    def post(self) -> None:
        self.write(b"now")


@asynccontextmanager
async def full_server(
    gate: Gate, *, spare: int, handler: type[Waiting] = Waiting, leave_seconds: float = 600
) -> AsyncIterator[tuple[int, list[Pair]]]:
    """Run a server whose connections all belong to one network, each with one running and one waiting request."""
    app = Application([("/wait", handler, {"gate": gate}), ("/now", Now)])
    limits = ConnectionLimits(connections=LIMIT, spare_connections=spare, leave_seconds=leave_seconds)
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listening.getsockname()[1]
        await stack.enter_async_context(serving_on([listening], app, ServerHooks(RequestMetrics()), limits=limits))
        pairs = [await connect(stack, port, "127.0.0.2", 2 * WAIT) for _ in range(LIMIT)]
        while gate.requests < LIMIT:
            await asyncio.sleep(0.01)
        yield port, pairs


async def connect(stack: AsyncExitStack, port: int, address: str, data: bytes) -> Pair:
    """Open a connection from an address of this host, and send some bytes on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    stack.push_async_callback(hang_up, writer)
    writer.write(data)
    return reader, writer


async def replies_of(connection: Pair, count: int) -> list[Reply]:
    """Return at most `count` responses, fewer if the connection ends after one of them."""
    replies: list[Reply] = []
    while len(replies) < count:
        try:
            replies.append(await read_reply(connection[0], "POST"))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            break
    return replies


async def test_executing_connection_leaves_after_its_response(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("too many connections")
    gate = Gate()
    async with asyncio.timeout(60), full_server(gate, spare=32) as (port, pairs), AsyncExitStack() as stack:
        other_network = await connect(stack, port, "127.0.0.3", NOW)
        assert (await read_reply(other_network[0], "POST")).body == b"now"
        assert gate.requests == LIMIT
        gate.opened.set()
        replies = [await replies_of(item, 2) for item in pairs]
        assert all(reply.status == 200 and reply.body == b"written" for item in replies for reply in item)
        assert sorted(len(item) for item in replies) == [1] + [2] * (LIMIT - 1)
        assert [item[0].headers.get("Connection") for item in replies if len(item) == 1] == ["close"]
        assert gate.requests == 2 * LIMIT - 1, "a leaving connection starts no further request"


async def test_places_beyond_the_limit_are_few_and_for_others(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("too many connections")
    async with asyncio.timeout(60), full_server(Gate(), spare=4) as (port, pairs), AsyncExitStack() as stack:
        statuses = []
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.4", "127.0.0.5"):
            reader, _ = await connect(stack, port, address, NOW)
            statuses.append((await read_reply(reader, "POST")).status)
        assert statuses == [503, 200, 503, 200, 503]
        assert not any(reader.at_eof() for reader, _ in pairs)


async def test_request_that_loses_nothing_gives_way_later_too(expected_logs: ExpectedLogs) -> None:
    """Its connection was asked to leave before the handler could say that the client loses nothing."""
    expected_logs.add("too many connections")
    gate = Gate()
    service = full_server(gate, spare=4, handler=Endless)
    async with asyncio.timeout(60), service as (port, _), AsyncExitStack() as stack:
        statuses = []
        for number in range(5):
            reader, _ = await connect(stack, port, f"127.0.0.{3 + number}", NOW)
            statuses.append((await read_reply(reader, "POST")).status)
            if statuses[-1] == 503:
                gate.opened.set()
        assert statuses == [200, 200, 503, 200, 200]


async def test_place_of_leaving_connection_stays_free_for_others(expected_logs: ExpectedLogs) -> None:
    """Another small network reuses it after its first user has disconnected; no further connection must leave."""
    expected_logs.add("too many connections")
    async with asyncio.timeout(60), full_server(Gate(), spare=2) as (port, _):
        for _ in range(5):
            async with AsyncExitStack() as stack:
                reader, writer = await connect(stack, port, "127.0.0.3", NOW)
                assert (await read_reply(reader, "POST")).status == 200
                writer.write(NOW.replace(b"Host: x", b"Host: x\r\nConnection: close"))
                assert (await read_reply(reader, "POST")).status == 200
                assert await reader.read() == b"", "the server has closed it"


@pytest.mark.parametrize(("handler", "leave_seconds"), [(Waiting, 0.5), (Streaming, 600)])
async def test_connection_that_does_not_leave_in_time_is_closed(
    expected_logs: ExpectedLogs, handler: type[Waiting], leave_seconds: float
) -> None:
    """Otherwise other networks would only have the few spare connections."""
    expected_logs.add("too many connections")
    server = full_server(Gate(), spare=2, handler=handler, leave_seconds=leave_seconds)
    async with asyncio.timeout(60), server as (port, pairs), AsyncExitStack() as stack:
        statuses: list[int] = []
        while statuses.count(200) < 2:
            reader, _ = await connect(stack, port, f"127.0.0.{3 + statuses.count(200)}", NOW)
            statuses.append((await read_reply(reader, "POST")).status)
            await asyncio.sleep(0.05)
        assert statuses[:2] == [200, 503], "it may use its time first"
        closed = [reader for reader, _ in pairs if reader._eof or reader.exception()]  # type: ignore[attr-defined]
        assert len(closed) == 1


async def test_leaving_connection_closes_if_its_response_is_unread() -> None:
    gate = Gate()
    app = Application([("/wait", Large, {"gate": gate})])
    async with asyncio.timeout(60):
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            limits = ConnectionLimits(write_seconds=600)
            async with serving_on([listening], app, ServerHooks(RequestMetrics()), limits=limits) as server:
                client = stack.enter_context(socket.create_connection(listening.getsockname(), 30))
                client.sendall(WAIT)
                connection = await only_connection(server)
                while not gate.requests:
                    await asyncio.sleep(0.01)
                assert not connection.leave()
                gate.opened.set()
                while not connection._is_lingering:
                    await asyncio.sleep(0.01)
                assert not connection.leave(), "its client has time to read"
                while not connection.leave():
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("unread", [b"", NOW], ids=["idle", "unread"])
async def test_idle_connection_leaves_unless_a_request_is_unread(unread: bytes) -> None:
    app = Application([("/now", Now)])
    async with asyncio.timeout(60):
        with ExitStack() as stack:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            async with serving_on([listening], app, ServerHooks(RequestMetrics())) as server:
                client = stack.enter_context(socket.create_connection(listening.getsockname(), 30))
                connection = await only_connection(server)
                client.sendall(unread)
                assert connection.leave() == (not unread)
                received = await asyncio.to_thread(receive_all, client)
    assert received.count(b"HTTP/1.1 200 ") == (1 if unread else 0)
    assert (b"Connection: close" in received) == bool(unread)


async def only_connection(server: Server):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a ManagedConnection
    """Return the connection of a server, once it has one."""
    while not server.connections():
        await asyncio.sleep(0.01)
    (connection,) = server._table.connections
    return connection


def receive_all(client: socket.socket) -> bytes:
    """Return all that a connection sends until it ends."""
    received = b""
    while data := client.recv(65_536):
        received += data
    return received
