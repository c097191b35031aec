"""The state that the connections of a server share: application, fast path, limits and budgets."""

import asyncio
import select
import selectors
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from httptools import HttpRequestParser
from tornado.httputil import HTTPServerConnectionDelegate

from guidsvc.runtime.admission import Admission
from guidsvc.runtime.fairness.loop_turns import LoopTurns
from guidsvc.server.client_networks import address_of
from guidsvc.server.connection_table import ConnectionTable
from guidsvc.server.protocol.read_throttle import ReadThrottle
from guidsvc.server.protocol.request import RawHeaders
from guidsvc.server.protocol.send_buffer import SendBudget

_HUNG_UP: int | None = getattr(select, "POLLRDHUP", None)  # of Linux
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class DirectRequest(Protocol):
    """A request that is answered without a handler, once it is complete."""

    last: bool
    """Whether the connection closes after the answer."""

    def reject_if_overloaded(self) -> bytes | None:
        """Return the rejection if no admission slot is available; else None."""

    def answer_soon(self, callback: Callable[[bytes | None], object]) -> bool:
        """Begin to answer without a task, if that is possible, and return whether it is.

        Then `callback` gets the answer later, or None if `respond` must be called after all.
        """

    def respond(self, body: bytes) -> Coroutine[Any, Any, bytes]:
        """Execute the request with this body, and return the answer."""

    def abandon(self) -> None:
        """Cancel the request: the client disconnected before it was complete or during its execution."""


class FastPath(Protocol):
    """Answers some requests without a handler: `guidsvc.api.fast_path.dispatcher`."""

    admission: Admission
    """Admission control of requests."""

    def serve_repeated_read(self, data: bytes, peer: "Peer") -> bytes | None:
        """Return the answer if the data is a complete request like a remembered one; else None."""

    def serve_repeated(self, data: bytes, peer: "Peer") -> bytes | None:
        """Return what `serve_repeated_read` does, also for a remembered lease request."""

    def dispatch(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser, peer: "Peer"
    ) -> bytes | DirectRequest | None:
        """Return the answer if available at once; or the request, if it needs no handler; or None, if it needs one."""

    def remember_request(self, data: bytes) -> bool:
        """Remember `data`, which must be exactly the last answered request.

        Return whether only `serve_repeated` serves such requests.
        """

    def remember_renewal(self, data: bytes, target: bytes) -> bool:
        """Remember `data`, which is exactly the request with this target, if it is a renewal; return whether it is.

        `target` is the object that `dispatch` got. Only `serve_repeated` serves such requests.
        """

    def is_proxy(self, peer: "Peer") -> bool:
        """Whether the peer is a trusted proxy, whose connections carry the requests of many clients."""


