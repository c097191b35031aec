"""Accepting connections: all that wait, in a turn of the event loop, of whatever kind they are."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop
from tornado.web import Application

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.server import listener
from guidsvc.server.listener import MAX_ACCEPTS, Listener
from guidsvc.server.server import serving_on
from guidsvc.telemetry.metrics import RequestMetrics
from tests.conftest import ExpectedLogs

CLIENTS = 60


class Failing(socket.socket):
    """A socket that cannot accept at first, as where no descriptor is left."""

    failures = 3

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


class Waiting(asyncio.Protocol):
    """A connection that is never set up: its `connection_made` is not reached."""


def sockets(kind: str, folder: Path, stack: ExitStack, count: int) -> socket.socket:
    """Return a socket that listens, with so many clients who wait to be accepted."""
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    listening = stack.enter_context(socket.socket(family))
    listening.bind(("127.0.0.1", 0) if kind == "tcp" else str(folder / "socket"))
    listening.listen(2 * count)
    for _ in range(count):
        stack.enter_context(socket.socket(family)).connect(listening.getsockname())
    return listening


@pytest.fixture(params=["tcp", "unix"])
def waited_for(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A socket with clients who wait."""
    with ExitStack() as stack:
        yield sockets(request.param, tmp_path, stack, CLIENTS)


def test_waiting_connections_are_accepted_in_few_loop_turns(waited_for: socket.socket) -> None:
    """A turn may be long: whoever is accepted one a turn waits for as many turns as others are before it."""
    assert CLIENTS < MAX_ACCEPTS

    async def turns() -> int:
        count = 0
        async with serving_on([waited_for], Application(), ServerHooks(RequestMetrics())) as server:
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
