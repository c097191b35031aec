"""Tornado's own HTTPServer, and a handler with a fixed answer."""

import asyncio
import sys

import uvloop
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from bench.contenders.fixed import BODY, HEADERS


class Fixed(RequestHandler):
    """Answers each request with the same bytes."""

    def get(self, _: str) -> None:
        """Answer."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.finish(BODY)


async def main(port: int) -> None:
    """Serve."""
    server = HTTPServer(Application([(r"/guid/(\w+)", Fixed)], log_function=lambda _: None))
    server.listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
