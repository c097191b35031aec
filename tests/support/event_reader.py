"""Clients of the event feed: pages, lines and server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tornado.httputil import HTTPHeaders

from tests.support.http_client import Client, hang_up, read_chunks

LINES = {"Accept": "application/x-ndjson"}
SSE = {"Accept": "text/event-stream"}
SECONDS = 30
"""Time limit for the next part of a stream."""

Event = dict[str, Any]


class Block(NamedTuple):
    """A block of server-sent events, as the HTML standard parses it."""

    fields: dict[str, str]

    @property
    def event(self) -> Event | None:
        """The event, or None if the block dispatches none."""
        return json.loads(self.fields["data"]) if "data" in self.fields else None


class StreamReader:
    """The response to a request for a stream: the head, and the parts as they arrive."""

    def __init__(self, status: int, headers: HTTPHeaders, reader: asyncio.StreamReader, *, is_sse: bool) -> None:
        self.status = status
        self.headers = headers
        self._chunks = read_chunks(reader)
        self._rest = b""
        self._end = b"\n\n" if is_sse else b"\n"
        self.is_cut_off = False
        """Whether the connection ended before the stream did."""

    async def texts(self) -> AsyncIterator[str]:
        """Yield lines or blocks until the stream ends."""
        while True:
            text, found, rest = self._rest.partition(self._end)
            if found:
                self._rest = rest
                yield text.decode()
                continue
            try:
                chunk = await asyncio.wait_for(anext(self._chunks, None), SECONDS)
            except (asyncio.IncompleteReadError, ConnectionError):
                self.is_cut_off = True
                return
            if chunk is None:
                return
            self._rest += chunk

    async def all_texts(self) -> list[str]:
        """Return all lines or blocks up to the end."""
        return [text async for text in self.texts()]

    async def text(self) -> str:
        """Return the next line or block."""
        async for text in self.texts():
            return text
        raise AssertionError("the stream has ended")

    async def line(self) -> Event:
        """Return the next line."""
        line: Event = json.loads(await self.text())
        return line

    async def lines(self) -> list[Event]:
        """Return all lines up to the end."""
        return [json.loads(text) for text in await self.all_texts()]

    async def block(self) -> Block:
        """Return the next block."""
        return parse_block(await self.text())

    async def blocks(self) -> list[Block]:
        """Return all blocks up to the end."""
        return [parse_block(text) for text in await self.all_texts()]


def parse_block(text: str) -> Block:
    """Parse a block of fields."""
    return Block(dict(line.split(": ", 1) for line in text.split("\n")))


@asynccontextmanager
async def reading(
    port: int, query: str = "", headers: Mapping[str, str] | None = None, *, host: str = "127.0.0.1"
) -> AsyncIterator[StreamReader]:
    """Request a stream of events, and disconnect at the end of the block. `host` is the client's own address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
    try:
        yield await _ask(reader, writer, query, headers or LINES)
    finally:
        await hang_up(writer)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, query: str, headers: Mapping[str, str]
) -> StreamReader:
    lines = [
        f"GET /events{query} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)).decode("latin-1")
    start, _, fields = head.partition("\r\n")
    is_sse = headers.get("Accept") == SSE["Accept"]
    return StreamReader(int(start.split()[1]), HTTPHeaders.parse(fields), reader, is_sse=is_sse)


async def page(client: Client, query: str = "", **options: Any) -> Any:
    """Return a page of events."""
    reply = await client.get(f"/events{query}", **options)
    assert reply.status == 200, reply.body
    return reply.json


async def now(client: Client) -> str:
    """Return the cursor after the newest event."""
    cursor: str = (await page(client, "?from=now"))["next"]
    return cursor


async def all_events(client: Client, query: str = "?limit=500", **options: Any) -> list[Event]:
    """Return all events, page by page."""
    found: list[Event] = []
    cursor = ""
    while True:
        here = await page(client, f"{query}{cursor}", **options)
        found += here["items"]
        cursor = f"&cursor={here['next']}"
        if not here["more"]:
            return found


async def until_streams(client: Client, count: int) -> None:
    """Wait until this many streams and waiting requests are open."""
    async with asyncio.timeout(20):
        while f"guidsvc_streams {count}.0" not in (await client.get("/metrics")).body.decode():
            await asyncio.sleep(0.01)


def types(events: list[dict[str, Any]]) -> list[str]:
    """Return the types of events without their common prefix."""
    return [event["type"].removeprefix("guid.") for event in events]
