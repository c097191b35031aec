"""HTTP/1 response writer: implements `tornado.httputil.HTTPConnection` for one request.

It serializes the head, the chunks and the end of a response. `guidsvc.server.protocol.connection` reads requests.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPOutputError, RequestStartLine, ResponseStartLine
from tornado.iostream import StreamClosedError

from guidsvc.http.response import BODILESS

JOIN_BYTES = 64 * 1024
"""Bodies above this size are not joined to the head, so that concurrent readers of a file share one copy."""


class Peer(Protocol):
    """The client's address and scheme, read by `tornado.httputil.HTTPServerRequest` from `HTTPConnection.context`."""

    remote_ip: str
    protocol: str


class ResponseSink(Protocol):
    """The underlying connection."""

    @property
    def context(self) -> Peer:
        """The client's address and scheme."""

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Send data. The future is done once the client has read enough; it fails with StreamClosedError if closed."""

    def on_response_complete(self) -> None:
        """Continue with the next request: the response is complete."""

    def close(self) -> None:
        """Send pending data, and close."""

    @property
    def is_request_complete(self) -> bool:
        """Whether the request is complete; else the connection closes after the response."""

    @property
    def is_leaving(self) -> bool:
        """Whether the connection must close after this response, because its place is needed."""

    def set_body_timeout(self, seconds: float | None) -> None:
        """Set the timeout of the request's whole body; None is unlimited."""

    def hang_up_at_eof(self) -> None:
        """Close at the end of the client's data, although the response is not complete."""


class ResponseWriter(HTTPConnection):
    """The response to a request of this method and version; `last` closes the connection after it."""

    def __init__(self, sink: ResponseSink, method: str, version: str, *, last: bool) -> None:
        self._sink: ResponseSink | None = sink
        self._method = method
        self._version = version
        self._is_chunked = False
        self._remaining_bytes: int | None = None  # remaining bytes of the body, if known
        self._close_callback: Callable[[], None] | None = None
        self._leave_callback: Callable[[], bool] | None = None
        self._is_expendable = False  # its connection leaves, and the client loses nothing without the rest
        self.context = sink.context
        self.last = last
        self.has_begun = False

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        assert isinstance(start_line, ResponseStartLine)  # noqa: S101  # nosec B101  # Tornado's type covers requests too
        self.has_begun = True
        lines = [f"HTTP/1.1 {start_line.code} {start_line.reason}"]
        length = None
        for name, value in headers.get_all():  # one pass, because each lookup costs as much
            if name == "Content-Length":
                length = int(value)
            elif name == "Connection":
                self.last = self.last or value.lower() == "close"
                continue
            lines.append(f"{name}: {value}")
        lines += self._framing(start_line.code, length)
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError(f"a line end within a header: {head!r}")
        start = head.encode("latin-1") + b"\r\n\r\n"
        if chunk and len(chunk) > JOIN_BYTES:
            self._send(start)
            return self._send(self._encode_chunk(chunk))
        return self._send(start + (self._encode_chunk(chunk) if chunk else b""))

    @property
    def is_open_ended(self) -> bool:
        """Whether an incomplete response has begun that ends only with the connection."""
        return self.has_begun and self._sink is not None and not self._is_chunked and self._remaining_bytes is None

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        return self._send(self._encode_chunk(chunk))

    def finish(self) -> None:
        if self._sink is None:
            return
        if self._remaining_bytes:
            self.close()
            raise HTTPOutputError(f"{self._remaining_bytes} bytes less than Content-Length says")
        if self._is_chunked:
            self._sink.write(b"0\r\n\r\n")
        sink, self._sink = self._sink, None
        self._close_callback = self._leave_callback = None
        sink.on_response_complete()

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Set the callback for a client that disconnects before the response is complete, as in Tornado."""
        self._close_callback = callback

    def set_body_timeout(self, timeout: float | None) -> None:
        """Set the timeout of the whole body in seconds, as in Tornado; None is unlimited."""
        if self._sink is not None:
            self._sink.set_body_timeout(timeout)

    def hang_up_at_eof(self) -> None:
        """Close the connection at the end of the client's data, although the response is not complete."""
        if self._sink is not None:
            self._sink.hang_up_at_eof()

    def call_on_leave(self, callback: Callable[[], bool]) -> None:
        """Call `callback` once if the connection must leave before the response is complete; at once if it must now.

        It returns whether the client loses nothing without the rest of the response.
        """
        if self._sink is not None and self._sink.is_leaving:
            self._is_expendable = callback()
        else:
            self._leave_callback = callback

    def leave(self) -> bool:
        """Close the connection after the response, and let the handler end it early.

        Return whether it does, and the client loses nothing without the rest.
        """
        self.last = True
        callback, self._leave_callback = self._leave_callback, None
        if callback is not None:
            self._is_expendable = callback()
        return self._is_expendable

    def close(self) -> None:
        """Close the connection even if the response is incomplete, as in Tornado."""
        if self._sink is not None:
            self._sink.close()

    def on_disconnect(self, *, notify: bool) -> None:
        """Handle the client's disconnection; with `notify`, run the close callback."""
        self._sink = self._leave_callback = None
        callback, self._close_callback = self._close_callback, None
        if notify and callback is not None:
            callback()

    def _framing(self, code: int, length: int | None) -> list[str]:
        """Choose the response framing (RFC 9112, 6), and return its headers."""
        framing = []
        self.last = self.last or (self._sink is not None and not self._sink.is_request_complete)
        if self._method == "HEAD" or code in BODILESS:
            self._remaining_bytes = 0
        elif length is not None:
            self._remaining_bytes = length
        elif self._version == "HTTP/1.1":
            self._is_chunked = True
            framing.append("Transfer-Encoding: chunked")
        else:
            self.last = True
        if self.last:
            framing.append("Connection: close")
        elif self._version == "HTTP/1.0":
            framing.append("Connection: keep-alive")
        return framing

    def _encode_chunk(self, chunk: bytes) -> bytes:
        if self._remaining_bytes is not None:
            self._remaining_bytes -= len(chunk)
            if self._remaining_bytes < 0:
                self.close()
                raise HTTPOutputError("more bytes than Content-Length says")
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked and chunk else chunk

    def _send(self, data: bytes) -> asyncio.Future[None]:
        return closed_future() if self._sink is None else self._sink.write(data)


def closed_future() -> asyncio.Future[None]:
    """Return a failed future, for writes to a closed connection."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(StreamClosedError())
    future.exception()  # mark it retrieved: nobody may await it
    return future
