"""Tornado's HTTP server, an alternative to `guidsvc.server.server`: much slower, but widely known."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from socket import socket
from ssl import SSLContext, SSLError
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.web import Application

from guidsvc.http.client_address import network_of
from guidsvc.http.headers.connection import has_close
from guidsvc.http.headers.recognized import MAX_HEADERS
from guidsvc.runtime.background import in_thread, running_in_background
from guidsvc.runtime.memory import release
from guidsvc.server.abort import has_open_response, is_lingering, is_open_ended
from guidsvc.server.accepting.connection_limit import ConnectionLimitLog
from guidsvc.server.accepting.rejection import dismiss
from guidsvc.server.client_networks import address_of
from guidsvc.server.protocol.request import TLS_START, other_protocol, without_query
from guidsvc.server.protocol.send_buffer import SendBudget, SendRate, reset_on_close
from guidsvc.server.protocol.state import ApplicationHooks, ConnectionLimits
from guidsvc.server.server import CLOSE_SECONDS, LAME_SECONDS, LATE_READ_SECONDS, RETIRING_TICK_SECONDS
from guidsvc.server.ticks import TICK_SECONDS, Ticks, ticks_between_scans
from guidsvc.server.tls import log_failed_handshake
from guidsvc.server.tornado_log import OtherProtocolError, client_lines_replaced

BARE_REFUSAL = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""What Tornado sends if it cannot read a request."""
SMALL_BODY_BYTES = 64 * 1024
"""Maximum size of a body of which the rest is read after an early response, so that the connection stays open."""


class TornadoServer(HTTPServer):
    """Tornado's server. On shutdown, all connections have the same time, however long they have been idle."""

    def set_limits(self, limits: ConnectionLimits, hooks: ApplicationHooks) -> None:
        """Set the client limits that Tornado does not implement."""
        self._limits = limits
        self._hooks = hooks
        self._budget = SendBudget(limits.unsent_bytes, limits.connection_unsent_bytes)
        self._limit_log = ConnectionLimitLog()
        self._clients: dict[IOStream, _Client] = {}
        self._ticks = Ticks()
        # Tornado's own timeout makes two futures and a timer for each request. See `keep_time`.
        self.conn_params.header_timeout = None

    def connections(self) -> int:
        return len(self._connections)

    def connections_limit(self) -> int:
        return self._limits.connections

    def _handle_connection(self, connection: socket, address: Any) -> None:
        """Set up a new connection, or reject it if it is over the limit.

        Over the limit it is closed at once, so that it holds no descriptor. It is also closed if the client has already
        reset it, which Tornado reports as a fault.
        """
        if len(self._connections) >= self._limits.connections:
            is_secure = self.ssl_options is not None  # it may never complete the handshake
            response = self._hooks.reject_connection(secure=is_secure)
            self._limit_log.log_rejection(len(self._connections), self._limits.connections)
            dismiss(connection, b"" if is_secure else response)
            return
        try:
            super()._handle_connection(connection, address)
        except SSLError as error:
            connection.close()
            log_failed_handshake(address_of(address), error)

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a new connection."""
        network = network_of(address_of(address))
        self._clients[stream] = _Client(stream, self._budget, network, self._hooks.cors_lines)
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Begin a request, before its head is read; record its connection, which knows the state of the response."""
        delegate = super().start_request(server_conn, request_conn)
        client = self._clients.get(request_conn.stream)  # type: ignore[attr-defined]  # it is an HTTP1Connection
        if client is not None:  # else its connection has ended
            client.connection = request_conn
            client.waits_since = self._ticks.now
        return _BoundedHead(delegate, client, request_conn)

    async def drain_connections(self) -> None:
        """Wait until all connections are closed, or no response has been in progress for LAME_SECONDS."""
        timer = asyncio.get_running_loop().time
        deadline = timer() + LAME_SECONDS
        while self._connections and timer() < deadline:
            if any(client.is_responding for client in self._clients.values()):
                deadline = timer() + LAME_SECONDS
            ticks = ticks_between_scans(len(self._clients), RETIRING_TICK_SECONDS)
            await asyncio.sleep(ticks * RETIRING_TICK_SECONDS)

    async def keep_time(self) -> None:
        """Close idle connections, and reset those of clients that read too slowly."""
        ticks, limits = self._ticks, self._limits
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = ticks.advance()
            await self._close_idle(now - limits.idle_seconds - TICK_SECONDS)
            for stream, client in list(self._clients.items()):
                client.measure()
                if stream.closed():
                    self._clients.pop(stream).end()
                elif client.rate.is_too_slow(now, limits.write_seconds, limits.write_bytes_per_second):
                    client.reset()
            if self._budget.should_release(now):
                await in_thread(release)

    async def _close_idle(self, since: float) -> None:
        """Close the connections that have waited for a request since this tick. First read what has arrived."""
        idle = [(stream, client) for stream, client in self._clients.items() if client.has_waited(since)]
        if idle:
            await asyncio.sleep(LATE_READ_SECONDS)
        for stream, client in idle:
            if client.has_waited(since):
                stream.close()

    async def close_all_connections(self) -> None:
        """Close the connections; with a reset where a regular close would look like the end of a response."""
        for client in self._clients.values():
            if client.is_incomplete:
                client.reset()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._is_lingering():
                    ticks = ticks_between_scans(len(self._clients), RETIRING_TICK_SECONDS)
                    await asyncio.sleep(ticks * RETIRING_TICK_SECONDS)
        await super().close_all_connections()

    def _is_lingering(self) -> bool:
        return any(is_lingering(client.connection) for client in self._clients.values())


