"""The connection layer: listens, keeps the connections, and hangs up on who is too slow."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from socket import socket

import structlog
from tornado.httputil import HTTPServerConnectionDelegate

from guidsvc.background import background
from guidsvc.errors import StoreUnavailable
from guidsvc.meters import RequestMeter
from guidsvc.web.connection import Connection
from guidsvc.web.hosting import Limits, Shared, Short
from guidsvc.web.listening import BACKLOG
from guidsvc.web.replies import refusal

TICK_SECONDS = 0.5
"""How often is looked for who is overdue."""
CLOSE_SECONDS = 2.0
"""What has been answered has so long to reach its client when the service ends."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving_on(
    sockets: Sequence[socket],
    app: HTTPServerConnectionDelegate,
    *,
    limits: Limits | None = None,
    short: Short | None = None,
    tls: ssl.SSLContext | None = None,
    meter: RequestMeter | None = None,
) -> AsyncIterator["Server"]:
    """Serve on these sockets, inside; at the end every connection is closed."""
    server = Server(app, limits or Limits(), short, meter or RequestMeter())
    try:
        await server.listen(sockets, tls)
        async with background(server.keep_time()):
            yield server
    finally:
        server.stop()
        await server.close_all_connections()


class Server:
    """Connections, and what they listen on."""

    def __init__(
        self, app: HTTPServerConnectionDelegate, limits: Limits, short: Short | None, meter: RequestMeter
    ) -> None:
        self._shared = Shared(app, limits, short, meter)
        self._listeners: list[asyncio.Server] = []
        self._crowded = False

    async def listen(self, sockets: Sequence[socket], tls: ssl.SSLContext | None) -> None:
        """Accept connections on these sockets."""
        loop = asyncio.get_running_loop()
        handshake = None if tls is None else self._shared.limits.head_seconds
        for each in sockets:
            listener = await loop.create_server(
                self._connection, sock=each, ssl=tls, ssl_handshake_timeout=handshake, backlog=BACKLOG
            )
            self._listeners.append(listener)

    def connections(self) -> int:
        """Count those that are open."""
        return len(self._shared.connections)

    def stop(self) -> None:
        """Accept no more connections; those that there are go on."""
        for listener in self._listeners:
            listener.close()

    async def send_all(self, seconds: float) -> None:
        """Return when all that was answered has been sent, or after this time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline and any(each.is_sending for each in self._shared.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def close_all_connections(self) -> None:
        """Close the connections, when what is being sent has been."""
        for connection in list(self._shared.connections):
            connection.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_SECONDS
        while self._shared.connections and loop.time() < deadline:  # noqa: ASYNC110  # or each would set an event
            await asyncio.sleep(0.01)
        for connection in list(self._shared.connections):
            connection.abort()

    async def keep_time(self) -> None:
        """Look now and then for who is overdue, and hang up."""
        shared, loop = self._shared, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            shared.tick = now = loop.time()
            for connection in [each for each in shared.connections if each.overdue(now)]:
                connection.abort()
            latest = now - shared.limits.head_seconds - TICK_SECONDS
            shared.expected = {each: since for each, since in shared.expected.items() if since > latest}
            self._crowded = self._crowded and len(shared.connections) >= shared.limits.connections

    def _connection(self) -> asyncio.Protocol:
        shared = self._shared
        if len(shared.connections) + len(shared.expected) < shared.limits.connections:
            connection = Connection(shared)
            shared.expected[connection] = asyncio.get_running_loop().time()
            return connection
        if not self._crowded:
            self._crowded = True
            _log.warning("connections are refused, there are too many", connections=len(shared.connections))
        return _Refused(self._shared.meter)


class _Refused(asyncio.Protocol):
    """A connection of which there are too many already."""

    def __init__(self, meter: RequestMeter) -> None:
        self._meter = meter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain: asyncio.Transport = transport  # type: ignore[assignment]  # TCP, TLS and Unix sockets all can be written to
        plain.write(refusal(StoreUnavailable("there are too many connections"), self._meter))
        plain.close()
