"""A client of the service over real sockets, with persistent connections."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from tornado.httputil import HTTPHeaders

MAX_REQUESTS = 64
"""Maximum number of concurrent requests of one client: well below the 256 of the service by default."""

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Reply(NamedTuple):
    """A reply of the service."""

    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def lines(self) -> list[Any]:
        """The body, which must be lines of JSON."""
        assert self.body.endswith(b"\n") or not self.body
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class Client:
    """Sends requests to the service on a port of this host, with `json` for a JSON body and `body` for any other.

    At most MAX_REQUESTS are in flight at a time; more wait here, so that a busy machine does not reject them.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.headers: dict[str, str] = {}
        """Headers of every request."""
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request and return the response, whatever its status; ConnectionError if there is none."""
        content_type = {} if json is None else {"Content-Type": "application/json"}
        all_headers = self.headers | content_type | dict(headers or {})
        request = _request(method, path, all_headers, body if json is None else _dump(json))
        async with self._slots:
            return await self._send(method, request)

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.ask("GET", path, **options)

    async def put(self, path: str, json: object = None, **options: Any) -> Reply:
        return await self.ask("PUT", path, json=json, **options)

    async def post(self, path: str, json: object = None, **options: Any) -> Reply:
        return await self.ask("POST", path, json=json, **options)

    async def delete(self, path: str, **options: Any) -> Reply:
        return await self.ask("DELETE", path, **options)

    async def aclose(self) -> None:
        """Close the connections that are idle."""
        while self._idle:
            await hang_up(self._idle.pop()[1])

    async def _send(self, method: str, request: bytes) -> Reply:
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange(connection, method, request)
            except ConnectionError:  # closed while idle: only a new connection shows whether the service responds
                continue
        return await self._exchange(await asyncio.open_connection("127.0.0.1", self.port), method, request)

    async def _exchange(self, connection: _Connection, method: str, request: bytes) -> Reply:
        reader, writer = connection
        try:
            writer.write(request)
            reply = await asyncio.wait_for(read_reply(reader, method), 30)
        except BaseException as error:
            await hang_up(connection[1])
            if isinstance(error, asyncio.IncompleteReadError):
                raise ConnectionResetError("the connection was closed instead of a reply") from error
            raise
        if reply.headers.get("Connection") == "close":
            await hang_up(connection[1])
        else:
            self._idle.append(connection)
        return reply


async def reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, like a client that crashes."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await hang_up(writer)


async def read_reply(reader: asyncio.StreamReader, method: str) -> Reply:
    """Read one reply; IncompleteReadError if the connection ends before it does."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, _, fields = head.partition("\r\n")
    status, headers = int(start.split()[1]), HTTPHeaders.parse(fields)
    if method == "HEAD" or status in {100, 204, 304}:
        return Reply(status, headers, b"")
    if headers.get("Transfer-Encoding") == "chunked":
        return Reply(status, headers, b"".join([chunk async for chunk in read_chunks(reader)]))
    length = headers.get("Content-Length")  # without one the end of the connection is that of the body
    return Reply(status, headers, await (reader.read() if length is None else reader.readexactly(int(length))))


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Read a chunked body; IncompleteReadError if the connection ends before it does."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    all_headers = {"Host": "127.0.0.1"} | dict(headers)
    if body is not None:
        all_headers["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection; return when it is closed."""
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


async def raw(client: Client, *parts: bytes) -> Reply:
    """Send raw bytes on a new connection; return the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    reply = await asyncio.wait_for(read_reply(reader, "GET"), 30)
    await hang_up(writer)
    return reply


def chunk(data: bytes) -> bytes:
    """Return data as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