class _Client:
    """The client of a Tornado stream, and its unsent bytes, which Tornado does not report."""

    def __init__(
        self, stream: IOStream, budget: SendBudget, network: str, cors_lines: Callable[[str | None], str]
    ) -> None:
        self._stream = stream
        self._cors_lines = cors_lines
        self.network = network
        self._budget = budget
        self._written_bytes = 0
        self.rate = SendRate()
        self.connection: HTTPConnection | None = None
        """The connection of the latest request."""
        self.waits_since: float | None = None
        """The last tick before it began to wait for the head of a request; None once it has one."""
        self._write = stream.write
        stream.write = self._measured_write  # type: ignore[method-assign]  # called for each part of a response
        stream.read_until_regex = self._read_first_head  # type: ignore[method-assign]
        stream.set_nodelay(True)
        stream.set_nodelay = _ignore_nodelay  # type: ignore[assignment, method-assign]

    def end(self) -> None:
        """Restore the stream's methods, which breaks a reference cycle."""
        del self._stream.write, self._stream.set_nodelay
        self._restore_reading()

    async def _read_first_head(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Read the head of the first request. Raise OtherProtocolError if it is not HTTP/1.1.

        The first bytes of TLS need no end: Tornado would wait for it until the connection times out.
        """
        self._restore_reading()
        head = await self._stream.read_until_regex(rb"\A" + TLS_START + b"|" + regex, max_bytes)
        error = other_protocol(head)
        if error is not None:
            raise OtherProtocolError(error)
        return head

    def _restore_reading(self) -> None:
        vars(self._stream).pop("read_until_regex", None)

    def _measured_write(self, data: bytes | memoryview) -> "asyncio.Future[None]":
        if data == BARE_REFUSAL:
            data = self._readable_refusal()
        future = self._write(data)
        self.measure()
        return future

    def _readable_refusal(self) -> bytes:
        """Return the bare 400 of Tornado as pages of allowed origins may read it, if their Origin was read.

        Return nothing if the request has a response already.
        """
        connection: Any = self.connection  # an HTTP1Connection
        if connection is not None and connection._response_start_line is not None:  # noqa: SLF001
            return b""
        headers = None if connection is None else connection._request_headers  # noqa: SLF001  # None without a head
        lines = self._cors_lines(None if headers is None else headers.get("Origin"))
        return BARE_REFUSAL[:-2] + lines.encode("latin-1") + b"Connection: close\r\n\r\n"

    @property
    def is_responding(self) -> bool:
        """Whether the application has begun a response and not finished it."""
        return not self._stream.closed() and has_open_response(self.connection)

    @property
    def is_incomplete(self) -> bool:
        """Whether a response is incomplete, in a way that the client may not notice."""
        return not self._stream.closed() and (self._stream.writing() or is_open_ended(self.connection))

    def measure(self) -> None:
        """Record the unsent bytes."""
        written = self._stream._total_write_index  # noqa: SLF001
        added, self._written_bytes = written - self._written_bytes, written
        unsent = 0 if self._stream.closed() else len(self._stream._write_buffer)  # noqa: SLF001
        self._budget.written_bytes += added
        self.rate.measure(unsent, added)
        self._budget.note(self, self.rate.retained_bytes)

    def has_waited(self, since: float) -> bool:
        """Whether the client has sent no complete head of a request since this tick."""
        return self.waits_since is not None and self.waits_since <= since

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        if not self._stream.closed():
            reset_on_close(self._stream.socket)
            self._stream.close()


def _ignore_nodelay(*_: object) -> None:
    """Leave TCP_NODELAY set. Tornado would set and clear it for each request."""


class _BoundedHead(HTTPMessageDelegate):
    """A request whose headers are bounded in number, and are read as the RFCs say where Tornado does not.

    An early response, before the end of the request, says whether its connection closes. Tornado closes it, and does
    not say so: a proxy would send the next request on it.
    """

    def __init__(self, delegate: HTTPMessageDelegate, client: "_Client | None", connection: HTTPConnection) -> None:
        self._delegate = delegate
        self._client = client
        self._connection: Any = connection  # an HTTP1Connection
        self._closes_if_early = False
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # saves a call for each part
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if self._client is not None:
            self._client.waits_since = None
        if sum(1 for _ in headers.get_all()) > MAX_HEADERS:
            raise HTTPInputError(f"more than {MAX_HEADERS} headers")
        is_old = start_line.version == "HTTP/1.0"
        if is_old:
            headers.pop("Expect", None)  # RFC 9110, 10.1.1: such a client does not know 100 (Continue)
        elif start_line.version != "HTTP/1.1":  # a later minor version (RFC 9110, 2.5); Tornado would close
            start_line = start_line._replace(version="HTTP/1.1")
            self._connection._request_start_line = start_line  # noqa: SLF001  # see `finish`
            self._connection._disconnect_on_finish = False  # noqa: SLF001
        is_last = "Connection" in headers and has_close(headers["Connection"])
        if isinstance(start_line, RequestStartLine):
            is_last |= start_line.method == "CONNECT"
        self._decide_end(headers, is_last=is_last, is_old=is_old)
        if isinstance(start_line, RequestStartLine) and start_line.method == "OPTIONS":
            start_line = start_line._replace(path=without_query(start_line.path))
        return self._delegate.headers_received(start_line, headers)

    def _decide_end(self, headers: HTTPHeaders, *, is_last: bool, is_old: bool) -> None:
        """Decide whether the connection closes: after every response, after one that is early, or after none."""
        connection = self._connection
        if is_last:
            connection._disconnect_on_finish = True  # noqa: SLF001  # Tornado compares the whole value with `close`
        if not connection._disconnect_on_finish:  # noqa: SLF001
            if _has_small_body(headers):
                connection._read_finished = True  # noqa: SLF001  # Tornado reads the rest all the same
            else:
                connection._disconnect_on_finish = True  # noqa: SLF001  # then the head of a response says so
                self._closes_if_early = not is_old
        if is_old and connection._disconnect_on_finish:  # noqa: SLF001
            headers.pop("Connection", None)  # else Tornado would respond with Keep-Alive

    def finish(self) -> None:
        """Pass on that the request is complete: a response that has not begun yet is not early."""
        connection = self._connection
        if self._closes_if_early and connection._response_start_line is None:  # noqa: SLF001  # Tornado has no public attribute
            connection._disconnect_on_finish = False  # noqa: SLF001
        self._delegate.finish()


def _has_small_body(headers: HTTPHeaders) -> bool:
    """Whether a request has no body, or a small one that its client sends whatever the response is."""
    if "Content-Length" not in headers:
        return "Transfer-Encoding" not in headers
    length = headers["Content-Length"]
    if "Transfer-Encoding" in headers or not (length.isascii() and length.isdecimal()):
        return False
    size = length.lstrip("0")
    if len(size) > len(str(SMALL_BODY_BYTES)) or int(size or 0) > SMALL_BODY_BYTES:
        return False
    return not size or "Expect" not in headers  # else it may send no body (RFC 9110, 10.1.1)


@asynccontextmanager
async def serving_by_tornado(
    sockets: list[socket],
    app: Application,
    hooks: ApplicationHooks,
    *,
    limits: ConnectionLimits,
    tls: SSLContext | None,
) -> AsyncIterator[TornadoServer]:
    """Serve an application on these sockets inside the block, within the limits that Tornado can enforce."""
    server = TornadoServer(
        app,
        ssl_options=tls,
        max_header_size=limits.head_bytes,
        max_body_size=2**60,  # handlers check the size of a body: Tornado would close without a response
        body_timeout=limits.body_seconds,
    )
    server.set_limits(limits, hooks)
    server.add_sockets(sockets)
    try:
        with client_lines_replaced(hooks):
            async with running_in_background(server.keep_time):
                yield server
    finally:
        await server.close_all_connections()
