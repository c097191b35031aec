"""A client of Tornado's server: since when it waits, and what it has not read."""

import asyncio
from collections.abc import Callable
from typing import Any

from tornado.httputil import HTTPConnection
from tornado.iostream import IOStream

from guidsvc.server.abort import has_open_response, is_open_ended
from guidsvc.server.protocol.request import TLS_START, other_protocol
from guidsvc.server.protocol.send_buffer import SendBudget, SendRate, reset_on_close
from guidsvc.server.protocol.state import ConnectionLimits
from guidsvc.server.ticks import TICK_SECONDS
from guidsvc.server.tornado_log import OtherProtocolError

BARE_REFUSAL = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""What Tornado sends if it cannot read a request."""


class TornadoClient:
    """The client of a Tornado stream, and its unsent bytes, which Tornado does not report."""

    def __init__(
        self, stream: IOStream, budget: SendBudget, network: str, cors_lines: Callable[[str | None], str]
    ) -> None:
        self._stream = stream
        self._cors_lines = cors_lines
        self.network = network
        self._budget = budget
        self._written_bytes = 0
        self.rate = SendRate()
        self.connection: HTTPConnection | None = None
        """The connection of the latest request."""
        self.waits_since: float | None = None
        """The last tick before it began to wait for the head of a request; None once it has one.

        If the beginning of the head has arrived, the first tick after that.
        """
        self._has_begun_head = False
        self._write = stream.write
        stream.write = self._measured_write  # type: ignore[method-assign]  # called for each part of a response
        stream.read_until_regex = self._read_first_head  # type: ignore[method-assign]
        stream.set_nodelay(True)
        stream.set_nodelay = _ignore_nodelay  # type: ignore[assignment, method-assign]

    def end(self) -> None:
        """Restore the stream's methods, which breaks a reference cycle."""
        del self._stream.write, self._stream.set_nodelay
        self._restore_reading()

    async def _read_first_head(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Read the head of the first request. Raise OtherProtocolError if it is not HTTP/1.1.

        The first bytes of TLS need no end: Tornado would wait for it until the connection times out.
        """
        self._restore_reading()
        head = await self._stream.read_until_regex(rb"\A" + TLS_START + b"|" + regex, max_bytes)
        error = other_protocol(head)
        if error is not None:
            raise OtherProtocolError(error)
        return head

    def _restore_reading(self) -> None:
        vars(self._stream).pop("read_until_regex", None)

    def _measured_write(self, data: bytes | memoryview) -> "asyncio.Future[None]":
        if data == BARE_REFUSAL:
            data = self._readable_refusal()
        future = self._write(data)
        self.measure()
        return future

    def _readable_refusal(self) -> bytes:
        """Return the bare 400 of Tornado as pages of allowed origins may read it, if their Origin was read.

        Return nothing if the request has a response already.
        """
        connection: Any = self.connection  # an HTTP1Connection
        if connection is not None and connection._response_start_line is not None:  # noqa: SLF001
            return b""
        headers = None if connection is None else connection._request_headers  # noqa: SLF001  # None without a head
        lines = self._cors_lines(None if headers is None else headers.get("Origin"))
        return BARE_REFUSAL[:-2] + lines.encode("latin-1") + b"Connection: close\r\n\r\n"

    @property
    def is_responding(self) -> bool:
        """Whether the application has begun a response and not finished it."""
        return not self._stream.closed() and has_open_response(self.connection)

    @property
    def is_incomplete(self) -> bool:
        """Whether a response is incomplete, in a way that the client may not notice."""
        return not self._stream.closed() and (self._stream.writing() or is_open_ended(self.connection))

    def measure(self) -> None:
        """Record the unsent bytes."""
        written = self._stream._total_write_index  # noqa: SLF001
        added, self._written_bytes = written - self._written_bytes, written
        unsent = 0 if self._stream.closed() else len(self._stream._write_buffer)  # noqa: SLF001
        self._budget.written_bytes += added
        self.rate.measure(unsent, added)
        self._budget.note(self, self.rate.retained_bytes)

    def wait_for_head(self, now: float) -> None:
        """Begin to wait for the head of the next request."""
        self.waits_since, self._has_begun_head = now, False

    def note_head(self, now: float) -> None:
        """Record that the beginning of the head has arrived, if it has. Empty lines before it do not count."""
        if self.waits_since is None or self._has_begun_head or not self._stream._read_buffer_size:  # noqa: SLF001
            return
        if self._stream._read_buffer[:4].strip(b"\r\n"):  # noqa: SLF001  # Tornado has no public attribute
            self.waits_since, self._has_begun_head = now, True

    def is_overdue(self, now: float, limits: ConnectionLimits) -> bool:
        """Whether the client has sent no head, or not all of one, within the time limit."""
        seconds = limits.head_seconds if self._has_begun_head else limits.idle_seconds
        return self.waits_since is not None and self.waits_since + seconds + TICK_SECONDS <= now

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        if not self._stream.closed():
            reset_on_close(self._stream.socket)
            self._stream.close()


def _ignore_nodelay(*_: object) -> None:
    """Leave TCP_NODELAY set. Tornado would set and clear it for each request."""
