"""A load of well-behaved HTTP clients that record every failure and never retry."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.http_client import hang_up, read_reply

KEYS = 50
PAUSES = (0.0, 0.0, 0.002, 0.05, 0.3)
"""Seconds between two requests of a client: well below the time after which an idle connection may be closed."""


class HttpLoad:
    """Clients that read and write records, and reuse a connection unless the last response announced its end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._has_ended = False
        self.answered = 0
        self.connections = 0
        self.failures: list[str] = []

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """Run this many clients within the block. At the end, let each finish its last request."""
        tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]
        try:
            yield
        finally:
            self._has_ended = True
            await asyncio.gather(*tasks)

    async def _client(self, number: int) -> None:
        rng = random.Random(number)
        pause = PAUSES[number % len(PAUSES)]
        while not self._has_ended:
            try:
                await self._connection(rng, pause)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.failures.append(repr(error))

    async def _connection(self, rng: random.Random, pause: float) -> None:
        """Send requests over one connection until it ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.connections += 1
        try:
            while not self._has_ended:
                method = "PUT" if rng.random() < 0.2 else "GET"
                writer.write(_request(method, f"{rng.randrange(KEYS):032X}"))
                reply = await asyncio.wait_for(read_reply(reader, method), 30)
                self.answered += 1
                if not 200 <= reply.status < 300:
                    self.failures.append(f"{method}: {reply.status} {reply.body!r}")
                if reply.headers.get("Connection") == "close":
                    return
                await asyncio.sleep(pause)
        finally:
            await hang_up(writer)


def _request(method: str, guid: str) -> bytes:
    body = b'{"user": "somebody"}' if method == "PUT" else b""
    return f"{method} /guid/{guid} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
