"""Tornado's own server, in place of our connection layer: slower by far, and what many know."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import socket
from ssl import SSLContext

from tornado.httpserver import HTTPServer
from tornado.web import Application

from guidsvc.web.hosting import Limits
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


@asynccontextmanager
async def serving_by_tornado(
    sockets: list[socket], app: Application, *, limits: Limits, tls: SSLContext | None
) -> AsyncIterator[TornadoServer]:
    """Serve an application on these sockets, inside, within those of the limits that Tornado knows."""
    server = TornadoServer(
        app,
        ssl_options=tls,
        max_body_size=2**60,  # the handlers judge the size of a body: Tornado would hang up without a word
        idle_connection_timeout=limits.idle_seconds,
        body_timeout=limits.body_seconds,
    )
    server.add_sockets(sockets)
    try:
        yield server
    finally:
        await server.close_all_connections()
