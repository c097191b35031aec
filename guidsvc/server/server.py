"""The HTTP server: accepts connections, closes timed-out ones, and drains them on shutdown."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from socket import socket

import structlog
import tornado.platform.asyncio  # noqa: F401  # Tornado would import it in the first request, if a file can be opened then
from tornado.httputil import HTTPServerConnectionDelegate

from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.memory import release
from guidsvc.server.client_networks import ClientNetwork, ManagedConnection
from guidsvc.server.listener import Listener, Tls
from guidsvc.server.protocol.connection import Connection
from guidsvc.server.protocol.state import (
    ApplicationHooks,
    ConnectionLimits,
    FastPath,
    Peer,
    ServerState,
)
from guidsvc.server.ticks import TICK_SECONDS, Ticks

LATE_READ_SECONDS = 0.02
"""Before timed-out connections are closed, data that has arrived meanwhile is read for this long."""
LAME_SECONDS = 1.0
"""On shutdown, recently active connections stay open this long: the client can send one more request and receive
`Connection: close`."""
RETIRING_TICK_SECONDS = 0.02
"""Interval, during shutdown, between scans for connections that can be closed."""
LIMIT_LOG_SECONDS = 10.0
"""Minimum interval between log lines about too many connections."""
MAX_TLS_REJECTIONS = 8
"""Maximum TLS connections over the limit that complete a handshake to read the rejection; others are closed at once."""
CLOSE_SECONDS = 2.0
"""On shutdown, time for sent responses to reach their clients."""

_log = structlog.get_logger(__name__)


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
        self._rejected: set[_RejectedConnection] = set()
        self._limit_log = ConnectionLimitLog()
        self._ticks = Ticks()
        self._victims: list[ManagedConnection] = []
        self._victims_tick = -inf  # the tick at which they were chosen

    def listen(self, sockets: Sequence[socket], context: ssl.SSLContext | None) -> None:
        """Accept connections on these sockets, which must be listening already."""
        tls = None if context is None else Tls(context, self._state.limits.head_seconds)
        make_protocol = self._connection if tls is None else self._secure_connection
        self._listeners += [Listener(each, make_protocol, self._forget, tls=tls) for each in sockets]

    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._table.connections)

    def stop(self) -> None:
        """Stop accepting connections; open ones continue."""
        for listener in self._listeners:
            listener.close()

    async def drain_connections(self) -> None:
        """Wait until no connection has work left.

        A connection with a request is answered, then closed. One that stays idle for LAME_SECONDS is closed.
        """
        start = self._advance()
        while self._has_work_left(start):  # noqa: ASYNC110  # waits for time to pass
            await asyncio.sleep(RETIRING_TICK_SECONDS)

    def _has_work_left(self, start: float) -> bool:
        """Close connections that have been idle for LAME_SECONDS; return whether others are left."""
        table = self._table
        now = self._advance()
        cutoff = now - LAME_SECONDS
        # Idle times may start a tick early
        idle_before = cutoff if cutoff >= start else start - LAME_SECONDS - TICK_SECONDS
        busy = [each for each in list(table.connections) if self._manage(each, lambda each: each.retire(idle_before))]
        return bool(busy) or any(max(since, start) > cutoff for since in table.connecting.values())

    async def close_all_connections(self) -> None:
        """Close the connections once pending data is sent; abort them after CLOSE_SECONDS."""
        for connection in list(self._table.connections):
            self._manage(connection, lambda each: each.close())
        for connection in list(self._table.connecting):
            self._table.end(connection)
        for listener in self._listeners:
            listener.abort()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_SECONDS
        while self._is_closing() and loop.time() < deadline:  # noqa: ASYNC110  # polling is cheaper than an event per connection
            await asyncio.sleep(0.01)
        for connection in list(self._table.connections):
            self._manage(connection, lambda each: each.abort())

    def _is_closing(self) -> bool:
        return bool(self._table.connections) or any(listener.is_setting_up for listener in self._listeners)

    async def keep_time(self) -> None:
        """Close timed-out connections, every TICK_SECONDS."""
        table = self._table
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._advance()
            for each in list(table.paused_connections):
                self._manage(each, lambda each: each.regulate())  # the client may have disconnected meanwhile
            idle_before = now - self._state.limits.head_seconds - TICK_SECONDS
            for each in [each for each, since in table.connecting.items() if since <= idle_before]:
                self._cancel(each)
            overdue = [each for each in list(table.connections) if self._is_overdue(each, now)]
            if overdue:
                await asyncio.sleep(LATE_READ_SECONDS)
            for each in overdue:
                if each in table.connections and self._is_overdue(each, now):
                    self._manage(each, lambda each: each.expire())
            if self._state.budget.should_release(now):
                await asyncio.to_thread(release)

    def _is_overdue(self, connection: ManagedConnection, now: float) -> bool:
        return bool(self._manage(connection, lambda each: each.is_overdue(now)))

    def _manage(self, connection: ManagedConnection, call: Callable[[ManagedConnection], bool | None]) -> bool | None:
        """Return the result of a call on a connection. An error ends this connection, and no other."""
        try:
            return call(connection)
        except Exception:  # noqa: BLE001  # logged; the others must be managed too
            _log.exception("managing a connection failed, closing it")
            self._discard(connection)
            return None

    def _discard(self, connection: ManagedConnection) -> None:
        """Abort a broken connection, and remove it even if that fails: it must not count for ever."""
        try:
            connection.abort()
        except Exception:  # noqa: BLE001  # logged; see above
            _log.exception("closing a connection failed")
        self._table.end(connection)

    def _advance(self) -> float:
        self._state.tick = self._ticks.advance()
        self._victims.clear()
        return self._state.tick

    def _connection(self, address: str) -> asyncio.Protocol:
        state = self._state
        network = self._table.networks.find(address)
        is_full = len(self._table) >= state.limits.connections
        if is_full and not self._make_room(network):
            self._limit_log.log_rejection(len(self._table.connections), state.limits.connections)
            return _RejectedConnection(state.hooks, self._rejected)
        connection = Connection(state, network)
        self._table.begin(connection, state.tick)
        return connection

    def _make_room(self, network: ClientNetwork) -> bool:
        """Close a connection of a network that has more than this one; return whether there was one."""
        state = self._state
        if not self._victims and self._victims_tick != state.tick:  # choosing takes a look at all connections
            self._victims, self._victims_tick = self._table.networks.victims(), state.tick
        while self._victims:
            victim = self._victims[-1]
            has_ended = victim not in self._table
            if not has_ended and len(victim.network.connections) <= len(network.connections):
                return False
            self._victims.pop()
            if not has_ended and self._close_waiting(victim):
                self._limit_log.log_closing(victim.network.name, state.limits.connections)
                return True
        return False

    def _close_waiting(self, connection: ManagedConnection) -> bool:
        """Close a connection that waits for its client, or for its setup; return whether it did."""
        if connection in self._table.connecting:
            self._cancel(connection)
        elif not self._manage(connection, lambda each: each.waiting_since is not None and each.expire()):
            return False
        self._table.end(connection)
        return True

    def _cancel(self, connection: ManagedConnection) -> None:
        """End a connection that is not set up yet."""
        self._table.end(connection)
        for listener in self._listeners:
            listener.cancel(connection)  # only one of them has accepted it

    def _secure_connection(self, address: str) -> asyncio.Protocol | None:
        """Return the protocol for a connection before its TLS handshake; None if it must be closed."""
        connection = self._connection(address)
        if isinstance(connection, _RejectedConnection):
            if len(self._rejected) >= MAX_TLS_REJECTIONS:
                self._state.hooks.reject_connection(secure=True)
                return None
            self._rejected.add(connection)
        return connection

    def _forget(self, connection: object) -> None:
        """Drop a connection that was not set up, for example because its TLS handshake failed."""
        if isinstance(connection, _RejectedConnection):
            self._rejected.discard(connection)
        elif isinstance(connection, Connection):
            self._table.end(connection)


class ConnectionLimitLog:
    """A log of connections over the limit, with each event at most once in LIMIT_LOG_SECONDS."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}  # of the last line, by event

    def log_rejection(self, connections: int, limit: int) -> None:
        """Log that a connection is rejected."""
        self._log("too many connections, rejecting new ones", connections=connections, limit=limit)

    def log_closing(self, network: str, limit: int) -> None:
        """Log that a connection of this client network is closed for another."""
        self._log("too many connections, closing those of the client with most", client=network, limit=limit)

    def _log(self, event: str, **members: object) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._times.get(event, -LIMIT_LOG_SECONDS) >= LIMIT_LOG_SECONDS:
            self._times[event] = now
            _log.warning(event, **members)


class _RejectedConnection(asyncio.Protocol):
    """A connection over the limit. With TLS, it is in `rejected` while it holds a descriptor."""

    def __init__(self, hooks: ApplicationHooks, rejected: "set[_RejectedConnection]") -> None:
        self._hooks = hooks
        self._rejected = rejected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writable: asyncio.Transport = transport  # type: ignore[assignment]  # TCP, TLS and Unix transports are all writable
        writable.write(self._hooks.reject_connection(secure=Peer(writable).secure))
        writable.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._rejected.discard(self)
