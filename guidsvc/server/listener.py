"""Accepts connections, over TLS or plain. A connection for which there is no room is closed before TLS is agreed on.

`loop.create_server` would agree on TLS first, so that a client that never does so takes a descriptor, room or not. And
it accepts one connection in each turn of the loop: while turns are long, new clients would wait for many of them.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from socket import SO_RCVBUF, SOL_SOCKET, socket
from typing import Any

import structlog

AT_ONCE = 100
"""Connections that are accepted in one turn of the loop."""
PAUSE_SECONDS = 1.0
"""After the system has refused to accept a connection, none is accepted for so long."""
RECEIVE_BYTES = 32 * 1024
"""With TLS: of what a client sends, the kernel takes so much before it is read; Linux takes twice as much.

A connection with TLS reads all of that at once, into buffers that last as long as the connection.
"""
SHUTDOWN_SECONDS = 10.0
"""The client has so long to take the end of TLS."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tls:
    """How TLS is agreed on, and the seconds that a client has for that."""

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
    """Listens on a socket, which must be listening already; with `tls`, or plain.

    `make` returns the protocol of a new connection, or None if there is no room for it. `failed` is called with that
    protocol if the connection cannot be set up: TLS is not agreed on in time, for one.
    """

    def __init__(
        self,
        listener: socket,
        make: Callable[[], asyncio.Protocol | None],
        failed: Callable[[asyncio.Protocol], None],
        *,
        tls: Tls | None = None,
    ) -> None:
        self._listener = listener
        self._make = make
        self._failed = failed
        self._is_secure = tls is not None
        self._options = {} if tls is None else tls.options
        self._loop = asyncio.get_running_loop()
        self._setups: set[asyncio.Task[None]] = set()
        self._is_closed = False
        listener.setblocking(False)
        if self._is_secure:
            _bound_buffer(listener)  # which each connection inherits
        self._resume()

    def close(self) -> None:
        """Accept no more connections; those that there are go on."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def abort(self) -> None:
        """Give up all connections that are not set up yet."""
        for setup in self._setups:
            setup.cancel()

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
        if self._is_secure:
            _bound_buffer(connection)  # which may have come before that of the listener was bounded
        setup = self._loop.create_task(self._set_up(connection, protocol))
        self._setups.add(setup)
        setup.add_done_callback(partial(self._end_setup, connection))

    def _end_setup(self, connection: socket, setup: asyncio.Task[None]) -> None:
        self._setups.discard(setup)
        if setup.cancelled():  # before its first step, maybe: then nothing else closes the socket
            connection.close()

    async def _set_up(self, connection: socket, protocol: asyncio.Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection, **self._options)
        except BaseException as error:
            self._failed(protocol)
            if not isinstance(error, OSError):  # the client went away, was too slow, or speaks no TLS
                raise


def _bound_buffer(bounded: socket) -> None:
    """Have the kernel take at most RECEIVE_BYTES, or twice that. No effect on a Unix socket."""
    bounded.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
