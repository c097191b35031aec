"""The head of a request to Tornado's server: its bounds, and what it says about the connection."""

from collections.abc import Awaitable
from typing import Any

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from guidsvc.http.headers.connection import has_close
from guidsvc.http.headers.host import LONG_PORT, LONG_TARGET_PORT
from guidsvc.http.headers.recognized import MAX_HEADERS
from guidsvc.server.protocol.request import PORT_FAULT, without_query
from guidsvc.server.tornado_adapter.client import TornadoClient

SMALL_BODY_BYTES = 64 * 1024
"""Maximum size of a body of which the rest is read after an early response, so that the connection stays open."""


class BoundedHead(HTTPMessageDelegate):
    """A request whose headers are bounded in number, and are read as the RFCs say where Tornado does not.

    An early response, before the end of the request, says whether its connection closes. Tornado closes it, and does
    not say so: a proxy would send the next request on it.
    """

    def __init__(self, delegate: HTTPMessageDelegate, client: TornadoClient | None, connection: HTTPConnection) -> None:
        self._delegate = delegate
        self._client = client
        self._connection: Any = connection  # an HTTP1Connection
        self._closes_if_early = False
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # saves a call for each part
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if self._client is not None:
            self._client.waits_since = None
        if sum(1 for _ in headers.get_all()) > MAX_HEADERS:
            raise HTTPInputError(f"more than {MAX_HEADERS} headers")
        if isinstance(start_line, RequestStartLine) and _has_long_port(start_line.path, headers):
            raise HTTPInputError(PORT_FAULT)
        is_old = start_line.version == "HTTP/1.0"
        if is_old:
            headers.pop("Expect", None)  # RFC 9110, 10.1.1: such a client does not know 100 (Continue)
        elif start_line.version != "HTTP/1.1":  # a later minor version (RFC 9110, 2.5); Tornado would close
            start_line = start_line._replace(version="HTTP/1.1")
            self._connection._request_start_line = start_line  # noqa: SLF001  # see `finish`
            self._connection._disconnect_on_finish = False  # noqa: SLF001
        is_last = "Connection" in headers and has_close(headers["Connection"])
        if isinstance(start_line, RequestStartLine):
            is_last |= start_line.method == "CONNECT"
        self._decide_end(headers, is_last=is_last, is_old=is_old)
        if isinstance(start_line, RequestStartLine) and start_line.method == "OPTIONS":
            start_line = start_line._replace(path=without_query(start_line.path))
        return self._delegate.headers_received(start_line, headers)

    def _decide_end(self, headers: HTTPHeaders, *, is_last: bool, is_old: bool) -> None:
        """Decide whether the connection closes: after every response, after one that is early, or after none."""
        connection = self._connection
        if is_last:
            connection._disconnect_on_finish = True  # noqa: SLF001  # Tornado compares the whole value with `close`
        if not connection._disconnect_on_finish:  # noqa: SLF001
            if _has_small_body(headers):
                connection._read_finished = True  # noqa: SLF001  # Tornado reads the rest all the same
            else:
                connection._disconnect_on_finish = True  # noqa: SLF001  # then the head of a response says so
                self._closes_if_early = not is_old
        if is_old and connection._disconnect_on_finish:  # noqa: SLF001
            headers.pop("Connection", None)  # else Tornado would respond with Keep-Alive

    def finish(self) -> None:
        """Pass on that the request is complete: a response that has not begun yet is not early."""
        connection = self._connection
        if self._closes_if_early and connection._response_start_line is None:  # noqa: SLF001  # Tornado has no public attribute
            connection._disconnect_on_finish = False  # noqa: SLF001
        self._delegate.finish()


def _has_long_port(target: str, headers: HTTPHeaders) -> bool:
    """Whether the port of the Host, or of an absolute target, has more than 5 digits."""
    host = headers.get("Host", "").encode("latin-1")
    return LONG_PORT.search(host) is not None or LONG_TARGET_PORT.match(target.encode("latin-1")) is not None


def _has_small_body(headers: HTTPHeaders) -> bool:
    """Whether a request has no body, or a small one that its client sends whatever the response is."""
    if "Content-Length" not in headers:
        return "Transfer-Encoding" not in headers
    length = headers["Content-Length"]
    if "Transfer-Encoding" in headers or not (length.isascii() and length.isdecimal()):
        return False
    size = length.lstrip("0")
    if len(size) > len(str(SMALL_BODY_BYTES)) or int(size or 0) > SMALL_BODY_BYTES:
        return False
    return not size or "Expect" not in headers  # else it may send no body (RFC 9110, 10.1.1)
