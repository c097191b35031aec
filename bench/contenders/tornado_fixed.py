"""Tornado's own HTTPServer and a handler with a fixed response; `--access-log` logs requests to standard error."""

import asyncio
import logging
import sys

import uvloop
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from bench.contenders.fixed import BODY, HEADERS


class Fixed(RequestHandler):
    """Sends the same bytes in response to each request."""

    def get(self, _: str) -> None:
        """Send the response."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.finish(BODY)


async def main(port: int, options: list[str]) -> None:
    """Serve."""
    settings = {} if "--access-log" in options else {"log_function": lambda _: None}
    logging.basicConfig(level=logging.INFO)
    server = HTTPServer(Application([(r"/guid/(\w+)", Fixed)], **settings))  # type: ignore[arg-type]  # as Tornado takes
    server.listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2:]))
