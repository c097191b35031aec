"""The life of a connection: however it ends, it is removed once, and no longer counts."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import uvloop
from tornado.web import Application

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.server.protocol.state import ConnectionLimits
from guidsvc.server.server import Server, serving_on
from guidsvc.server.tls import Tls
from guidsvc.telemetry.metrics import RequestMetrics
from tests.conftest import ExpectedLogs
from tests.support.certificates import Certificate
from tests.support.client_hello import client_hello

LIMIT = 4
TURNS = 12


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], work: Callable[[ExitStack], object]) -> None:
    """Run a coroutine function in an event loop of this kind, with a stack for its sockets."""
    with ExitStack() as stack, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(work(stack), 60))  # type: ignore[arg-type]  # it is a coroutine


def listen(stack: ExitStack) -> socket.socket:
    """Return a listening socket."""
    return stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))


def connect(stack: ExitStack, listening: socket.socket, address: str) -> socket.socket:
    """Return a connection from an address of this host, which may not be accepted yet."""
    return stack.enter_context(socket.create_connection(listening.getsockname(), 30, (address, 0)))


async def wait_for_none(server: Server) -> None:
    """Wait until the server has no connections."""
    while server.connections():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("first_turn", range(4))
def test_connection_that_gives_way_during_setup_is_removed(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    first_turn: int,
    is_secure: bool,
    certificate: Certificate,
    expected_logs: ExpectedLogs,
) -> None:
    """A new connection arrives in each turn of the event loop, so one of them arrives in each step of the setup."""
    expected_logs.add("tls handshake failed")
    tls = Tls(*certificate.settings.values()).context if is_secure else None
    expected_logs.add("too many connections")
    limits = ConnectionLimits(connections=LIMIT)

    async def churn(stack: ExitStack) -> None:
        listening = listen(stack)
        clients = [connect(stack, listening, "127.0.0.2") for _ in range(LIMIT)]
        async with serving_on(
            [listening], Application(), ServerHooks(RequestMetrics()), limits=limits, tls=tls
        ) as server:
            for turn in range(TURNS):
                if turn >= first_turn:
                    clients.append(connect(stack, listening, f"127.0.0.{3 + turn % 3}"))
                    clients[-1].sendall(client_hello() if is_secure else b"")
                await asyncio.sleep(0)
            for client in clients:
                client.close()
            await wait_for_none(server)
            await server.drain_connections()
            while server._table.connecting or server._descriptors.free < LIMIT + limits.spare_connections:
                await asyncio.sleep(0.01)

    run(loop_factory, churn)


class Broken:
    """A connection whose methods all fail."""

    network: object

    def __init__(self, server: Server) -> None:
        self.network = server._table.networks.find("127.0.0.9")

    def __getattr__(self, name: str) -> object:
        """Fail on every method."""
        raise RuntimeError(f"{name} fails")


async def test_broken_connection_stops_neither_time_outs_nor_drain(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("managing a connection failed")
    expected_logs.add("closing a connection failed")
    limits = ConnectionLimits(idle_seconds=0.01)
    with ExitStack() as stack:
        listening = listen(stack)
        async with (
            serving_on([listening], Application(), ServerHooks(RequestMetrics()), limits=limits) as server,
            asyncio.timeout(60),
        ):
            for cause in ("time-out", "drain"):
                broken = Broken(server)
                server._table.begin(broken, 0.0)  # type: ignore[arg-type]  # fails as a connection
                assert server._table.open(broken), cause  # type: ignore[arg-type]
                client = connect(stack, listening, "127.0.0.2")
                if cause == "drain":
                    await server.drain_connections()
                assert await asyncio.get_running_loop().run_in_executor(None, client.recv, 1) == b"", "it timed out"
                await wait_for_none(server)
