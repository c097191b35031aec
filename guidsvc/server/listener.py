"""Accept connections, with or without TLS. Over the limit, a connection is closed before its TLS handshake.

`loop.create_server` would start the handshake first: a client that never completes it would hold a descriptor despite
the limit. All handshakes that are due would run in one iteration of the event loop. It also accepts one connection per
iteration: under load, new clients would wait for many.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from socket import SO_RCVBUF, SOL_SOCKET, socket

import structlog

from guidsvc.http.client_address import network_of
from guidsvc.server.accepting.descriptors import Descriptors
from guidsvc.server.accepting.handshake import Handshake, HandshakeTurns
from guidsvc.server.accepting.rate_limited_log import RateLimitedLog
from guidsvc.server.accepting.rejection import dismiss
from guidsvc.server.client_networks import address_of
from guidsvc.server.tls import log_failed_handshake

MAX_ACCEPTS = 100
"""Maximum connections accepted in one event loop iteration."""
PAUSE_SECONDS = 0.1
"""Maximum pause in accepting connections after `accept` failed; it ends sooner if a descriptor is closed."""
RECEIVE_BYTES = 32 * 1024
"""Kernel receive buffer of a TLS connection; Linux doubles it.

A TLS connection reads all of it at once. Reading pauses then, if the application does not read.
"""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tls:
    """The TLS context, and the timeout and the turns of handshakes."""

    context: ssl.SSLContext
    handshake_seconds: float
    turns: HandshakeTurns = field(default_factory=HandshakeTurns)


class Listener:
    """Accepts the connections of a socket that is listening already, with `tls` or without.

    `make_protocol` returns the protocol of a new connection from an address, or the bytes to send before it is closed.
    `on_setup_end` is called with that protocol when it is connected, or never will be: the TLS handshake may time out.
    All listeners share the `descriptors`. While none is free, new connections wait in the system's backlog.
    """

    def __init__(
        self,
        listener: socket,
        make_protocol: Callable[[str], asyncio.Protocol | bytes],
        on_setup_end: Callable[[asyncio.Protocol], None],
        *,
        tls: Tls | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._on_setup_end = on_setup_end
        self._tls = tls
        self._descriptors = descriptors or Descriptors()
        self._loop = asyncio.get_running_loop()
        self._setups: dict[object, asyncio.Task[None]] = {}  # by protocol
        self._cancelled: set[object] = set()  # those of them whose transport must be closed
        self._is_closed = self._is_accepting = False
        self._log = RateLimitedLog(_log)
        listener.setblocking(False)
        if tls is not None:
            _bound_buffer(listener)  # each connection inherits it
        self._resume()

    def close(self) -> None:
        """Stop accepting connections; open ones continue."""
        if not self._is_closed:
            self._is_closed, self._is_accepting = True, False
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def abort(self) -> None:
        """Cancel all connections that are not set up yet."""
        for protocol in list(self._setups):
            self.cancel(protocol)

    def cancel(self, protocol: object) -> None:
        """Cancel a connection if it is not set up yet, for example because its TLS handshake is not complete.

        Its protocol may still get a transport, but that is closed. Without TLS the task must not be cancelled: after
        `connection_made`, uvloop would close the transport without `connection_lost`.
        """
        if protocol in self._setups:
            self._cancelled.add(protocol)
            if self._tls is not None:
                self._setups[protocol].cancel()

    @property
    def is_setting_up(self) -> bool:
        """Whether a connection is not set up yet, or not closed yet after that was cancelled."""
        return bool(self._setups)

    def _resume(self) -> None:
        if not self._is_closed and not self._is_accepting:
            self._is_accepting = True
            self._loop.add_reader(self._listener, self._accept)

    def _pause(self) -> None:
        """Accept no connection until a descriptor is closed."""
        self._is_accepting = False
        self._loop.remove_reader(self._listener)
        self._descriptors.wait(self._resume)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            if self._descriptors.free <= 0:
                self._pause()
                return
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log.warning("accepting connections failed, retrying", error=str(error))
                self._pause()
                self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            self._begin(self._descriptors.take(connection), address_of(address))

    def _begin(self, connection: socket, address: str) -> None:
        protocol = self._make_protocol(address)
        if isinstance(protocol, bytes):
            dismiss(connection, protocol)
            return
        connection.setblocking(False)
        if self._tls is not None:
            _bound_buffer(connection)  # it may predate the listener's bound
        setup = self._loop.create_task(self._set_up(connection, protocol, address))
        self._setups[protocol] = setup
        setup.add_done_callback(partial(self._end_setup, connection, protocol))

    def _end_setup(self, connection: socket, protocol: asyncio.Protocol, setup: asyncio.Task[None]) -> None:
        del self._setups[protocol]
        self._cancelled.discard(protocol)
        self._on_setup_end(protocol)
        if setup.cancelled():  # perhaps before its first step; then nothing else closes the socket
            connection.close()

    async def _set_up(self, connection: socket, protocol: asyncio.Protocol, address: str) -> None:
        try:
            if self._tls is None:
                await self._connect(connection, protocol)
            else:
                tls = self._tls
                handshake = Handshake(tls.context, tls.handshake_seconds, tls.turns, network_of(address))
                await handshake.run(connection, protocol)
        except ssl.SSLError as error:
            log_failed_handshake(address, error)
        except OSError:
            pass  # the client disconnected or timed out

    async def _connect(self, connection: socket, protocol: asyncio.Protocol) -> None:
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection)
        if protocol in self._cancelled:
            transport.abort()


def _bound_buffer(bounded: socket) -> None:
    """Limit the kernel's receive buffer to RECEIVE_BYTES (Linux: twice that). No effect on a Unix socket."""
    bounded.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
