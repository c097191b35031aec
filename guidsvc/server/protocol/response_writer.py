"""One request and its reply, as an application of Tornado sees a connection: `tornado.httputil.HTTPConnection`.

Here a reply is laid out as HTTP/1: its head, its chunks, its end. Requests are read by
`guidsvc.server.protocol.connection`.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPOutputError, RequestStartLine, ResponseStartLine
from tornado.iostream import StreamClosedError

from guidsvc.http.response import BODILESS

JOIN_BYTES = 64 * 1024
"""A larger body is not joined to its head: of a file that many read, there is one copy in memory."""


class Peer(Protocol):
    """Where the client is, as `tornado.httputil.HTTPServerRequest` asks it of `HTTPConnection.context`."""

    remote_ip: str
    protocol: str


class ResponseSink(Protocol):
    """The connection below."""

    @property
    def context(self) -> Peer:
        """Where the client is."""

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Send; the future is done when the client has taken enough, or StreamClosedError when it is gone."""

    def on_response_complete(self) -> None:
        """Go on to the next request: the reply to this one is complete."""

    def close(self) -> None:
        """Send what is left, and hang up."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the request has come: else the connection ends with the reply."""

    def set_body_timeout(self, seconds: float | None) -> None:
        """Give the body of this request so long to come whole; None is for ever."""


class ResponseWriter(HTTPConnection):
    """The reply to a request of this method and version; `last` if the connection ends with it."""

    def __init__(self, wire: ResponseSink, method: str, version: str, *, last: bool) -> None:
        self._wire: ResponseSink | None = wire
        self._method = method
        self._version = version
        self._chunked = False
        self._left: int | None = None  # bytes of the body that are still to come, where that is known
        self._close_callback: Callable[[], None] | None = None
        self.context = wire.context
        self.last = last
        self.begun = False

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        assert isinstance(start_line, ResponseStartLine)  # noqa: S101  # nosec B101  # Tornado's type is of both directions
        self.begun = True
        lines = [f"HTTP/1.1 {start_line.code} {start_line.reason}"]
        length = None
        for name, value in headers.get_all():  # once, for each look into the headers costs as much
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
            return self._send(self._part(chunk))
        return self._send(start + (self._part(chunk) if chunk else b""))

    @property
    def is_open_ended(self) -> bool:
        """Whether the reply has begun, is not complete, and only the end of the connection will tell that it is."""
        return self.begun and self._wire is not None and not self._chunked and self._left is None

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        return self._send(self._part(chunk))

    def finish(self) -> None:
        if self._wire is None:
            return
        if self._left:
            self.close()
            raise HTTPOutputError(f"{self._left} bytes less than Content-Length says")
        if self._chunked:
            self._wire.write(b"0\r\n\r\n")
        wire, self._wire, self._close_callback = self._wire, None, None
        wire.on_response_complete()

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Have this called if the client goes away before the reply is complete. As Tornado's own connections do."""
        self._close_callback = callback

    def set_body_timeout(self, timeout: float | None) -> None:
        """Give the body so many seconds to come whole; None is for ever. As Tornado's own connections do."""
        if self._wire is not None:
            self._wire.set_body_timeout(timeout)

    def close(self) -> None:
        """Hang up, whatever is still to be sent. As Tornado's own connections do."""
        if self._wire is not None:
            self._wire.close()

    def lost(self, *, tell: bool) -> None:
        """Note that the client has gone, and tell the application, unless it is told otherwise."""
        self._wire = None
        callback, self._close_callback = self._close_callback, None
        if tell and callback is not None:
            callback()

    def _framing(self, code: int, length: int | None) -> list[str]:
        """Decide how the end of the reply is told (RFC 9112, 6), and return the headers that tell it."""
        framing = []
        self.last = self.last or (self._wire is not None and not self._wire.is_whole)
        if self._method == "HEAD" or code in BODILESS:
            self._left = 0
        elif length is not None:
            self._left = length
        elif self._version == "HTTP/1.1":
            self._chunked = True
            framing.append("Transfer-Encoding: chunked")
        else:
            self.last = True
        if self.last:
            framing.append("Connection: close")
        elif self._version == "HTTP/1.0":
            framing.append("Connection: keep-alive")
        return framing

    def _part(self, chunk: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                self.close()
                raise HTTPOutputError("more bytes than Content-Length says")
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked and chunk else chunk

    def _send(self, data: bytes) -> asyncio.Future[None]:
        return closed_future() if self._wire is None else self._wire.write(data)


def closed_future() -> asyncio.Future[None]:
    """Return the future of what is written to a client that has gone."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(StreamClosedError())
    future.exception()  # whoever awaits it is told; nobody has to
    return future
