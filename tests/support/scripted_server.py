"""A server with scripted responses: complete, in pieces, or none."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_client import reset
from tests.support.stream_server import stream_server

RESET = b""
"""Instead of a response: reset the connection."""


@dataclass(frozen=True)
class Request:
    """A request that the server has read. The names of the headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


Answer = Callable[[Request], Awaitable[bytes] | AsyncIterator[bytes] | bytes | None]


@dataclass
class ScriptedServer:
    """Sends on `port` what `answer` returns for a request, or never responds if it is None. Records all requests.

    An iterator yields the parts of a response, and is the last response on its connection.
    """

    answer: Answer
    port: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Respond to the requests of one connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await _read(reader)
                self.requests.append(request)
                answer = self.answer(request)
                if isinstance(answer, AsyncIterator):
                    async for part in answer:
                        writer.write(part)
                        await writer.drain()
                    return
                response = await answer if isinstance(answer, Awaitable) else answer
                if response is None:
                    await reader.read()  # until the client gives up
                if not response:
                    await reset(writer)
                    return
                writer.write(response)
                await writer.drain()
                if b"\r\nConnection: close\r\n" in response:
                    return


@asynccontextmanager
async def scripted_server(answer: Answer) -> AsyncIterator[ScriptedServer]:
    """Run a server inside the block, on a free port."""
    scripted = ScriptedServer(answer)
    async with stream_server(scripted.serve) as scripted.port:
        yield scripted


def response(status: int, content: bytes = b"", kind: str = "application/json", **headers: str) -> bytes:
    """Return a response. An underscore in the name of a header stands for a hyphen."""
    fields = {"Content-Type": kind, "Content-Length": str(len(content))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} -\r\n{head}\r\n".encode() + content


def problem(code: str, status: int, members: Mapping[str, Any] | None = None, **headers: str) -> bytes:
    """Return the response of a problem."""
    document = {"type": f"/problems/{code}", "title": code, "status": status, "code": code, "request_id": "1"}
    content = json.dumps(document | dict(members or {})).encode()
    return response(status, content, "application/problem+json", **headers)


async def _read(reader: asyncio.StreamReader) -> Request:
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
    method, target, _ = start.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Request(method, target, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
