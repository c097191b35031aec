"""A service in this process that a test shuts down while requests are in progress."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from tests.conftest import Serving
from tests.support.http_client import Client, hang_up

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class StoppableService:
    """The service. `client` is idle when the shutdown begins."""

    def __init__(self, client: Client, stack: AsyncExitStack, stop: Callable[[], Awaitable[None]]) -> None:
        self.client = client
        self._stack = stack
        self._stop = stop

    async def send(self, *parts: bytes) -> Connection:
        """Send these bytes on a new connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.client.port, limit=1 << 26)
        self._stack.push_async_callback(hang_up, writer)
        writer.writelines(parts)
        return reader, writer

    def begin_shutdown(self) -> "asyncio.Task[None]":
        """Begin the shutdown; the task ends with it."""
        return asyncio.ensure_future(self._stop())

    async def until_draining(self) -> None:
        """Return when the shutdown has begun, and the service accepts no more connections."""
        while True:
            try:
                await self.send()
            except ConnectionRefusedError:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def stoppable(serving: Serving, **settings: object) -> AsyncIterator[StoppableService]:
    """Run a service inside the block. Its grace period is far longer than a test, unless the settings say otherwise."""
    async with asyncio.timeout(120), AsyncExitStack() as stack, AsyncExitStack() as service:
        client = await service.enter_async_context(serving(**{"grace": 300} | settings))
        yield StoppableService(client, stack, service.aclose)
