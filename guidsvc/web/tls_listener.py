"""Accepts connections and agrees on TLS with them; one for which there is no room is closed before that.

`loop.create_server` would agree on TLS first, so that a client that never does so takes a descriptor, room or not.
"""

import asyncio
import ssl
from collections.abc import Callable
from socket import SO_RCVBUF, SOL_SOCKET, socket

import structlog

AT_ONCE = 100
"""Connections that are accepted in one turn of the loop."""
PAUSE_SECONDS = 1.0
"""After the system has refused to accept a connection, none is accepted for so long."""
RECEIVE_BYTES = 32 * 1024
"""Of what a client sends, the kernel takes so much before it is read; Linux takes twice as much.

A connection reads all of that at once, into buffers that last as long as the connection.
"""
SHUTDOWN_SECONDS = 10.0
"""The client has so long to take the end of TLS."""

_log = structlog.get_logger(__name__)


class TlsListener:
    """Listens on a socket.

    `make` returns what serves a new connection, or None if there is no room for it. `failed` is called with that if TLS
    is not agreed upon within `handshake_seconds`.
    """

    def __init__(
        self,
        listener: socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol | None],
        failed: Callable[[asyncio.Protocol], None],
        *,
        handshake_seconds: float,
    ) -> None:
        self._listener = listener
        self._context = context
        self._make = make
        self._failed = failed
        self._handshake_seconds = handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._is_closed = False
        listener.setblocking(False)
        _bound_buffer(listener)  # which each connection inherits
        self._resume()

    def close(self) -> None:
        """Accept no more connections; those that there are go on."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def abort(self) -> None:
        """Give up all connections that have not agreed on TLS yet."""
        for handshake in self._handshakes:
            handshake.cancel()

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("connections cannot be accepted, to be tried again", error=str(error))
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            self._begin(connection)

    def _begin(self, connection: socket) -> None:
        protocol = self._make()
        if protocol is None:
            connection.close()
            return
        connection.setblocking(False)
        _bound_buffer(connection)  # which may have come before that of the listener was bounded
        handshake = self._loop.create_task(self._shake_hands(connection, protocol))
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: socket, protocol: asyncio.Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except BaseException as error:
            self._failed(protocol)
            if not isinstance(error, OSError):  # the client went away, was too slow, or speaks no TLS
                raise


def _bound_buffer(bounded: socket) -> None:
    """Have the kernel take at most RECEIVE_BYTES, or twice that. No effect on a Unix socket."""
    bounded.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
