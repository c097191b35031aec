"""A proxy in front of a MongoDB server that drops chosen commands, as if its disk had stalled, or delays them all."""

import asyncio
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tests.support.backing_servers import Server
from tests.support.http_client import hang_up
from tests.support.stream_server import stream_server

OP_MSG = 2013
_HEADER = struct.Struct("<iiii")
_NAME_AT = 10
"""Offset of the command's name in the body of a message: after the flags, the section's kind, a size, and a type."""


_SIZE_BYTES = 4
"""Size of the length before the value of a command's name, which is the collection."""


class MongoProxy:
    """Forwards messages in both directions, and counts the commands that it drops, and all by name."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.dropped_commands = 0
        self.commands: Counter[str] = Counter()
        self.ready = threading.Event()
        self.upstream = upstream
        self._delay_seconds = 0.0
        self._names: frozenset[bytes] = frozenset()
        self._collection: bytes | None = None

    @contextmanager
    def dropping(self, *names: str, collection: str | None = None) -> Iterator[None]:
        """Within the block, drop the commands with these names, on one collection or on all. They get no response."""
        self._names = frozenset(name.encode() for name in names)
        self._collection = None if collection is None else collection.encode()
        try:
            yield
        finally:
            self._names = frozenset()

    @contextmanager
    def delaying(self, seconds: float) -> Iterator[None]:
        """Within the block, forward each command late; the driver's checks of the server are not delayed."""
        self._delay_seconds = seconds
        try:
            yield
        finally:
            self._delay_seconds = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            await asyncio.gather(
                self._pass(reader, upstream, is_request=True), self._pass(upstream_reader, writer, is_request=False)
            )
        finally:
            await hang_up(upstream)

    async def run(self) -> None:
        """Serve until `stop` is called."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        async with stream_server(self.serve) as self.port:
            self.ready.set()
            await self._stopped.wait()

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                header = await reader.readexactly(_HEADER.size)
                length, _, _, code = _HEADER.unpack(header)
                body = await reader.readexactly(length - _HEADER.size)
                if is_request and code == OP_MSG:
                    name = body[_NAME_AT:].split(b"\0", 1)[0].decode()
                    self.commands[name] += 1
                    if self._delay_seconds and name != "hello":
                        await asyncio.sleep(self._delay_seconds)
                    if self._should_drop(body[_NAME_AT:]):
                        self.dropped_commands += 1
                        continue
                writer.write(header + body)
                await writer.drain()
        writer.close()

    def _should_drop(self, command: bytes) -> bool:
        name, value = command.split(b"\0", 1)
        if name not in self._names:
            return False
        collection = value[_SIZE_BYTES:].split(b"\0", 1)[0]
        return self._collection in {None, collection}


@contextmanager
def mongo_proxy(upstream: int) -> Iterator[MongoProxy]:
    """Run a proxy for the server on this port within the block, in a thread, because closing the driver blocks."""
    proxy = MongoProxy(upstream)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(asyncio.run, proxy.run())
        proxy.ready.wait()
        try:
            yield proxy
        finally:
            proxy.stop()
            running.result()


@pytest.fixture
def proxied_mongo(own_mongo: Server) -> Iterator[MongoProxy]:
    """A proxy to a MongoDB server that belongs to one test."""
    with mongo_proxy(own_mongo.port) as proxy:
        yield proxy
