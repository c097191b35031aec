"""Clients that read large responses slowly or not at all: their memory, and when they are disconnected."""

import asyncio
import json
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tornado.iostream import IOStream

from guidsvc.server.protocol.send_buffer import HIDDEN_BYTES, SendBudget, SendBuffer, SendRate
from guidsvc.server.protocol.state import ConnectionLimits
from guidsvc.server.tls import open_tls
from guidsvc.server.tornado_adapter.client import TornadoClient
from tests.conftest import ExpectedLogs
from tests.support.backing_servers import Service, service, wait_until
from tests.support.certificates import Certificate
from tests.support.factories import USER
from tests.support.open_requests import OPEN_REQUEST_BYTES
from tests.support.slow_readers import hosting, is_reset, narrow

pytestmark = pytest.mark.both_servers

MIB = 1024 * 1024
BUDGET = 32 * MIB
READERS, BATCHES = 200, 800
LARGE = {
    "page": b"GET /guid?limit=500 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "stream": b"GET /guid HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n",
    "docs": b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n",
}
"""Requests whose responses are large enough to wait for a slow client."""


def resident(running: Service) -> int:
    """Return the resident memory of a process in bytes."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def connect(port: int, request: bytes = b"") -> socket.socket:
    """Connect with a small receive window, and send a request."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.settimeout(60)
    reader.connect(("127.0.0.1", port))
    reader.sendall(request)
    return reader


