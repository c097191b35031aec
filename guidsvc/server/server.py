"""The HTTP server: accepts connections, closes timed-out ones, and drains them on shutdown."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from socket import socket

import structlog
import tornado.platform.asyncio  # noqa: F401  # Tornado would import it in the first request, if a file can be opened then
from tornado.httputil import HTTPServerConnectionDelegate

from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.memory import release
from guidsvc.server.listener import Listener, Tls
from guidsvc.server.protocol.connection import Connection
from guidsvc.server.protocol.state import (
    ApplicationHooks,
    ConnectionLimits,
    FastPath,
    ManagedConnection,
    Peer,
    ServerState,
)
from guidsvc.server.protocol.ticks import TICK_SECONDS, Ticks

LOOK_SECONDS = 0.02
"""Before timed-out connections are closed, data that has arrived meanwhile is read for this long."""
LAME_SECONDS = 1.0
"""On shutdown, recently active connections stay open this long: the client can send one more request and receive
`Connection: close`."""
RETIRING_TICK_SECONDS = 0.02
"""Interval, during shutdown, between scans for connections that can be closed."""
CROWDED_SECONDS = 10.0
"""Minimum interval between log lines about too many connections."""
REFUSED_AT_A_TIME = 8
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
    short: FastPath | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator["Server"]:
    """Serve on these sockets inside the block; on exit, close every connection."""
    server = Server(app, hooks, limits or ConnectionLimits(), short)
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
        short: FastPath | None,
    ) -> None:
        self._shared = ServerState(app, hooks, limits, short)
        self._listeners: list[Listener] = []
        self._refused: set[_Refused] = set()
        self._crowd = CrowdLog()
        self._ticks = Ticks()

    def listen(self, sockets: Sequence[socket], context: ssl.SSLContext | None) -> None:
        """Accept connections on these sockets, which must be listening already."""
        tls = None if context is None else Tls(context, self._shared.limits.head_seconds)
        make = self._connection if tls is None else self._secure_connection
        self._listeners += [Listener(each, make, self._forget, tls=tls) for each in sockets]

    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._shared.connections)

    def stop(self) -> None:
        """Stop accepting connections; open ones continue."""
        for listener in self._listeners:
            listener.close()

    async def drain_connections(self) -> None:
        """Wait until no connection has work left.

        A connection with a request is answered, then closed. One that stays idle for LAME_SECONDS is closed.
        """
        begun = self._advance()
        while self._has_more_to_do(begun):  # noqa: ASYNC110  # waits for time to pass
            await asyncio.sleep(RETIRING_TICK_SECONDS)

    def _has_more_to_do(self, begun: float) -> bool:
        """Close connections that have been idle for LAME_SECONDS; return whether others are left."""
        shared = self._shared
        now = self._advance()
        late = now - LAME_SECONDS
        latest = late if late >= begun else begun - LAME_SECONDS - TICK_SECONDS  # idle times may start a tick early
        busy = [each for each in list(shared.connections) if each.retire(latest)]
        return bool(busy) or any(max(since, begun) > late for since in shared.expected.values())

    async def close_all_connections(self) -> None:
        """Close the connections once pending data is sent; abort them after CLOSE_SECONDS."""
        for connection in list(self._shared.connections):
            connection.close()
        for listener in self._listeners:
            listener.abort()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_SECONDS
        while self._shared.connections and loop.time() < deadline:  # noqa: ASYNC110  # polling is cheaper than an event per connection
            await asyncio.sleep(0.01)
        for connection in list(self._shared.connections):
            connection.abort()

    async def keep_time(self) -> None:
        """Close timed-out connections, every TICK_SECONDS."""
        shared = self._shared
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._advance()
            for each in list(shared.paused):
                each.regulate()  # the client may have disconnected meanwhile
            latest = now - shared.limits.head_seconds - TICK_SECONDS
            shared.expected = {each: since for each, since in shared.expected.items() if since > latest}
            late = [each for each in shared.connections if each.overdue(now)]
            if late:
                await asyncio.sleep(LOOK_SECONDS)
            for connection in late:
                self._expire(connection, now)
            if shared.budget.should_release(now):
                await asyncio.to_thread(release)

    def _expire(self, connection: ManagedConnection, now: float) -> None:
        """Close a connection if it is still overdue. An error aborts only this connection."""
        try:
            if connection in self._shared.connections and connection.overdue(now):
                connection.expire()
        except Exception:  # noqa: BLE001  # logged; the others must be closed too
            _log.exception("closing a connection failed")
            connection.abort()

    def _advance(self) -> float:
        self._shared.tick = self._ticks.advance()
        return self._shared.tick

    def _connection(self) -> asyncio.Protocol:
        shared = self._shared
        if len(shared.connections) + len(shared.expected) < shared.limits.connections:
            connection = Connection(shared)
            shared.expected[connection] = shared.tick
            return connection
        self._crowd.tell(len(shared.connections), shared.limits.connections)
        return _Refused(shared.hooks, self._refused)

    def _secure_connection(self) -> asyncio.Protocol | None:
        """Return the protocol for a connection before its TLS handshake; None if it must be closed."""
        connection = self._connection()
        if isinstance(connection, _Refused):
            if len(self._refused) >= REFUSED_AT_A_TIME:
                self._shared.hooks.reject_connection(secure=True)
                return None
            self._refused.add(connection)
        return connection

    def _forget(self, connection: asyncio.Protocol) -> None:
        """Drop a connection that was not set up, for example because its TLS handshake failed."""
        if isinstance(connection, _Refused):
            self._refused.discard(connection)
        elif isinstance(connection, Connection):
            self._shared.expected.pop(connection, None)


class CrowdLog:
    """A rate-limited log of connections rejected over the limit."""

    def __init__(self) -> None:
        self._told_at = -CROWDED_SECONDS

    def tell(self, connections: int, limit: int) -> None:
        """Log the rejections, at most once in CROWDED_SECONDS."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= CROWDED_SECONDS:
            self._told_at = now
            _log.warning("too many connections, rejecting new ones", connections=connections, limit=limit)


class _Refused(asyncio.Protocol):
    """A connection over the limit. With TLS, it is in `others` while it holds a descriptor."""

    def __init__(self, hooks: ApplicationHooks, others: "set[_Refused]") -> None:
        self._hooks = hooks
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain: asyncio.Transport = transport  # type: ignore[assignment]  # TCP, TLS and Unix transports are all writable
        plain.write(self._hooks.reject_connection(secure=Peer(plain).secure))
        plain.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._others.discard(self)
