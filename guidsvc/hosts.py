"""What reads HTTP for the application, as the settings say: the connection layer of our own, or Tornado's server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.web import Application

from guidsvc.config import Settings
from guidsvc.stopping import Stoppable
from guidsvc.web.hosting import Limits
from guidsvc.web.server import LAME_SECONDS, RETIRING_TICK_SECONDS, serving_on
from guidsvc.web.short import ShortWay
from guidsvc.web.tls import Tls


class _Tornado(HTTPServer):
    """Tornado's own server, which does not tell who is idle: all have the same time at the end."""

    def connections(self) -> int:
        return len(self._connections)

    async def retire(self) -> None:
        """Return when nobody is connected, or has been told for LAME_SECONDS."""
        deadline = asyncio.get_running_loop().time() + LAME_SECONDS
        while self._connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # sets no event
            await asyncio.sleep(RETIRING_TICK_SECONDS)


@asynccontextmanager
async def hosted(
    app: Application, sockets: list[socket], settings: Settings, short: ShortWay, tls: Tls | None
) -> AsyncIterator[Stoppable]:
    """Serve with the connection layer of our own, or with Tornado's."""
    context = None if tls is None else tls.context
    if settings.server == "httptools":
        limits = Limits(
            head_seconds=settings.head_timeout,
            body_seconds=settings.body_timeout,
            idle_seconds=settings.idle_timeout,
            connections=settings.max_connections,
        )
        async with serving_on(sockets, app, limits=limits, short=short, tls=context, meter=short.meter) as ours:
            yield ours
        return
    server = _Tornado(
        app,
        ssl_options=context,
        max_body_size=2**60,  # the handlers judge the size of a body: Tornado would hang up without a word
        idle_connection_timeout=settings.idle_timeout,
        body_timeout=settings.body_timeout,
    )
    server.add_sockets(sockets)
    try:
        yield server
    finally:
        await server.close_all_connections()