def fill(port: int, count: int) -> None:
    """Create records of 16 KiB."""
    line = json.dumps({"user": USER, "metadata": {"a": "x" * 16_000}}).encode() + b"\n"
    head = (
        b"POST /guid:batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), 60) as filler:
        filler.sendall(head + b"Prefer: return=minimal\r\nContent-Length: %d\r\n\r\n" % (count * len(line)))
        filler.sendall(line * count)
        received = b"".join(iter(lambda: filler.recv(65_536), b""))
    assert received.count(b'"status":201') == count


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_descriptors")
def test_slow_readers_take_little_memory_and_return_it(server: str, tmp_path: Path) -> None:
    options = ("--no-access-log", "--server", server, "--max-unsent-bytes", str(BUDGET), "--queue-timeout", "60")
    with service(tmp_path, *options, "--request-timeout", "60", "--log-level", "error") as running:
        fill(running.port, 300)
        memory_before = resident(running)
        for kind, request in LARGE.items():
            with ExitStack() as stack:
                for _ in range(READERS):
                    stack.enter_context(connect(running.port, request))
                assert _settled(running) < memory_before + BUDGET + 80 * MIB, kind
                wait_until(lambda: _is_served(running), "another client is served")  # not while the event loop lags
            wait_until(lambda: resident(running) < memory_before + 40 * MIB, f"memory of {READERS} readers of a {kind}")


@pytest.mark.usefixtures("_many_descriptors")
@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_incomplete_batch_takes_little_memory(server: str, tmp_path: Path, query: str) -> None:
    head = (
        f"POST /guid:batch{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    )
    with service(tmp_path, "--no-access-log", "--server", server) as running, ExitStack() as stack:
        for _ in range(100):  # what the first ones take is kept for others
            stack.enter_context(connect(running.port, head.encode()))
        memory_before = _settled(running)
        for _ in range(BATCHES):
            stack.enter_context(connect(running.port, head.encode()))
        assert (_settled(running) - memory_before) / BATCHES < OPEN_REQUEST_BYTES


def _is_served(running: Service) -> bool:
    with connect(running.port, b"GET /guid?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        return connection.recv(12) == b"HTTP/1.1 200"


def _settled(running: Service) -> int:
    """Return the peak memory of the process in bytes, once it no longer rises."""
    peak, deadline = 0, time.monotonic() + 2
    while time.monotonic() < deadline:
        now = resident(running)
        if now > peak + MIB:
            peak, deadline = now, time.monotonic() + 2
        time.sleep(0.05)
    return peak


# The minimum rate


async def test_client_must_read_at_the_minimum_rate(
    server: str, certificate: Certificate, expected_logs: ExpectedLogs
) -> None:
    """Of a stream and of a page, with and without TLS. All clients read at the same time, since each takes seconds."""
    expected_logs.add("asyncio")
    tls = open_tls(certificate.settings["tls_cert"], certificate.settings["tls_key"])
    assert tls is not None
    limits = ConnectionLimits(write_seconds=1, write_bytes_per_second=20_000)

    async def slow_client_is_reset(path: str, port: int, context: ssl.SSLContext | None) -> bool:
        async with narrow(port, context) as (reader, writer):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            return await is_reset(reader, bytes_per_second=5_000)  # it makes progress, but too little

    async with hosting(server, limits) as plain, hosting(server, limits, tls.context) as secure:
        services = [(plain, None), (secure, certificate.trusting())]
        clients = [slow_client_is_reset(path, *each) for path in ("/stream", "/page") for each in services]
        assert await asyncio.gather(*clients) == [True] * 4


async def test_client_at_the_minimum_rate_keeps_being_served(server: str) -> None:
    limits = ConnectionLimits(write_seconds=0.5, write_bytes_per_second=20_000)
    async with hosting(server, limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        deadline = asyncio.get_running_loop().time() + 3
        while asyncio.get_running_loop().time() < deadline:
            assert await reader.readexactly(20_000)
            await asyncio.sleep(0.02)
        writer.transport.abort()


def test_read_rate_is_a_window_average_without_idle_time() -> None:
    pace = SendRate()
    pace.measure(1000, 1000)
    assert not pace.is_too_slow(0, 10, 50)
    pace.measure(600, 0)
    assert not pace.is_too_slow(10, 10, 50)
    assert pace.is_too_slow(10.5, 10, 50)  # 400 bytes, and 500 are due
    pace.measure(600, 100)
    assert not pace.is_too_slow(10.5, 10, 50)
    assert not pace.is_too_slow(20, 10, 50)  # in a new window
    pace.measure(0, 0)
    assert not pace.is_too_slow(100, 10, 50)
    pace.measure(1000, 1000)
    assert not pace.is_too_slow(200, 10, 50)


# The budget


class FakeConnection:
    """A connection that records whether it was reset."""

    is_reset = False

    def __init__(self, network: str = "127.0.0.1") -> None:
        self.network = network

    def reset(self) -> None:
        self.is_reset = True


async def test_longest_waiting_clients_are_reset_over_the_budget(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("slow readers reset")
    budget = SendBudget(100, 60)
    first, second, third, fourth = (FakeConnection() for _ in range(4))
    budget.note(first, 40)
    budget.note(second, 40)
    budget.note(first, 0)  # it has read everything, so its wait starts again
    budget.note(first, 30)
    budget.note(third, 30)
    assert not any(connection.is_reset for connection in (first, second, third))
    budget.note(fourth, 1)
    assert [connection.is_reset for connection in (first, second, third, fourth)] == [False, True, False, False]
    assert budget.unsent_bytes == 61
    budget.note(fourth, 61)  # more than the share of one connection
    assert [connection.is_reset for connection in (first, second, third, fourth)] == [False, True, False, True]
    assert budget.unsent_bytes == 60


async def test_network_with_most_unsent_bytes_is_reset_first(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("slow readers reset")
    budget = SendBudget(100, 60)
    slow, *others = FakeConnection("127.0.0.2"), *(FakeConnection() for _ in range(10))
    budget.note(slow, 30)
    for connection in others:
        budget.note(connection, 10)
    assert not slow.is_reset
    assert [connection.is_reset for connection in others] == [True] * 3 + [False] * 7
    for connection in others:
        budget.note(connection, 0)
    budget.note(others[-1], 50)
    budget.note(FakeConnection("127.0.0.3"), 25)  # the oldest connection is not in the largest network
    assert (slow.is_reset, others[-1].is_reset, budget.unsent_bytes) == (False, True, 55)


@pytest.mark.parametrize("secure", [False, True])
async def test_response_counts_whole_until_its_last_byte_is_sent(secure: bool) -> None:
    """Until then the complete response is in memory."""
    loop, budget = asyncio.get_running_loop(), SendBudget(100 * MIB, 100 * MIB)
    server_socket, client_socket = socket.socketpair()
    client_socket.setblocking(False)
    with client_socket:
        sender = Sender(budget, secure=secure)
        transport, _ = await loop.create_connection(lambda: sender, sock=server_socket)
        sender.outbox.write(b"x" * MIB)
        received = 0
        while received < MIB:
            received += len(await asyncio.wait_for(loop.sock_recv(client_socket, 10_000), 20))
            if received < MIB // 2:
                sender.outbox.is_too_slow(0, 1, 0)
                assert MIB <= budget.unsent_bytes <= MIB + HIDDEN_BYTES
        async with asyncio.timeout(20):
            await sender.sent.wait()
        assert budget.unsent_bytes == 0
        transport.abort()


async def test_tornado_response_counts_whole_until_sent_too() -> None:
    budget = SendBudget(100 * MIB, 100 * MIB)
    server_socket, client_socket = socket.socketpair()
    server_socket.setblocking(False)
    client_socket.setblocking(False)
    with client_socket:
        stream = IOStream(server_socket)
        reader = TornadoClient(stream, budget, "127.0.0.1", lambda _: "")
        sent = stream.write(b"x" * MIB)
        received = 0
        while received < MIB:
            received += len(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client_socket, 10_000), 20))
            reader.measure()
            assert received > MIB // 2 or budget.unsent_bytes == MIB
        await asyncio.wait_for(sent, 20)
        reader.measure()
        assert budget.unsent_bytes == 0
        reader.end()
        stream.close()


class Sender(asyncio.Protocol):
    """A connection that sends through a SendBuffer."""

    def __init__(self, budget: SendBudget, *, secure: bool) -> None:
        self._budget, self._is_secure = budget, secure
        self.sent = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.outbox = SendBuffer(transport, self._budget, secure=self._is_secure, network="127.0.0.1")
        self.outbox.open()

    def pause_writing(self) -> None:
        self.outbox.pause()

    def resume_writing(self) -> None:
        self.outbox.resume()
        if self.outbox.is_empty:
            self.sent.set()


async def test_memory_is_released_after_much_output_but_not_too_often() -> None:
    budget = SendBudget(100 * MIB, 100 * MIB)
    budget.written_bytes = 20 * MIB
    budget.note(FakeConnection(), 15 * MIB)
    assert not budget.should_release(100)  # unsent bytes cannot be freed
    budget.written_bytes += 20 * MIB
    assert budget.should_release(100)
    budget.written_bytes += 20 * MIB
    assert not budget.should_release(101)
    assert budget.should_release(110)
