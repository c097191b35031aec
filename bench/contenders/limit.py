"""The limit of Python: an asyncio.Protocol with httptools and uvloop that sends one fixed response."""

import asyncio
import sys

import uvloop
from httptools import HttpRequestParser

from bench.contenders.fixed import BODY, HEAD


class Fixed(asyncio.Protocol):
    """Parses requests, and sends the same bytes in response to each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]  # it is one
        self._parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Take the target of a request."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""

    def on_message_complete(self) -> None:
        """Send the response."""
        self._transport.write(HEAD + BODY)


async def main(port: int) -> None:
    """Serve."""
    server = await asyncio.get_running_loop().create_server(Fixed, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
