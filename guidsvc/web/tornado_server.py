"""Tornado's own server, in place of our connection layer: slower by far, and what many know."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from socket import socket
from ssl import SSLContext

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from guidsvc.web.hosting import Limits
from guidsvc.web.request_headers import MAX_HEADERS
from guidsvc.web.server import LAME_SECONDS, RETIRING_TICK_SECONDS


class TornadoServer(HTTPServer):
    """Tornado's own server, which does not tell who is idle: all have the same time at the end."""

    def connections(self) -> int:
        return len(self._connections)

    async def retire(self) -> None:
        """Return when nobody is connected, or has been told for LAME_SECONDS."""
        deadline = asyncio.get_running_loop().time() + LAME_SECONDS
        while self._connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # sets no event
            await asyncio.sleep(RETIRING_TICK_SECONDS)


class _BoundedHeads(HTTPServerConnectionDelegate):
    """An application that gets no request with too many headers."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return _BoundedHead(self._app.start_request(server_conn, request_conn))

    def on_close(self, server_conn: object) -> None:
        self._app.on_close(server_conn)


class _BoundedHead(HTTPMessageDelegate):
    """A request that is refused if it has too many headers."""

    def __init__(self, delegate: HTTPMessageDelegate) -> None:
        self._delegate = delegate
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # no call more for each part
        self.finish = delegate.finish  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if sum(1 for _ in headers.get_all()) > MAX_HEADERS:
            raise HTTPInputError(f"more than {MAX_HEADERS} headers")
        return self._delegate.headers_received(start_line, headers)


@asynccontextmanager
async def serving_by_tornado(
    sockets: list[socket], app: Application, *, limits: Limits, tls: SSLContext | None
) -> AsyncIterator[TornadoServer]:
    """Serve an application on these sockets, inside, within those of the limits that Tornado knows."""
    server = TornadoServer(
        _BoundedHeads(app),
        ssl_options=tls,
        max_header_size=limits.head_bytes,
        max_body_size=2**60,  # the handlers judge the size of a body: Tornado would hang up without a word
        idle_connection_timeout=limits.idle_seconds,
        body_timeout=limits.body_seconds,
    )
    server.add_sockets(sockets)
    try:
        yield server
    finally:
        await server.close_all_connections()
