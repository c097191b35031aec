"""Clients that read slowly, and an application with responses that are too large for them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.server.protocol.state import ConnectionLimits
from guidsvc.server.server import serving_on
from guidsvc.server.sockets import open_listeners
from guidsvc.server.tornado_server import serving_by_tornado
from guidsvc.telemetry.metrics import RequestMetrics
from tests.support.http_client import hang_up


@asynccontextmanager
async def narrow(
    port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection with a small receive buffer within the block."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    name = None if tls is None else "127.0.0.1"
    reader, writer = await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=name, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await hang_up(writer)


async def is_reset(reader: asyncio.StreamReader, bytes_per_second: float | None = None) -> bool:
    """Read until the connection ends; return whether it was reset."""
    async with asyncio.timeout(60):
        try:
            while part := await reader.read(1024):
                if bytes_per_second is not None:
                    await asyncio.sleep(len(part) / bytes_per_second)
        except ConnectionResetError:
            return True
    return False


class Endless(RequestHandler):
    """Sends parts of a stream for as long as the client reads them."""

    async def get(self) -> None:
        if self.request.version == "HTTP/1.0":
            self.set_header("Connection", "close")
        try:
            while True:
                self.write(b"x" * 65_536)
                await self.flush()
        except StreamClosedError:
            return


class Page(RequestHandler):
    """Sends a megabyte at once."""

    def get(self) -> None:
        self.write(b"x" * 1_048_576)


@asynccontextmanager
async def hosting(server: str, limits: ConnectionLimits, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve a Tornado application on either server inside the block; yield the port."""
    app = Application([("/stream", Endless), ("/page", Page)])
    async with AsyncExitStack() as stack:
        (sockets,) = stack.enter_context(open_listeners("127.0.0.1", 0, None))
        if server == "httptools":
            await stack.enter_async_context(
                serving_on(sockets, app, ServerHooks(RequestMetrics()), limits=limits, tls=tls)
            )
        else:
            await stack.enter_async_context(
                serving_by_tornado(sockets, app, ServerHooks(RequestMetrics()), limits=limits, tls=tls)
            )
        yield sockets[0].getsockname()[1]
