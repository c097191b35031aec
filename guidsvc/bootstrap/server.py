"""The HTTP server that the settings select: the httptools-based one of this project, or Tornado's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import socket

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.api.routing import RoutedApplication
from guidsvc.config import Settings
from guidsvc.process import file_descriptors
from guidsvc.process.shutdown import StoppableServer
from guidsvc.server.protocol.state import ConnectionLimits
from guidsvc.server.server import serving_on
from guidsvc.server.tls import Tls
from guidsvc.server.tornado_server import serving_by_tornado


@asynccontextmanager
async def open_server(
    app: RoutedApplication, sockets: list[socket], settings: Settings, fast_path: FastPathDispatcher, tls: Tls | None
) -> AsyncIterator[StoppableServer]:
    """Serve the application on the sockets with the selected server, and yield it."""
    context, tls_context = app.context, None if tls is None else tls.context
    limits = ConnectionLimits(
        head_bytes=settings.max_head_bytes,
        incoming_bytes=settings.max_incoming_bytes,
        head_seconds=settings.head_timeout,
        body_seconds=settings.body_timeout,
        idle_seconds=settings.idle_timeout,
        connections=file_descriptors.room_for(settings.max_connections),
        spare_connections=file_descriptors.spare_connections(),
        unsent_bytes=settings.max_unsent_bytes,
    )
    hooks = ServerHooks(context.monitor.meters.requests, context.public_url, context.cors)
    if settings.server == "httptools":
        async with serving_on(sockets, app, hooks, limits=limits, fast_path=fast_path, tls=tls_context) as server:
            yield server
    else:
        async with serving_by_tornado(sockets, app, hooks, limits=limits, tls=tls_context) as server:
            yield server
