"""A server of streams that leaves no connection open at its end."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tests.support.http_client import hang_up

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def copy_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy data until the stream ends, or one of the connections is reset."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)


@asynccontextmanager
async def stream_server(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Call a function for each connection, and close the connection after it. Yield the port.

    At the end of the block the functions that are running are cancelled, and what they raised before is raised.
    """
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        await hang_up(writer)

    def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[asyncio.create_task(run(reader, writer))] = writer

    server = await asyncio.start_server(on_connect, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        results = await asyncio.gather(*connections, return_exceptions=True)
        for writer in connections.values():
            with suppress(AttributeError):  # of a TLS transport that is closed, before Python 3.11.3
                writer.transport.abort()
            await hang_up(writer)
    failures = [each for each in results if isinstance(each, Exception)]
    if failures:
        raise ExceptionGroup("connections failed", failures)
