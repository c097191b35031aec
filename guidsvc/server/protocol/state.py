"""What the connections of a server are given: the application, the short way past it, and the limits of clients."""

import asyncio
import select
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from httptools import HttpRequestParser
from tornado.httputil import HTTPServerConnectionDelegate

from guidsvc.http.headers.proxy import UNIX
from guidsvc.runtime.admission import Admission
from guidsvc.server.protocol.read_throttle import ReadThrottle
from guidsvc.server.protocol.request import RawHeaders
from guidsvc.server.protocol.send_buffer import SendBudget

_HUNG_UP: int | None = getattr(select, "POLLRDHUP", None)  # of Linux
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class DirectRequest(Protocol):
    """A request that is answered without a handler, when all of it has come."""

    last: bool
    """Whether the connection ends with its answer."""

    def reject_if_overloaded(self) -> bytes | None:
        """Return the refusal, if there is no room for it; else None."""

    def answer(self, sent: bytes) -> Coroutine[Any, Any, bytes]:
        """Do it, with the body that was sent, and return the answer."""

    def abandon(self) -> None:
        """Forget it: the client has gone, before all of it had come or while it is being done."""


class FastPath(Protocol):
    """Answers some requests so that no handler need be asked: `guidsvc.api.fast_path.dispatcher`."""

    admission: Admission
    """Gives places to those that take time."""

    def serve_repeated_read(self, data: bytes, peer: "Peer") -> bytes | None:
        """Answer what came, if it is a whole request like one that is remembered; else None."""

    def answer(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser, peer: "Peer"
    ) -> bytes | DirectRequest | None:
        """Answer a request, if that can be done at once; or return it, if it needs no handler; or None, if it does."""

    def remember_request(self, data: bytes) -> None:
        """Note that this was the request that was answered last, all of it and nothing else."""


class ApplicationHooks(Protocol):
    """What the server asks of the application beside handling requests."""

    def requires_admission(self, target: bytes) -> bool:
        """Whether a request for this target waits for a place before it is handled."""

    def reject_request(self, error: Exception, *, secure: bool) -> bytes:
        """Count and log a request that cannot be read; return its response, after which the connection closes."""

    def reject_connection(self, *, secure: bool) -> bytes:
        """Count a connection above the limit; return its response, after which it closes."""

    def log_failure(self, error: BaseException) -> None:
        """Log an error whose response can no longer be sent."""


class ManagedConnection(Protocol):
    """A connection, as its server sees it."""

    def regulate(self) -> None:
        """Keep the client from sending while there is no room for it."""

    def overdue(self, now: float) -> bool:
        """Whether the client has had its time."""

    def retire(self, latest: float) -> bool:
        """Hang up, if it has been idle since before this time; whether there is still something to do for it."""

    def expire(self) -> None:
        """Hang up on a client that has had its time, unless a request has come that was not read yet."""

    def close(self) -> None:
        """Send what is left, and hang up; with a reset if the client would take that for the end of its answer."""

    def abort(self) -> None:
        """Hang up, whatever is still to be sent."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may take: bytes, seconds, connections."""

    head_bytes: int = 16 * 1024
    incoming_bytes: int = 64 * 1024 * 1024
    """Of all clients together: what they have sent of requests that are not answered yet."""
    head_seconds: float = 10.0
    """From the first byte of a request to the end of its head."""
    body_seconds: float = 30.0
    """From there to the end of its body, unless its handler says otherwise."""
    idle_seconds: float = 75.0
    """Without a request."""
    write_seconds: float = 30.0
    """Over which the rate is averaged at which it takes an answer."""
    write_bytes_per_second: float = 2048.0
    """The least such rate. A part of a stream, which is at most 64 KiB, then has about these seconds."""
    connections: int = 10_000
    unsent_bytes: int = 128 * 1024 * 1024
    """Of answers that clients have not taken, of all connections."""
    connection_unsent_bytes: int = 32 * 1024 * 1024
    """Of one connection: more than any answer has."""


class ServerState:
    """What the connections of a server have in common. `tick` is the time that time-outs are measured by.

    It does not advance while the loop stands still: what came meanwhile could not be read.
    """

    def __init__(
        self,
        app: HTTPServerConnectionDelegate,
        hooks: ApplicationHooks,
        limits: ConnectionLimits,
        short: FastPath | None,
    ) -> None:
        self.app = app
        self.hooks = hooks
        self.limits = limits
        self.short = short
        self.admission = None if short is None else short.admission
        self.connections: set[ManagedConnection] = set()
        self.expected: dict[ManagedConnection, float] = {}
        """Connections that are not there yet, as their TLS has not been agreed upon, and since when."""
        self.incoming_bytes = 0
        """Bytes of requests that are not answered yet, of all connections."""
        self.paused: set[ManagedConnection] = set()
        """Connections that are not read from for now."""
        self.held = ReadThrottle()
        self.budget = SendBudget(limits.unsent_bytes, limits.connection_unsent_bytes)
        self.tick = asyncio.get_running_loop().time()
        self.sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is done: for what is sent without having to wait."""
        self.sent.set_result(None)

    def is_over_budget(self) -> bool:
        """Whether all connections together hold too much; then those over their share must give way."""
        return self.incoming_bytes > self.limits.incoming_bytes

    def share_bytes(self) -> int:
        """Return the equal share of a connection in the budget.

        Small requests are within it and served at any time, and all shares together are at most the budget again.
        """
        return self.limits.incoming_bytes // max(len(self.connections), 1)


class Peer:
    """Where the client is, as `tornado.httputil.HTTPServerRequest` wants to know."""

    __slots__ = ("protocol", "remote_ip", "secure")

    def __init__(self, transport: asyncio.Transport) -> None:
        name = transport.get_extra_info("peername")
        self.remote_ip: str = name[0] if isinstance(name, tuple) else UNIX
        self.secure = transport.get_extra_info("sslcontext") is not None
        """Whether TLS is spoken, here."""
        self.protocol = "https" if self.secure else "http"


def has_unread(transport: asyncio.BaseTransport) -> bool:
    """Whether something has come that has not been read yet: to hang up now would be to throw a request away."""
    with _Selector() as selector:  # of a kind that takes no descriptor: there may be none left
        selector.register(transport.get_extra_info("socket").fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


def has_sent_all(transport: asyncio.BaseTransport) -> bool:
    """Whether the client sends no more, though some of what it sent may be unread; False if the system cannot tell."""
    if _HUNG_UP is None:
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)
    return bool(poll.poll(0))
