"""The connection layer: limits, back-pressure, Unix sockets, and its interface to a Tornado application."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.errors import StartError
from guidsvc.server.protocol.state import ConnectionLimits
from guidsvc.server.server import serving_on
from guidsvc.server.sockets import open_listeners
from guidsvc.telemetry.metrics import RequestMetrics
from tests.conftest import ExpectedLogs, Serving
from tests.support.certificates import Certificate
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up, read_reply, reset

PATH = f"/guid/{GUID}"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNK = b"x" * 65_536
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Open a connection for the duration of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Wait until the other side closes the connection; return the bytes that arrive before."""
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return b""


# Limits of a client


@pytest.mark.parametrize(
    ("setting", "first_bytes"),
    [
        ("head_timeout", b"GET /livez HTTP/1.1\r\nHost: "),
        ("body_timeout", f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{{".encode()),
        ("body_timeout", f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n".encode()),
        ("head_timeout", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /li"),
    ],
)
async def test_slow_client_is_disconnected_and_others_are_not(
    serving: Serving, setting: str, first_bytes: bytes
) -> None:
    async with serving(**{setting: 0.2}) as client, connected(client.port) as (reader, writer):
        writer.write(first_bytes)
        await read_to_end(reader)
        assert (await client.get("/livez")).status == 200


@pytest.mark.both_servers
@pytest.mark.parametrize(
    "first_bytes", [b"", LIVEZ, LIVEZ[:-2], LIVEZ + LIVEZ[:-2]], ids=["none", "one", "part", "next"]
)
async def test_client_without_a_request_is_disconnected(serving: Serving, first_bytes: bytes) -> None:
    async with serving(idle_timeout=0.2, head_timeout=0.2) as client, connected(client.port) as (reader, writer):
        writer.write(first_bytes)
        received = await read_to_end(reader)
        assert (await client.get("/livez")).status == 200

    assert received.count(b"HTTP/1.1 200") == first_bytes.startswith(LIVEZ)


@pytest.mark.both_servers
@pytest.mark.parametrize(
    "first_bytes", [LIVEZ[:-2], b"\r\n" + LIVEZ[:3], LIVEZ + LIVEZ[:-2]], ids=["part", "after an empty line", "next"]
)
async def test_client_with_an_incomplete_head_is_disconnected(serving: Serving, first_bytes: bytes) -> None:
    async with serving(head_timeout=0.2) as client, connected(client.port) as (reader, writer):
        writer.write(first_bytes)
        received = await read_to_end(reader)
        assert (await client.get("/livez")).status == 200

    assert received.count(b"HTTP/1.1 200") == first_bytes.startswith(LIVEZ)


@pytest.mark.both_servers
async def test_head_in_time_is_served_after_the_idle_timeout(serving: Serving) -> None:
    """A connection with the beginning of a head is not idle."""
    async with serving(idle_timeout=0.2, head_timeout=60) as client, connected(client.port) as (reader, writer):
        async with connected(client.port) as (idle_reader, _):
            writer.write(LIVEZ[:-2])
            await read_to_end(idle_reader)
        writer.write(LIVEZ[-2:])
        assert (await read_reply(reader, "GET")).status == 200


@pytest.mark.both_servers
async def test_client_with_a_slow_response_is_not_idle(serving: Serving) -> None:
    async with serving(idle_timeout=1) as client:
        assert (await client.get("/events?wait=3")).json["items"] == []


@pytest.mark.both_servers
async def test_empty_line_is_not_the_beginning_of_a_head(serving: Serving) -> None:
    async with serving(head_timeout=0.2) as client, connected(client.port) as (reader, writer):
        writer.write(b"\r\n")
        async with connected(client.port) as (other_reader, other_writer):
            other_writer.write(LIVEZ[:-2])
            await read_to_end(other_reader)
        writer.write(LIVEZ)
        assert (await read_reply(reader, "GET")).status == 200


async def test_empty_lines_do_not_keep_a_connection_open(serving: Serving) -> None:
    async with serving(idle_timeout=1) as client, connected(client.port) as (reader, writer):
        start, end = asyncio.get_running_loop().time(), asyncio.create_task(read_to_end(reader))
        while not end.done():
            writer.write(b"\r\n")
            await asyncio.wait([end], timeout=0.1)
            assert asyncio.get_running_loop().time() - start < 30


@pytest.mark.both_servers
async def test_dripping_client_is_disconnected_in_time(serving: Serving) -> None:
    async with serving(head_timeout=1) as client, connected(client.port) as (reader, writer):
        start, end = asyncio.get_running_loop().time(), asyncio.create_task(read_to_end(reader))
        while not end.done():
            writer.write(b"G")
            await asyncio.wait([end], timeout=0.1)
        assert asyncio.get_running_loop().time() - start < 30


async def test_line_batch_may_take_its_time(serving: Serving) -> None:
    head = b"POST /guid:batch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: application/x-ndjson\r\n\r\n"
    async with serving(body_timeout=0.2) as client, connected(client.port) as (reader, writer):
        writer.write(head)
        for _ in range(12):
            writer.write(b'e\r\n{"user": "a"}\n\r\n')
            await asyncio.sleep(0.1)  # in total longer than any other body may take
        writer.write(b"0\r\n\r\n")
        reply = await asyncio.wait_for(read_reply(reader, "POST"), 30)
        assert [line["status"] for line in reply.lines] == [201] * 12


async def test_connections_are_limited(serving: Serving, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("too many connections")
    async with serving(max_connections=2) as client, connected(client.port), connected(client.port) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await read_reply(reader, "GET")).status == 200
        reply = await client.get("/livez")
        assert (reply.status, reply.json["code"]) == (503, "unavailable")
        assert reply.headers["Retry-After"]


async def test_body_of_only_chunk_framing_is_rejected(serving: Serving) -> None:
    head = f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with serving() as client, connected(client.port) as (reader, writer):
        writer.write(head + b"1;" + b"x" * 200_000)
        assert (await read_reply(reader, "PUT")).status == 400


async def test_rejection_reaches_a_client_that_keeps_sending(serving: Serving) -> None:
    async with serving() as client, connected(client.port) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n")
        for _ in range(50):
            writer.write(CHUNK)
        reply = await asyncio.wait_for(read_reply(reader, "GET"), 30)
        assert (reply.status, reply.json["code"]) == (400, "invalid-request")


# Listening sockets


@pytest.mark.parametrize("server", ["httptools", "tornado"])
async def test_unix_socket_replaces_the_port(serving: Serving, tmp_path: Path, server: str) -> None:
    path = tmp_path / "socket"
    for _ in range(2):  # a socket file that was left behind is replaced
        async with serving(server=server, unix_socket=str(path)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await read_reply(reader, "GET")).status == 200
            await hang_up(writer)
        assert not path.exists()


def test_unusable_unix_socket_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "no" / "socket", tmp_path / "file"):
        with pytest.raises(StartError, match=r"^unix_socket: "), open_listeners("", 0, str(path)):
            pass
    assert (tmp_path / "file").exists()


def test_used_unix_socket_stops_the_start_and_stale_one_does_not(tmp_path: Path) -> None:
    path, message = tmp_path / "socket", r"^unix_socket: .*another process listens"
    with open_listeners("", 0, str(path)) as ((live,),):
        for _ in range(3):
            with pytest.raises(StartError, match=message), open_listeners("", 0, str(path)):
                pass
        assert path.is_socket()
        live.listen(0)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.setblocking(False)
            second.setblocking(False)
            for client in (first, second):  # until its backlog is full
                with suppress(BlockingIOError):
                    client.connect(str(path))
            with pytest.raises(StartError, match=message), open_listeners("", 0, str(path)):
                pass
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with open_listeners("", 0, str(path), slots=2) as slots, socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        assert len(slots) == 2
    assert not path.exists()


def test_unix_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(open_listeners("", 0, str(path)))
        path.unlink()  # as when an operator cleans up and starts another service
        second.enter_context(open_listeners("", 0, str(path)))
        first.close()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
        path.unlink()
    assert not path.exists()


# A Tornado application


@asynccontextmanager
async def serving_handler(handler: type[RequestHandler], limits: ConnectionLimits | None = None) -> AsyncIterator[int]:
    """Serve one handler inside the block; yield the port."""
    sockets = bind_sockets(0, "127.0.0.1")
    async with serving_on(sockets, Application([("/", handler)]), ServerHooks(RequestMetrics()), limits=limits):
        yield sockets[0].getsockname()[1]


async def exchange(port: int, request: bytes) -> bytes:
    """Send bytes; return everything that is received until the connection ends."""
    async with connected(port) as (reader, writer):
        writer.write(request)
        return await read_to_end(reader)


async def test_stream_waits_for_its_client_and_ends_with_it() -> None:
    class Endless(RequestHandler):
        written = 0
        gone = asyncio.Event()

        async def get(self) -> None:
            try:
                while True:
                    self.write(CHUNK)
                    await self.flush()
                    Endless.written += len(CHUNK)
            except StreamClosedError:
                Endless.gone.set()

    async with serving_handler(Endless) as port:
        async with connected(port) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readexactly(1000)
            written_before = -1
            while written_before != Endless.written:  # until it stops growing
                written_before = Endless.written
                await asyncio.sleep(0.2)
            assert written_before < 64 * 1024 * 1024
        await asyncio.wait_for(Endless.gone.wait(), 30)


async def test_client_that_reads_nothing_is_disconnected(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("Uncaught exception", "Cannot send error")
    gone = asyncio.Event()

    class Large(RequestHandler):
        async def get(self) -> None:
            self.write(CHUNK * 1000)
            await self.flush()

        def on_connection_close(self) -> None:
            gone.set()

    limits = ConnectionLimits(write_seconds=0.2, connection_unsent_bytes=len(CHUNK) * 1001)
    async with serving_handler(Large, limits) as port, connected(port) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(gone.wait(), 30)


async def test_body_waits_for_its_handler() -> None:
    @stream_request_body
    class Slow(RequestHandler):
        max_waiting = 0
        waiting = 0
        may_continue = asyncio.Event()

        async def data_received(self, chunk: bytes) -> None:
            Slow.waiting += 1
            Slow.max_waiting = max(Slow.max_waiting, Slow.waiting)
            assert len(chunk) <= 65_536
            await Slow.may_continue.wait()
            Slow.waiting -= 1

        def put(self) -> None:
            self.write("done")

    async with serving_handler(Slow) as port, connected(port) as (reader, writer):
        size = 64 * 1024 * 1024
        writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(_send(writer, size))
        await asyncio.wait([sending], timeout=0.5)
        assert not sending.done()  # back-pressure: nothing more is read while the handler waits
        Slow.may_continue.set()
        assert (await asyncio.wait_for(read_reply(reader, "PUT"), 30)).body == b"done"
        await sending
        assert Slow.max_waiting == 1


async def _send(writer: asyncio.StreamWriter, size: int) -> None:
    for _ in range(size // len(CHUNK)):
        writer.write(CHUNK)
        await writer.drain()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (b"1.1", rb"HTTP/1.1 200 OK\r\n.*Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
        (b"1.0", rb"HTTP/1.1 200 OK\r\n.*Connection: close\r\n\r\nab"),
    ],
)
async def test_response_of_unknown_length_ends_as_its_version_requires(version: bytes, expected: bytes) -> None:
    class Parts(RequestHandler):
        async def get(self) -> None:
            for part in "ab":
                self.write(part)
                await self.flush()

    head = b"GET / HTTP/%b\r\nHost: a\r\nConnection: %b\r\n\r\n" % (
        version,
        b"close" if version == b"1.1" else b"keep-alive",
    )
    async with serving_handler(Parts) as port:
        received = (await exchange(port, head)).replace(b"Connection: close\r\n\r\n1", b"\r\n1")
        assert re.search(rb"\r\n(a|ab|1\r\na)", received)
        assert re.fullmatch(
            expected.replace(rb"chunked\r\n\r\n", rb"chunked\r\n(?:Connection: close)?\r\n"), received, re.DOTALL
        )


@pytest.mark.parametrize("length", [1, 3])
async def test_response_of_wrong_length_is_broken_off(length: int, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("Uncaught exception", "Content-Length", "Cannot send error", "Failed to flush", "Exception in")

    class Wrong(RequestHandler):
        async def get(self) -> None:
            self.set_header("Content-Length", length)
            self.write("a")
            await self.flush()
            self.write("b")

    async with serving_handler(Wrong) as port:
        received = await exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert received.count(b"HTTP/1.1") == 1


async def test_expect_is_answered_when_the_handler_is_ready() -> None:
    class Echo(RequestHandler):
        def put(self) -> None:
            self.write(self.request.body)

    async with serving_handler(Echo) as port, connected(port) as (reader, writer):
        writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await read_reply(reader, "PUT")).body == b"{}"


@pytest.mark.parametrize("respond", [lambda handler: handler.set_status(403), lambda handler: handler.send_error(403)])
async def test_response_before_the_body_ends_the_connection(
    respond: Callable[[RequestHandler], None], expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("403")

    @stream_request_body
    class Rejecting(RequestHandler):
        def prepare(self) -> None:
            respond(self)
            if not self._finished:
                self.finish()

        def data_received(self, chunk: bytes) -> None:
            raise AssertionError(chunk)

    async with serving_handler(Rejecting) as port:
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        received = await exchange(port, head + b"x" * 1_000_000 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 403")
        assert received.count(b"HTTP/1.1") == 1


class Faulty(Application):
    """An application that fails at one of the steps of receiving a request."""

    def __init__(self, step: str) -> None:
        super().__init__([("/", RequestHandler)])
        self._step = step

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        delegate = super().start_request(server_conn, request_conn)
        if self._step == "start_request":
            raise ImportError("too many open files")

        def fail(*_: object) -> None:
            raise ImportError("too many open files")

        setattr(delegate, self._step, fail)
        return delegate


@pytest.mark.parametrize(
    ("step", "method"),
    [(step, method) for step in ("start_request", "headers_received", "finish") for method in ("GET", "PUT")]
    + [("data_received", "PUT")],
)
async def test_fault_at_the_start_of_a_request_is_answered_and_logged(
    step: str, method: str, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    if method == "PUT":
        request = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
    expected_logs.add("fault of the service")
    sockets = bind_sockets(0, "127.0.0.1")
    async with serving_on(sockets, Faulty(step), ServerHooks(RequestMetrics())) as running:
        for count in (1, 2):  # a second request is not read
            received = await asyncio.wait_for(exchange(sockets[0].getsockname()[1], request * count), 30)
            assert received.startswith(b"HTTP/1.1 500 ")
            assert received.count(b"HTTP/1.1 ") == 1
            assert b"Connection: close" in received
            assert b'"code":"internal"' in received
        assert "too many open files" in caplog.text
        while running.connections():
            await asyncio.sleep(0.01)


# Attacks


async def test_response_is_not_made_before_earlier_ones_are_read(serving: Serving) -> None:
    request = f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    async with serving(access_log=True) as client:
        await client.put(PATH, {"user": USER, "metadata": {"a": "x" * 16_000}})
        resident = _resident()
        async with AsyncExitStack() as stack:
            for _ in range(10):
                _, writer = await stack.enter_async_context(connected(client.port))
                writer.write(request * 3800)
            grown = -1.0
            while _resident() - resident > grown:  # until it stops growing
                grown = _resident() - resident
                for _ in range(20):
                    await asyncio.sleep(0.02)
                    assert (await client.get("/livez")).status == 200
            assert grown < 100  # 300 if all responses were rendered at once


@pytest.mark.parametrize("end", [b"BAD\r\n\r\n", b""])
async def test_pipelined_requests_are_answered_in_order_before_errors(serving: Serving, end: bytes) -> None:
    async with serving() as client, connected(client.port) as (reader, writer):
        await client.put(PATH, {"user": USER, "metadata": {"a": "x" * 16_000}})
        for number in range(600):
            writer.write(f"GET {PATH} HTTP/1.1\r\nHost: a\r\nX-Request-Id: {number}\r\n\r\n".encode())
        writer.write(end)
        if not end:
            writer.write_eof()
        await asyncio.sleep(0.3)  # until the socket buffers are full
        for number in range(600):
            reply = await asyncio.wait_for(read_reply(reader, "GET"), 30)
            assert (reply.status, reply.headers["X-Request-Id"]) == (200, str(number))
        if end:
            assert (await asyncio.wait_for(read_reply(reader, "GET"), 30)).status == 400
        assert await read_to_end(reader) == b""


def _resident() -> float:
    """Return the resident memory of this process in MiB."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


async def test_slow_reader_gets_the_whole_response() -> None:
    class Large(RequestHandler):
        async def get(self) -> None:
            self.write(CHUNK * 400)

    async with serving_handler(Large, ConnectionLimits(write_seconds=0.6)) as port, connected(port) as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received_bytes = 0
        while part := await reader.read(65_536):
            received_bytes += len(part)
            await asyncio.sleep(0.005)  # in total longer than the time limit without progress
        assert received_bytes > len(CHUNK) * 400


async def test_failed_tls_handshakes_count_and_end(
    serving: Serving, certificate: Certificate, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("too many connections")
    context = certificate.trusting()
    async with (
        serving(max_connections=3, head_timeout=2, **certificate.settings) as client,
        AsyncExitStack() as stack,
    ):
        silent = [await stack.enter_async_context(connected(client.port)) for _ in range(3)]
        assert await status_over_tls(client.port, context) == 503
        for reader, _ in silent:
            await read_to_end(reader)
        await until_served_over_tls(client.port, context)


async def status_over_tls(port: int, context: ssl.SSLContext) -> int:
    """Send one request; return its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    status = (await read_reply(reader, "GET")).status
    await hang_up(writer)
    return status


async def until_served_over_tls(port: int, context: ssl.SSLContext) -> None:
    """Send requests until a connection is accepted."""
    status = 0
    async with asyncio.timeout(30):
        while status != 200:
            with suppress(OSError, asyncio.IncompleteReadError):
                status = await status_over_tls(port, context)


async def test_failed_tls_handshake_counts_only_while_it_lasts(
    serving: Serving, certificate: Certificate, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("too many connections", "SSL Error")
    context = certificate.trusting()
    async with serving(max_connections=5, head_timeout=600, **certificate.settings) as client:
        for number in range(20):
            async with connected(client.port) as (_, writer):
                if number % 2:
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")  # not TLS
                    await writer.drain()
        await until_served_over_tls(client.port, context)


@pytest.mark.parametrize("headers", ["Expect: 100-continue\r\nContent-Length: 99999", "Content-Length: 99999999"])
async def test_response_before_the_body_announces_the_close(serving: Serving, headers: str) -> None:
    async with serving() as client, connected(client.port) as (reader, writer):
        writer.write(f"PUT {PATH} HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n".encode())
        reply = await read_reply(reader, "PUT")
        assert (reply.status, reply.headers["Connection"]) == (413, "close")


async def test_lines_of_a_disconnected_client_are_not_executed(serving: Serving) -> None:
    head = b"POST /guid:batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
    lines = b'{"user": "a"}\n' * 20_000
    async with serving() as client:
        async with connected(client.port) as (_, writer):
            writer.write(head % (len(lines) + 1) + lines)
            while not await _total(client):
                await asyncio.sleep(0.01)
        assert (await client.get("/livez")).status == 200
        executed = -1
        while executed != (executed := await _total(client)):  # until no more lines are executed
            await asyncio.sleep(0.3)
        assert executed < 3_000


async def _total(client: Client) -> int:
    reply = await client.get("/guid?limit=1", headers={"Prefer": "return=total-count"})
    total: int = reply.json["total"]
    return total


async def test_disconnect_after_the_last_line_is_no_fault(serving: Serving) -> None:
    head = b"POST /guid:batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
    lines = b'{"user": "a"}\n' * 120  # executed when the last line arrives
    async with serving() as client:

        async def leave(seconds: float) -> None:
            async with connected(client.port) as (_, writer):
                writer.write(head % len(lines) + lines)
                await asyncio.sleep(seconds)
                await reset(writer)

        await asyncio.gather(*(leave(number / 500) for number in range(60)))
        assert (await client.get("/livez")).status == 200


async def test_completed_response_is_sent_during_shutdown(serving: Serving) -> None:
    async with AsyncExitStack() as stack:
        async with serving(grace=20) as client:
            body = {"user": USER, "metadata": {"a": "x" * 16_000}}
            for _ in range(500):
                await client.post("/guid", body)
            reader, writer = await stack.enter_async_context(connected(client.port))
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            writer.write(b"GET /guid?limit=500 HTTP/1.1\r\nHost: a\r\n\r\n")
            response_head = await reader.readuntil(b"\r\n\r\n")
            slow = asyncio.create_task(_read_slowly(reader))
        length = re.search(rb"Content-Length: (\d+)", response_head)
        assert length is not None
        assert await slow == int(length[1])


async def _read_slowly(reader: asyncio.StreamReader) -> int:
    """Read at a few MB a second; return the number of bytes."""
    received_bytes = 0
    while part := await reader.read(65_536):
        received_bytes += len(part)
        await asyncio.sleep(0.05)
    return received_bytes
