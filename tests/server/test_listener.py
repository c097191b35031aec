"""Accepting connections: all waiting ones in one turn of the event loop, for each kind of socket."""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop
from tornado.web import Application

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.server import listener
from guidsvc.server.accepting.descriptors import Descriptors
from guidsvc.server.listener import MAX_ACCEPTS, Listener
from guidsvc.server.server import serving_on
from guidsvc.telemetry.metrics import RequestMetrics
from tests.conftest import ExpectedLogs

CLIENTS = 60


class Failing(socket.socket):
    """A socket that cannot accept at first, as if no descriptor was left."""

    failures = 3
    bound = 1000
    """Number of connections after which it cannot accept any more."""

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures or not self.bound:
            self.failures = max(0, self.failures - 1)
            raise OSError(errno.EMFILE, "too many open files")
        accepted = super().accept()
        self.bound -= 1
        return accepted


class Open(asyncio.Protocol):
    """A connection that stays open. `count` is the number of those that were connected."""

    count = 0

    def connection_made(self, _: asyncio.BaseTransport) -> None:
        Open.count += 1


class Waiting(asyncio.Protocol):
    """A connection that is never set up: its `connection_made` is not reached."""


def listen_with_clients(kind: str, folder: Path, stack: ExitStack, count: int) -> socket.socket:
    """Return a listening socket with `count` clients that wait to be accepted."""
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    listening = stack.enter_context(socket.socket(family))
    listening.bind(("127.0.0.1", 0) if kind == "tcp" else str(folder / "socket"))
    listening.listen(2 * count)
    for _ in range(count):
        stack.enter_context(socket.socket(family)).connect(listening.getsockname())
    return listening


@pytest.fixture(params=["tcp", "unix"])
def listening_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket with waiting clients."""
    with ExitStack() as stack:
        yield listen_with_clients(request.param, tmp_path, stack, CLIENTS)


def test_waiting_connections_are_accepted_in_few_loop_turns(listening_socket: socket.socket) -> None:
    """A turn may be long: if one connection was accepted per turn, each would wait for all before it."""
    assert CLIENTS < MAX_ACCEPTS

    async def turns() -> int:
        count = 0
        async with serving_on([listening_socket], Application(), ServerHooks(RequestMetrics())) as server:
            while server.connections() < CLIENTS:
                await asyncio.sleep(0)
                count += 1
        return count

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(turns(), 30)) < CLIENTS / 2


async def test_accept_is_retried_after_an_error_of_the_system(
    monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("accepting connections failed")
    monkeypatch.setattr(listener, "PAUSE_SECONDS", 0.01)
    with ExitStack() as stack:
        failing = stack.enter_context(Failing())
        failing.bind(("127.0.0.1", 0))
        failing.listen(1)
        stack.enter_context(socket.create_connection(failing.getsockname()))
        async with serving_on([failing], Application(), ServerHooks(RequestMetrics())) as server, asyncio.timeout(30):
            while not server.connections():
                await asyncio.sleep(0.01)
    assert not failing.failures


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("has_failed", [False, True], ids=["counted", "failed"])
def test_connections_beyond_the_descriptors_wait_for_one(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    has_failed: bool,
    monkeypatch: pytest.MonkeyPatch,
    expected_logs: ExpectedLogs,
) -> None:
    """Neither the count nor the system leaves one: the next is accepted when one is closed, not after a pause."""
    expected_logs.add("accepting connections failed")
    monkeypatch.setattr(listener, "PAUSE_SECONDS", 3600)
    monkeypatch.setattr(Open, "count", 0)

    async def fill(stack: ExitStack) -> None:
        failing = stack.enter_context(Failing())
        failing.failures, failing.bound = 0, 3 if has_failed else CLIENTS
        failing.bind(("127.0.0.1", 0))
        failing.listen(CLIENTS)
        clients = [stack.enter_context(socket.create_connection(failing.getsockname())) for _ in range(8)]
        descriptors = Descriptors(CLIENTS if has_failed else 3)
        accepting = Listener(failing, lambda _: Open(), lambda _: None, descriptors=descriptors)
        for number, client in enumerate(clients[:5], 3):
            while Open.count < number:
                await asyncio.sleep(0.01)
            for _ in range(10):
                await asyncio.sleep(0)
            assert Open.count == number, "no more are accepted"
            failing.bound += 1
            client.close()
        accepting.close()
        for client in clients:
            client.close()
        while descriptors.free < (CLIENTS if has_failed else 3):
            await asyncio.sleep(0.01)

    with ExitStack() as stack, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(fill(stack), 60))


async def test_connection_still_in_setup_is_closed_at_shutdown() -> None:
    """It is accepted in the turn in which the service ends."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listening.getsockname()))
        accepting = Listener(listening, lambda _: Waiting(), lambda _: None)
        accepting._accept()
        accepting.close()
        accepting.abort()
        client.setblocking(False)
        async with asyncio.timeout(30):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


def test_counted_sockets_are_small() -> None:
    descriptors = Descriptors(2)
    with socket.socket() as first, socket.socket() as second:
        counted = [descriptors.take(each) for each in (first, second)]

    assert not any(hasattr(each, "__dict__") for each in counted), "each idle connection has one"
    for each in counted:
        each.close()
    assert descriptors.free == 2
