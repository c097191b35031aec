"""The end of a connection in the middle of a response: abort it, or let the handler end the response early."""

from collections.abc import Callable
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPConnection

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


def is_open_ended(connection: HTTPConnection | None) -> bool:
    """Whether a connection of Tornado's server sends a response that ends only with the connection."""
    if not isinstance(connection, HTTP1Connection) or connection.stream.closed():
        return False
    has_begun = connection._response_start_line is not None and not connection._write_finished  # noqa: SLF001  # Tornado has no public attribute
    return has_begun and not connection._chunking_output and connection._expected_content_remaining is None  # noqa: SLF001
