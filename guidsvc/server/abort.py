"""The end of a connection in the middle of a request or a response.

Abort it, let the handler end the response early, or let the client read a response that it gets while it sends.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPConnection
from tornado.iostream import IOStream, StreamClosedError

from guidsvc.server.protocol.base_connection import LINGER_SECONDS
from guidsvc.server.protocol.read_throttle import discard_pause
from guidsvc.server.protocol.response_writer import ResponseWriter
from guidsvc.server.protocol.send_buffer import reset_on_close


def break_off(connection: HTTPConnection) -> None:
    """Close a connection so that the client can tell that its response is incomplete.

    With a TCP reset if a regular close would make it look complete.
    """
    closeable: Any = connection  # each of the two servers' connections can be closed, which Tornado's type does not say
    if is_open_ended(connection):
        reset_on_close(closeable.stream.socket)
    closeable.close()


def hang_up_at_eof(connection: HTTPConnection | None) -> None:
    """Close the connection once the client sends nothing more, although its response is not complete.

    A client that has gone is then noticed without a write. Tornado's server does this for every request.
    """
    if isinstance(connection, ResponseWriter):
        connection.hang_up_at_eof()


def call_on_leave(connection: HTTPConnection | None, callback: Callable[[], bool]) -> None:
    """Call `callback` once the connection must leave, as others need its place. The handler must then respond soon.

    The callback returns whether the client loses nothing without the response: the connection may close before it.
    Tornado's server lets no connection leave.
    """
    if isinstance(connection, ResponseWriter):
        connection.call_on_leave(callback)


def has_open_response(connection: HTTPConnection | None) -> bool:
    """Whether a response of Tornado's server was begun and not finished."""
    if not isinstance(connection, HTTP1Connection):
        return False
    return connection._response_start_line is not None and not connection._write_finished  # noqa: SLF001  # Tornado has no public attribute


def is_open_ended(connection: HTTPConnection | None) -> bool:
    """Whether a connection of Tornado's server sends a response that ends only with the connection."""
    if not isinstance(connection, HTTP1Connection) or connection.stream.closed():
        return False
    is_delimited = connection._chunking_output or connection._expected_content_remaining is not None  # noqa: SLF001  # see above
    return has_open_response(connection) and not is_delimited


def linger_after(connection: HTTPConnection | None, *, is_last: bool) -> None:
    """Let Tornado's server close a connection late if its response ends before the body of the request.

    A client that is cut off while it sends may never see the response. Until it closes the connection, for at most
    LINGER_SECONDS, the rest of the request is read and discarded. guidsvc's server does this by itself.

    After a small body, the connection closes only if this response `is_last`.
    """
    if isinstance(connection, HTTP1Connection) and (is_last or connection._disconnect_on_finish):  # noqa: SLF001  # Tornado has no public attribute
        connection._disconnect_on_finish = True  # noqa: SLF001
        connection.close = partial(_linger, connection)  # type: ignore[method-assign]  # called once the response is sent


def is_lingering(connection: HTTPConnection | None) -> bool:
    """Whether a connection of Tornado's server stays open after its response, as its client still sends."""
    if not isinstance(connection, HTTP1Connection) or connection.stream.closed():
        return False
    return "close" in vars(connection) and connection._write_finished  # noqa: SLF001  # see above


def _linger(connection: HTTP1Connection) -> None:
    stream = connection.stream
    connection.close = _do_nothing  # type: ignore[method-assign]  # Tornado and the handler may both call it
    if not stream.closed():
        stream.read_until_regex = _refuse_request  # type: ignore[method-assign]  # after the rest of the body
        if not isinstance(stream.socket, ssl.SSLSocket):  # TLS has no half-closed connections
            with suppress(OSError):  # the client has gone
                stream.socket.shutdown(socket.SHUT_WR)
        stream.read_bytes = _Discarding(stream).read_bytes  # type: ignore[method-assign]
        asyncio.get_running_loop().call_later(LINGER_SECONDS, _end_linger, stream)


def _end_linger(stream: IOStream) -> None:
    vars(stream).pop("read_bytes", None)  # breaks a reference cycle
    stream.close()


class _Discarding:
    """The reading of a body that is discarded: at a low rate beyond a bound."""

    def __init__(self, stream: IOStream) -> None:
        self._read_bytes = stream.read_bytes
        self._discarded_bytes = 0

    async def read_bytes(self, num_bytes: int, partial: bool = False) -> bytes:  # noqa: FBT001, FBT002  # Tornado's signature
        data = await self._read_bytes(num_bytes, partial)
        self._discarded_bytes += len(data)
        if pause := discard_pause(self._discarded_bytes, len(data)):
            await asyncio.sleep(pause)
        return data


def _do_nothing() -> None:
    pass


def _refuse_request(*_: object, **__: object) -> NoReturn:
    raise StreamClosedError
