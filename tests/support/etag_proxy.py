"""A reverse proxy that weakens or removes the entity tags of responses, as those that compress or change them do."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

WEAK, REMOVED = "weak", "removed"
"""What becomes of the entity tags."""
_OF_THE_CONNECTION = {"connection", "content-length", "transfer-encoding", "server", "date"}


@contextmanager
def etag_proxy(port: int, tags: str) -> Iterator[str]:
    """Run the proxy of a service on a port of this host; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as service:
                service.request(self.command, self.path, content or None, dict(self.headers))
                response = service.getresponse()
                body = response.read()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() == "etag":
                    if tags == WEAK:
                        self.send_header(name, f"W/{value}")
                elif name.lower() not in _OF_THE_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = forward  # noqa: N815  # names of the library

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
