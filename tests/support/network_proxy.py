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

from tests.support.http_client import hang_up
from tests.support.stream_server import stream_server
from tests.support.time_limit import within

END_SECONDS = 30.0
_PIECE_BYTES = 65536


class Direction(Enum):
    """A direction of the traffic."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


class Damage(Enum):
    """How a response is damaged before the connection is reset."""

    CUT = "cut in the middle"
    SWALLOWED = "swallowed"


class Proxy:
    """Forwards connections on `port` to another port of this host."""

    def __init__(self, upstream: int, rng: random.Random) -> None:
        self.port = 0
        self.resets = 0
        """Number of connections that were reset."""
        self.pending_pieces = 0
        """Number of pieces that were read and not forwarded yet."""
        self._upstream = upstream
        self._rng = rng
        self._delay = 0.0
        self._damage: Damage | None = None
        self._damage_chance = self._damages_left = 0.0
        self._drop_chance = 0.0
        self._open = {direction: asyncio.Event() for direction in Direction}
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        for direction in Direction:
            self._open[direction].set()

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Within the block, delay each piece by up to this time, in both directions."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextmanager
    def black_hole(self, *directions: Direction) -> Iterator[None]:
        """Within the block, hold all data back in these directions. Deliver it at the end, as TCP retransmits it."""
        for direction in directions:
            self._open[direction].clear()
        try:
            yield
        finally:
            for direction in directions:
                self._open[direction].set()

    @contextmanager
    def damaging(self, damage: Damage, chance: float = 1.0, max_count: float = inf) -> Iterator[None]:
        """Within the block, damage at most `max_count` responses, each with this chance; the requests are executed."""
        self._damage, self._damage_chance, self._damages_left = damage, chance, max_count
        try:
            yield
        finally:
            self._damage = None

    @contextmanager
    def dropping(self, chance: float = 1.0) -> Iterator[None]:
        """Within the block, drop requests unexecuted, each with this chance, and reset their connections."""
        self._drop_chance = chance
        try:
            yield
        finally:
            self._drop_chance = 0.0

    def reset(self) -> None:
        """Reset all current connections at both ends."""
        for connection in list(self._connections.values()):
            self.resets += 1
            connection.reset()

    async def wait_until_closed(self) -> None:
        """Wait until all current connections have closed."""
        await asyncio.gather(*self._connections)

    async def wait_to_forward(self, direction: Direction) -> None:
        """Wait until a piece may be forwarded."""
        self.pending_pieces += 1
        if self._delay:
            await asyncio.sleep(self._rng.uniform(0, self._delay))
        await self._open[direction].wait()
        self.pending_pieces -= 1

    def should_drop(self) -> bool:
        """Decide whether to drop a request."""
        return self._drop_chance > 0 and self._rng.random() < self._drop_chance

    def choose_damage(self) -> Damage | None:
        """Decide whether and how to damage a response."""
        if self._damage is None or self._damages_left < 1 or self._rng.random() >= self._damage_chance:
            return None
        self._damages_left -= 1
        return self._damage

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until both ends have closed it."""
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        connection = self._connections[task] = _Connection((reader, writer), upstream)
        try:
            await connection.run(self)
        finally:
            del self._connections[task]
            await hang_up(upstream[1])


@asynccontextmanager
async def proxy(upstream: int, rng: random.Random) -> AsyncIterator[Proxy]:
    """Run a proxy on a free port within the block."""
    started = Proxy(upstream, rng)
    async with stream_server(started.serve) as started.port:
        try:
            yield started
        finally:
            started.reset()
            async with within(END_SECONDS, f"the end of all connections of the proxy to port {upstream}"):
                await started.wait_until_closed()


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """A client's connection to the proxy, and the matching connection from the proxy to the server."""

    def __init__(self, client: _Stream, server: _Stream) -> None:
        self._client = client
        self._server = server

    async def run(self, faults: Proxy) -> None:
        """Forward until both ends are closed."""
        await asyncio.gather(self._up(faults), self._down(faults))

    def reset(self) -> None:
        """Reset the connection at both ends."""
        _reset(self._client[1])
        _reset(self._server[1])

    async def _up(self, faults: Proxy) -> None:
        (reader, _), (_, writer) = self._client, self._server
        with suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await faults.wait_to_forward(Direction.TO_SERVER)
                if faults.should_drop():
                    faults.resets += 1
                    self.reset()
                    return
                writer.write(piece)
                await writer.drain()
        await faults.wait_to_forward(Direction.TO_SERVER)  # the end of a connection is delayed, too
        writer.close()

    async def _down(self, faults: Proxy) -> None:
        (_, writer), (reader, _) = self._client, self._server
        with suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await faults.wait_to_forward(Direction.TO_CLIENT)
                damage = faults.choose_damage()
                if damage is Damage.CUT:
                    writer.write(piece[: len(piece) // 2])
                if damage is not None:
                    faults.resets += 1
                    self.reset()
                    return
                writer.write(piece)
                await writer.drain()
        await faults.wait_to_forward(Direction.TO_CLIENT)
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection. Data in the buffers of the kernel may still arrive."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
