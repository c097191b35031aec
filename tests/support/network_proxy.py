"""A TCP proxy in front of a server, which forwards in both directions and injects the faults of a network.

It knows no protocol: data that arrives in one piece from the server counts as a response, or as the start of one.
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
    """How a response is damaged before the connection is reset."""

    CUT = "cut in the middle"
    SWALLOWED = "swallowed"


class Proxy:
    """Forwards connections on `port` to another port of this host."""

    def __init__(self, upstream: int, rng: random.Random) -> None:
        self.port = 0
        self.resets = 0
        """Number of connections that were reset."""
        self.held = 0
        """Number of pieces that are being forwarded."""
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
        """Inside the block, each piece is delayed by up to this time, in both directions."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextmanager
    def black_hole(self, *ways: Way) -> Iterator[None]:
        """Inside the block, nothing arrives in these directions; at the end all of it does, as TCP retransmits."""
        for way in ways:
            self._open[way].clear()
        try:
            yield
        finally:
            for way in ways:
                self._open[way].set()

    @contextmanager
    def spoiling(self, spoil: Spoil, chance: float = 1.0, most: float = inf) -> Iterator[None]:
        """Inside the block, damage at most `most` responses, each with this chance: their requests were executed."""
        self._spoil, self._chance, self._spoils = spoil, chance, most
        try:
            yield
        finally:
            self._spoil = None

    @contextmanager
    def losing(self, chance: float = 1.0) -> Iterator[None]:
        """Inside the block, drop requests, each with this chance, unexecuted, and reset their connections."""
        self._loss = chance
        try:
            yield
        finally:
            self._loss = 0.0

    def reset(self) -> None:
        """Reset all current connections at both ends."""
        for connection in list(self._connections.values()):
            self.resets += 1
            connection.reset()

    async def ended(self) -> None:
        """Return when all current connections have ended."""
        await asyncio.gather(*self._connections)

    async def passes(self, way: Way) -> None:
        """Return when a piece may be forwarded."""
        self.held += 1
        if self._delay:
            await asyncio.sleep(self._rng.uniform(0, self._delay))
        await self._open[way].wait()
        self.held -= 1

    def loses(self) -> bool:
        """Decide whether a request is lost."""
        return self._loss > 0 and self._rng.random() < self._loss

    def spoils(self) -> Spoil | None:
        """Decide whether and how a response is damaged."""
        if self._spoil is None or self._spoils < 1 or self._rng.random() >= self._chance:
            return None
        self._spoils -= 1
        return self._spoil

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until both ends have closed it."""
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
    """Run a proxy inside the block, on a free port."""
    started = Proxy(upstream, rng)
    server = await asyncio.start_server(started.serve, "127.0.0.1", 0)
    started.port = server.sockets[0].getsockname()[1]
    try:
        yield started
    finally:
        server.close()
        started.reset()
        await started.ended()
        await server.wait_closed()


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """A client's connection to the proxy, and the proxy's for it to the server."""

    def __init__(self, client: _Stream, server: _Stream) -> None:
        self._client = client
        self._server = server

    async def run(self, rules: Proxy) -> None:
        """Forward until both ends are closed."""
        await asyncio.gather(self._up(rules), self._down(rules))

    def reset(self) -> None:
        """Reset the connection at both ends."""
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
        await rules.passes(Way.TO_SERVER)  # the end of a connection is delayed, too
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
    """Reset a connection; data in the buffers of the kernel may still arrive."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
