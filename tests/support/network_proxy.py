"""The way to a server: TCP passed on, in both directions, with the faults that a network and its peers can have.

Knows no protocol: what comes in one piece from the server passes for a reply, or for the beginning of one.
"""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum
from math import inf

_PIECE = 65536


class Way(Enum):
    """A direction."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class Spoil(Enum):
    """What becomes of a reply, before the connection is reset."""

    CUT = "cut in the middle"
    SWALLOWED = "swallowed"


class Proxy:
    """Passes on what comes on `port` to another port of this host, and back."""

    def __init__(self, upstream: int, rng: random.Random) -> None:
        self.port = 0
        self.resets = 0
        """So many connections were broken off."""
        self.held = 0
        """So many pieces are on their way."""
        self._upstream = upstream
        self._rng = rng
        self._delay = 0.0
        self._spoil: Spoil | None = None
        self._chance = self._spoils = 0.0
        self._loss = 0.0
        self._open = {way: asyncio.Event() for way in Way}
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        for way in Way:
            self._open[way].set()

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Inside, each piece takes up to this time longer, either way."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextmanager
    def black_hole(self, *ways: Way) -> Iterator[None]:
        """Inside, nothing arrives that goes these ways; at the end all of it does, late, as TCP sends again."""
        for way in ways:
            self._open[way].clear()
        try:
            yield
        finally:
            for way in ways:
                self._open[way].set()

    @contextmanager
    def spoiling(self, spoil: Spoil, chance: float = 1.0, most: float = inf) -> Iterator[None]:
        """Inside, replies are spoilt, each with this chance, and so many at the most: what was asked has been done."""
        self._spoil, self._chance, self._spoils = spoil, chance, most
        try:
            yield
        finally:
            self._spoil = None

    @contextmanager
    def losing(self, chance: float = 1.0) -> Iterator[None]:
        """Inside, requests are lost, each with this chance, and their connections reset: what was asked is not done."""
        self._loss = chance
        try:
            yield
        finally:
            self._loss = 0.0

    def reset(self) -> None:
        """Break off all connections there are, at both ends."""
        for connection in list(self._connections.values()):
            self.resets += 1
            connection.reset()

    async def ended(self) -> None:
        """Return when all connections there are have ended."""
        await asyncio.gather(*self._connections)

    async def passes(self, way: Way) -> None:
        """Return when a piece may go on."""
        self.held += 1
        if self._delay:
            await asyncio.sleep(self._rng.uniform(0, self._delay))
        await self._open[way].wait()
        self.held -= 1

    def loses(self) -> bool:
        """Decide whether a request is lost."""
        return self._loss > 0 and self._rng.random() < self._loss

    def spoils(self) -> Spoil | None:
        """Decide what becomes of a reply."""
        if self._spoil is None or self._spoils < 1 or self._rng.random() >= self._chance:
            return None
        self._spoils -= 1
        return self._spoil

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection until both ends have closed it."""
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            _break_off(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        connection = self._connections[task] = _Connection((reader, writer), upstream)
        try:
            await connection.run(self)
        finally:
            del self._connections[task]


@asynccontextmanager
async def proxy(upstream: int, rng: random.Random) -> AsyncIterator[Proxy]:
    """Run a proxy, inside, on a port that it chooses."""
    made = Proxy(upstream, rng)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.reset()
        await made.ended()
        await server.wait_closed()


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """A client's connection to the proxy, and the proxy's for it to the server."""

    def __init__(self, client: _Stream, server: _Stream) -> None:
        self._client = client
        self._server = server

    async def run(self, rules: Proxy) -> None:
        """Pass on until both ends are closed."""
        await asyncio.gather(self._up(rules), self._down(rules))

    def reset(self) -> None:
        """Break it off at both ends."""
        _break_off(self._client[1])
        _break_off(self._server[1])

    async def _up(self, rules: Proxy) -> None:
        (reader, _), (_, writer) = self._client, self._server
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                await rules.passes(Way.TO_SERVER)
                if rules.loses():
                    rules.resets += 1
                    self.reset()
                    return
                writer.write(piece)
                await writer.drain()
        await rules.passes(Way.TO_SERVER)  # the end of a connection takes the same way
        writer.close()

    async def _down(self, rules: Proxy) -> None:
        (_, writer), (reader, _) = self._client, self._server
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                await rules.passes(Way.TO_CLIENT)
                spoil = rules.spoils()
                if spoil is Spoil.CUT:
                    writer.write(piece[: len(piece) // 2])
                if spoil is not None:
                    rules.resets += 1
                    self.reset()
                    return
                writer.write(piece)
                await writer.drain()
        await rules.passes(Way.TO_CLIENT)
        writer.close()


def _break_off(writer: asyncio.StreamWriter) -> None:
    """Reset a connection; what is in the kernel's hands may still arrive."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
