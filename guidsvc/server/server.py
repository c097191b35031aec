"""The HTTP server: accepts connections, closes timed-out ones, and drains them on shutdown."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
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
        return len(self._state.connections)

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
        state = self._state
        now = self._advance()
        cutoff = now - LAME_SECONDS
        # Idle times may start a tick early
        idle_before = cutoff if cutoff >= start else start - LAME_SECONDS - TICK_SECONDS
        busy = [each for each in list(state.connections) if each.retire(idle_before)]
        return bool(busy) or any(max(since, start) > cutoff for since in state.connecting.values())

    async def close_all_connections(self) -> None:
        """Close the connections once pending data is sent; abort them after CLOSE_SECONDS."""
        for connection in list(self._state.connections):
            connection.close()
        for listener in self._listeners:
            listener.abort()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_SECONDS
        while self._state.connections and loop.time() < deadline:  # noqa: ASYNC110  # polling is cheaper than an event per connection
            await asyncio.sleep(0.01)
        for connection in list(self._state.connections):
            connection.abort()

    async def keep_time(self) -> None:
        """Close timed-out connections, every TICK_SECONDS."""
        state = self._state
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._advance()
            for each in list(state.paused_connections):
                each.regulate()  # the client may have disconnected meanwhile
            idle_before = now - state.limits.head_seconds - TICK_SECONDS
            for each in [each for each, since in state.connecting.items() if since <= idle_before]:
                self._forget(each)
            overdue = [each for each in state.connections if each.is_overdue(now)]
            if overdue:
                await asyncio.sleep(LATE_READ_SECONDS)
            for connection in overdue:
                self._expire(connection, now)
            if state.budget.should_release(now):
                await asyncio.to_thread(release)

    def _expire(self, connection: ManagedConnection, now: float) -> None:
        """Close a connection if it is still overdue. An error aborts only this connection."""
        try:
            if connection in self._state.connections and connection.is_overdue(now):
                connection.expire()
        except Exception:  # noqa: BLE001  # logged; the others must be closed too
            _log.exception("closing a connection failed")
            connection.abort()

    def _advance(self) -> float:
        self._state.tick = self._ticks.advance()
        self._victims.clear()
        return self._state.tick

    def _connection(self, address: str) -> asyncio.Protocol:
        state = self._state
        network = state.networks.find(address)
        is_full = len(state.connections) + len(state.connecting) >= state.limits.connections
        if is_full and not self._make_room(network):
            self._limit_log.log_rejection(len(state.connections), state.limits.connections)
            return _RejectedConnection(state.hooks, self._rejected)
        connection = Connection(state, network)
        state.connecting[connection] = state.tick
        state.networks.join(connection)
        return connection

    def _make_room(self, network: ClientNetwork) -> bool:
        """Close a connection of a network that has more than this one; return whether there was one."""
        state = self._state
        if not self._victims and self._victims_tick != state.tick:  # choosing takes a look at all connections
            self._victims, self._victims_tick = state.networks.victims(), state.tick
        while self._victims:
            victim = self._victims[-1]
            is_open = victim in state.connections or victim in state.connecting
            if is_open and len(victim.network.connections) <= len(network.connections):
                return False
            self._victims.pop()
            if is_open and self._close_waiting(victim):
                self._limit_log.log_closing(victim.network.name, state.limits.connections)
                return True
        return False

    def _close_waiting(self, connection: ManagedConnection) -> bool:
        """Close a connection that waits for its client, or for its setup; return whether it did."""
        state = self._state
        if connection in state.connecting:
            del state.connecting[connection]
            for listener in self._listeners:
                listener.cancel(connection)  # only one of them has accepted it
        elif connection.waiting_since is None or not connection.expire():
            return False
        state.connections.discard(connection)
        state.networks.leave(connection)
        return True

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
            self._state.connecting.pop(connection, None)
            self._state.networks.leave(connection)


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
