"""Tornado's HTTP server, an alternative to `guidsvc.server.server`: much slower, but widely known."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from socket import socket
from ssl import SSLContext, SSLError
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import IOStream
from tornado.web import Application

from guidsvc.http.client_address import network_of
from guidsvc.runtime.background import in_thread, running_in_background
from guidsvc.runtime.memory import release
from guidsvc.server.abort import is_lingering
from guidsvc.server.accepting.connection_limit import ConnectionLimitLog
from guidsvc.server.accepting.rejection import dismiss
from guidsvc.server.client_networks import address_of
from guidsvc.server.protocol.send_buffer import SendBudget
from guidsvc.server.protocol.state import ApplicationHooks, ConnectionLimits
from guidsvc.server.server import CLOSE_SECONDS, LAME_SECONDS, LATE_READ_SECONDS, RETIRING_TICK_SECONDS
from guidsvc.server.ticks import TICK_SECONDS, Ticks, ticks_between_scans
from guidsvc.server.tls import log_failed_handshake
from guidsvc.server.tornado_adapter.client import TornadoClient
from guidsvc.server.tornado_adapter.request_head import BoundedHead
from guidsvc.server.tornado_log import client_lines_replaced


class TornadoServer(HTTPServer):
    """Tornado's server. On shutdown, all connections have the same time, however long they have been idle."""

    def set_limits(self, limits: ConnectionLimits, hooks: ApplicationHooks) -> None:
        """Set the client limits that Tornado does not implement."""
        self._limits = limits
        self._hooks = hooks
        self._budget = SendBudget(limits.unsent_bytes, limits.connection_unsent_bytes)
        self._limit_log = ConnectionLimitLog()
        self._clients: dict[IOStream, TornadoClient] = {}
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
        self._clients[stream] = TornadoClient(stream, self._budget, network, self._hooks.cors_lines)
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Begin a request, before its head is read; record its connection, which knows the state of the response."""
        delegate = super().start_request(server_conn, request_conn)
        client = self._clients.get(request_conn.stream)  # type: ignore[attr-defined]  # it is an HTTP1Connection
        if client is not None:  # else its connection has ended
            client.connection = request_conn
            client.wait_for_head(self._ticks.now)
        return BoundedHead(delegate, client, request_conn)

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
            await self._close_idle(now)
            for stream, client in list(self._clients.items()):
                client.measure()
                if stream.closed():
                    self._clients.pop(stream).end()
                elif client.rate.is_too_slow(now, limits.write_seconds, limits.write_bytes_per_second):
                    client.reset()
            if self._budget.should_release(now):
                await in_thread(release)

    async def _close_idle(self, now: float) -> None:
        """Close the connections that wait for a request, or the rest of its head, for too long.

        First read what has arrived.
        """
        limits = self._limits
        for client in self._clients.values():
            client.note_head(now)
        idle = [(stream, client) for stream, client in self._clients.items() if client.is_overdue(now, limits)]
        if idle:
            await asyncio.sleep(LATE_READ_SECONDS)
        for stream, client in idle:
            client.note_head(now)
            if client.is_overdue(now, limits):
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