class ApplicationHooks(Protocol):
    """The server's calls to the application, apart from requests."""

    def requires_admission(self, target: bytes) -> bool:
        """Whether a request for this target needs an admission slot."""

    def cors_lines(self, origin: str | None) -> str:
        """Return the header lines by which a page of this origin may read a response, each with its line break."""

    def reject_request(self, error: Exception, *, origin: str | None, secure: bool) -> bytes:
        """Count and log a request that cannot be served; return its response, after which the connection closes.

        `origin` is that of the page that sent it, or None.
        """

    def log_rejected(self, error: Exception) -> None:
        """Log a request that the server itself has rejected."""

    def reject_connection(self, *, secure: bool) -> bytes:
        """Count a connection over the limit; return its response, after which it closes."""

    def log_failure(self, error: BaseException) -> None:
        """Log an error whose response can no longer be sent."""


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits on clients: bytes, seconds, connections."""

    head_bytes: int = 16 * 1024
    incoming_bytes: int = 64 * 1024 * 1024
    """Received bytes of unanswered requests, of all connections together."""
    head_seconds: float = 10.0
    """From the first byte of a request to the end of its head."""
    body_seconds: float = 30.0
    """From the end of the head to the end of the body, unless the handler sets another timeout."""
    idle_seconds: float = 75.0
    """Without a request."""
    write_seconds: float = 30.0
    """Window over which the rate is averaged at which a client reads an answer."""
    write_bytes_per_second: float = 2048.0
    """Minimum rate. A part of a stream, which is at most 64 KiB, then has about `write_seconds`."""
    connections: int = 10_000
    leave_seconds: float = 10.0
    """For a connection whose place is needed, to execute its request."""
    spare_connections: int = 32
    """Descriptors beyond `connections`: for connections that close or are rejected, and for those in their places."""
    unsent_bytes: int = 128 * 1024 * 1024
    """Unsent bytes of answers, of all connections together."""
    connection_unsent_bytes: int = 32 * 1024 * 1024
    """Unsent bytes of one connection; more than any answer has."""


class ServerState:
    """The shared state of the connections. `tick` is the clock for time-outs.

    It does not advance while the event loop is stalled, because arriving data could not be read.
    """

    def __init__(
        self,
        app: HTTPServerConnectionDelegate,
        hooks: ApplicationHooks,
        limits: ConnectionLimits,
        fast_path: FastPath | None,
    ) -> None:
        self.app = app
        self.hooks = hooks
        self.limits = limits
        self.fast_path = fast_path
        self.admission = None if fast_path is None else fast_path.admission
        # One object of each bound method for all connections
        self.serve_repeated_read = None if fast_path is None else fast_path.serve_repeated_read
        self.serve_repeated = None if fast_path is None else fast_path.serve_repeated
        self.table = ConnectionTable()
        self.incoming_bytes = 0
        """Bytes of unanswered requests, of all connections."""
        self.read_throttle = ReadThrottle()
        self.budget = SendBudget(limits.unsent_bytes, limits.connection_unsent_bytes)
        self.parsing_turns = LoopTurns()
        """The turns of connections with many pipelined requests, or many chunks."""
        self.tick = asyncio.get_running_loop().time()
        self.done_future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """A completed future, for writes that need not wait."""
        self.done_future.set_result(None)

    def is_over_budget(self) -> bool:
        """Whether all connections together hold too much; then those over their share are rejected.

        All shares together add at most the budget once more.
        """
        return self.incoming_bytes > self.limits.incoming_bytes


class Peer:
    """The client's address and scheme, for `tornado.httputil.HTTPServerRequest`."""

    __slots__ = ("protocol", "remote_ip", "secure")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.remote_ip = address_of(transport.get_extra_info("peername"))
        self.secure = transport.get_extra_info("sslcontext") is not None
        """Whether this connection itself uses TLS, whatever a proxy reports."""
        self.protocol = "https" if self.secure else "http"


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether unread data has arrived; closing now could discard a request. False if the transport is closed."""
    descriptor = _descriptor_of(transport)
    if descriptor < 0:
        return False
    with _Selector() as selector:  # of a kind that needs no file descriptor: none may be left
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))


def has_sent_all(transport: asyncio.BaseTransport) -> bool:
    """Whether the client has sent EOF, though data before it may be unread; False if the system cannot tell."""
    descriptor = _descriptor_of(transport)
    if _HUNG_UP is None or descriptor < 0:
        return False
    poll = select.poll()
    poll.register(descriptor, _HUNG_UP)
    return bool(poll.poll(0))


def has_unacknowledged(transport: asyncio.BaseTransport) -> bool:
    """Whether the client's system has not acknowledged all data that was sent; also True if that is unknown."""
    descriptor = _descriptor_of(transport)
    if descriptor < 0:
        return False
    with suppress(ImportError, OSError):  # Windows cannot tell
        from fcntl import ioctl
        from termios import TIOCOUTQ

        unacknowledged: int = struct.unpack("i", ioctl(descriptor, TIOCOUTQ, bytes(4)))[0]
        return unacknowledged > 0
    return True


def _descriptor_of(transport: asyncio.BaseTransport) -> int:
    """Return the file descriptor of a transport, or -1 if it is closed. uvloop then has no socket."""
    connection = transport.get_extra_info("socket")
    return -1 if connection is None else int(connection.fileno())
