"""Accept connections, with or without TLS. Over the limit, a connection is closed before its TLS handshake.

`loop.create_server` would start the handshake first: a client that never completes it would hold a descriptor despite
the limit. It also accepts one connection per event loop iteration: under load, new clients would wait for many.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from socket import SO_RCVBUF, SOL_SOCKET, socket
from typing import Any

import structlog

from guidsvc.server.client_networks import address_of
from guidsvc.server.tls import log_failed_handshake

MAX_ACCEPTS = 100
"""Maximum connections accepted in one event loop iteration."""
PAUSE_SECONDS = 1.0
"""Pause in accepting connections after `accept` failed."""
RECEIVE_BYTES = 32 * 1024
"""Kernel receive buffer of a TLS connection; Linux doubles it.

A TLS connection reads all of it at once, into buffers that last as long as the connection.
"""
SHUTDOWN_SECONDS = 10.0
"""Time for the client to complete the TLS shutdown."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tls:
    """The TLS context, and the timeout of the handshake."""

    context: ssl.SSLContext
    handshake_seconds: float

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments of `loop.connect_accepted_socket`."""
        return {
            "ssl": self.context,
            "ssl_handshake_timeout": self.handshake_seconds,
            "ssl_shutdown_timeout": SHUTDOWN_SECONDS,
        }


class Listener:
    """Accepts the connections of a socket that is listening already, with `tls` or without.

    `make_protocol` returns the protocol of a new connection from an address, or None to close it. `on_failure` is
    called with that protocol if the connection cannot be set up, for example because the TLS handshake timed out.
    """

    def __init__(
        self,
        listener: socket,
        make_protocol: Callable[[str], asyncio.Protocol | None],
        on_failure: Callable[[asyncio.Protocol], None],
        *,
        tls: Tls | None = None,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._on_failure = on_failure
        self._is_secure = tls is not None
        self._options = {} if tls is None else tls.options
        self._loop = asyncio.get_running_loop()
        self._setups: dict[object, asyncio.Task[None]] = {}  # by protocol
        self._cancelled: set[object] = set()  # those of them whose transport must be closed
        self._is_closed = False
        listener.setblocking(False)
        if self._is_secure:
            _bound_buffer(listener)  # each connection inherits it
        self._resume()

    def close(self) -> None:
        """Stop accepting connections; open ones continue."""
        if not self._is_closed:
            self._is_closed = True
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
            if self._is_secure:
                self._setups[protocol].cancel()

    @property
    def is_setting_up(self) -> bool:
        """Whether a connection is not set up yet, or not closed yet after that was cancelled."""
        return bool(self._setups)

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("accepting connections failed, retrying", error=str(error))
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            self._begin(connection, address_of(address))

    def _begin(self, connection: socket, address: str) -> None:
        protocol = self._make_protocol(address)
        if protocol is None:
            connection.close()
            return
        connection.setblocking(False)
        if self._is_secure:
            _bound_buffer(connection)  # it may predate the listener's bound
        setup = self._loop.create_task(self._set_up(connection, protocol, address))
        self._setups[protocol] = setup
        setup.add_done_callback(partial(self._end_setup, connection, protocol))

    def _end_setup(self, connection: socket, protocol: asyncio.Protocol, setup: asyncio.Task[None]) -> None:
        del self._setups[protocol]
        self._cancelled.discard(protocol)
        if setup.cancelled():  # perhaps before its first step; then nothing else closes the socket
            connection.close()

    async def _set_up(self, connection: socket, protocol: asyncio.Protocol, address: str) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, **self._options)
            if protocol in self._cancelled:
                transport.abort()
        except BaseException as error:
            self._on_failure(protocol)
            if isinstance(error, ssl.SSLError):
                log_failed_handshake(address, error)
            elif not isinstance(error, OSError):  # the client disconnected or timed out
                raise


def _bound_buffer(bounded: socket) -> None:
    """Limit the kernel's receive buffer to RECEIVE_BYTES (Linux: twice that). No effect on a Unix socket."""
    bounded.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
