"""The HTTP server: accepts connections, closes timed-out ones, and drains them on shutdown."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from socket import socket

import tornado.platform.asyncio  # noqa: F401  # Tornado would import it in the first request, if a file can be opened then
from tornado.httputil import HTTPServerConnectionDelegate

from guidsvc.runtime.background import in_thread, running_in_background
from guidsvc.runtime.memory import release
from guidsvc.server.accepting.connection_limit import ConnectionLimit
from guidsvc.server.accepting.descriptors import Descriptors
from guidsvc.server.accepting.rejection import MAX_TLS_REJECTIONS, RejectedConnection, Rejections
from guidsvc.server.client_networks import ManagedConnection
from guidsvc.server.listener import Listener, Tls
from guidsvc.server.protocol.connection import Connection
from guidsvc.server.protocol.state import (
    ApplicationHooks,
    ConnectionLimits,
    FastPath,
    ServerState,
)
from guidsvc.server.ticks import TICK_SECONDS, Ticks, ticks_between_scans

LATE_READ_SECONDS = 0.02
"""Before timed-out connections are closed, data that has arrived meanwhile is read for this long."""
LAME_SECONDS = 1.0
"""On shutdown, recently active connections stay open this long: the client can send one more request and receive
`Connection: close`."""
RETIRING_TICK_SECONDS = 0.02
"""Interval, during shutdown, between scans for connections that can be closed; longer if there are many."""
CLOSING_TICK_SECONDS = 0.01
"""Interval, at the end of a shutdown, between scans for clients that take nothing; longer if there are many."""
CLOSE_SECONDS = 2.0
"""On shutdown, time for sent responses to reach their clients."""


@asynccontextmanager
async def serving_on(
    sockets: Sequence[socket],
    app: HTTPServerConnectionDelegate,
    hooks: ApplicationHooks,
    *,
    limits: ConnectionLimits | None = None,
    fast_path: FastPath | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator["Server"]:
    """Serve on these sockets inside the block; on exit, close every connection."""
    server = Server(app, hooks, limits or ConnectionLimits(), fast_path)
    try:
        server.listen(sockets, tls)
        async with running_in_background(server.keep_time):
            yield server
    finally:
        server.stop()
        await server.close_all_connections()


class Server:
    """The server's listeners and connections."""

    def __init__(
        self,
        app: HTTPServerConnectionDelegate,
        hooks: ApplicationHooks,
        limits: ConnectionLimits,
        fast_path: FastPath | None,
    ) -> None:
        self._state = ServerState(app, hooks, limits, fast_path)
        self._table = self._state.table
        self._listeners: list[Listener] = []
        self._ticks = Ticks()
        spare = limits.spare_connections
        self._descriptors = Descriptors(limits.connections + spare)
        self._limit = ConnectionLimit(self._table, limits.connections, max(1, spare // 2), self._cancel)
        self._rejections = Rejections(hooks, min(MAX_TLS_REJECTIONS, max(1, spare // 4)))

    def listen(self, sockets: Sequence[socket], context: ssl.SSLContext | None) -> None:
        """Accept connections on these sockets, which must be listening already."""
        tls = None if context is None else Tls(context, self._state.limits.head_seconds)
        make_protocol = self._connection if tls is None else self._secure_connection
        self._listeners += [
            Listener(each, make_protocol, self._end_setup, tls=tls, descriptors=self._descriptors) for each in sockets
        ]

    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._table.connections)

    def connections_limit(self) -> int:
        """Return the maximum number of open connections."""
        return self._state.limits.connections

    def stop(self) -> None:
        """Stop accepting connections; open ones continue."""
        for listener in self._listeners:
            listener.close()

    async def drain_connections(self) -> None:
        """Wait until no connection has work left.

        A connection with a request is answered, then closed. One that stays idle for LAME_SECONDS is closed.
        """
        start = self._advance()
        while self._has_work_left(start):
            await self._pause(RETIRING_TICK_SECONDS)

    def _has_work_left(self, start: float) -> bool:
        """Close connections that have been idle for LAME_SECONDS; return whether others are left."""
        table = self._table
        now = self._advance()
        cutoff = now - LAME_SECONDS
        # Idle times may start a tick early
        idle_before = cutoff if cutoff >= start else start - LAME_SECONDS - TICK_SECONDS
        busy = [each for each in list(table.connections) if table.manage(each, lambda each: each.retire(idle_before))]
        return bool(busy) or any(max(since, start) > cutoff for since in table.connecting.values())

    async def close_all_connections(self) -> None:
        """Close the connections once pending data is sent; abort them after CLOSE_SECONDS, or if they are stuck."""
        for connection in list(self._table.connections):
            self._table.manage(connection, lambda each: each.shut_down())
        for connection in list(self._table.connecting):
            self._table.end(connection)
        for listener in self._listeners:
            listener.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._wait_until_closed()
        for connection in list(self._table.connections):
            self._table.manage(connection, lambda each: each.abort())

    async def _wait_until_closed(self) -> None:
        """Wait until all connections are closed; abort those that are stuck."""
        while self._is_closing():
            self._advance()
            for connection in list(self._table.connections):
                self._table.manage(connection, lambda each: each.abort() if each.is_stuck() else None)
            await self._pause(CLOSING_TICK_SECONDS)

    async def _pause(self, tick_seconds: float) -> None:
        """Wait until the next scan, which is later if there are many connections; or until all are closed."""
        for _ in range(ticks_between_scans(len(self._table), tick_seconds)):
            await asyncio.sleep(tick_seconds)
            if not self._is_closing():
                return

    def _is_closing(self) -> bool:
        return bool(self._table.connections) or any(listener.is_setting_up for listener in self._listeners)

    async def keep_time(self) -> None:
        """Close timed-out connections, every TICK_SECONDS."""
        table = self._table
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._advance()
            for each in list(table.paused_connections):
                table.manage(each, lambda each: each.check_paused())  # the client may have disconnected meanwhile
            idle_before = now - self._state.limits.head_seconds - TICK_SECONDS
            for each in [each for each, since in table.connecting.items() if since <= idle_before]:
                self._cancel(each)
            overdue = [each for each in list(table.connections) if self._is_overdue(each, now)]
            if overdue:
                await asyncio.sleep(LATE_READ_SECONDS)
            for each in overdue:
                if each in table.connections and self._is_overdue(each, now):
                    table.manage(each, lambda each: each.expire())
            if self._state.budget.should_release(now):
                await in_thread(release)

    def _is_overdue(self, connection: ManagedConnection, now: float) -> bool:
        return bool(self._table.manage(connection, lambda each: each.is_overdue(now)))

    def _advance(self) -> float:
        self._state.tick = self._ticks.advance()
        return self._state.tick

    def _connection(self, address: str) -> Connection | bytes:
        """Return the protocol of a new connection, or the response of its rejection."""
        return self._admit(address) or self._rejections.reject()

    def _secure_connection(self, address: str) -> asyncio.Protocol | bytes:
        """Return the protocol of a new connection, to be connected after its TLS handshake, or b"" to close it."""
        return self._admit(address) or self._rejections.reject_secure()

    def _admit(self, address: str) -> Connection | None:
        state = self._state
        network = self._table.networks.find(address)
        if not self._limit.admit(network, state.tick):
            return None
        connection = Connection(state, network)
        self._table.begin(connection, state.tick)
        return connection

    def _cancel(self, connection: ManagedConnection) -> None:
        """End a connection that is not set up yet."""
        self._table.end(connection)
        for listener in self._listeners:
            listener.cancel(connection)  # only one of them has accepted it

    def _end_setup(self, protocol: object) -> None:
        """Drop a connection that was not set up, for example because its TLS handshake failed."""
        if isinstance(protocol, RejectedConnection):
            self._rejections.end(protocol)
        elif isinstance(protocol, Connection) and protocol in self._table.connecting:
            self._table.end(protocol)
