"""Rejection of connections over the limit, with a response where that is cheap."""

import asyncio
from contextlib import suppress
from socket import socket

from guidsvc.server.protocol.state import ApplicationHooks

MAX_TLS_REJECTIONS = 8
"""Maximum TLS connections over the limit that complete a handshake to read the rejection; others are closed at once."""
DISCARDED_BYTES = 64 * 1024
"""Maximum bytes read from a rejected connection: with unread bytes, closing it would discard the response."""


class Rejections:
    """The rejected connections that still hold a descriptor: of TLS, at most `max_secure`."""

    def __init__(self, hooks: ApplicationHooks, max_secure: int) -> None:
        self._hooks = hooks
        self._max_secure = max_secure
        self._secure: set[RejectedConnection] = set()

    def reject(self) -> bytes:
        """Return the response for a connection without TLS."""
        return self._hooks.reject_connection(secure=False)

    def reject_secure(self) -> "RejectedConnection | bytes":
        """Return the protocol of a TLS connection, or no bytes at all if it must be closed before its handshake."""
        if len(self._secure) >= self._max_secure:
            self._hooks.reject_connection(secure=True)
            return b""
        connection = RejectedConnection(self._hooks, self)
        self._secure.add(connection)
        return connection

    def end(self, connection: "RejectedConnection") -> None:
        """Remove a connection that has ended."""
        self._secure.discard(connection)


class RejectedConnection(asyncio.Protocol):
    """A TLS connection over the limit."""

    def __init__(self, hooks: ApplicationHooks, rejections: Rejections) -> None:
        self._hooks = hooks
        self._rejections = rejections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writable: asyncio.Transport = transport  # type: ignore[assignment]  # TLS transports are writable
        writable.write(self._hooks.reject_connection(secure=True))
        writable.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._rejections.end(self)


def dismiss(connection: socket, response: bytes) -> None:
    """Send a response, if the system takes it at once, and close. So no descriptor is held meanwhile."""
    with suppress(OSError):  # the client may have disconnected
        connection.setblocking(False)
        if response:
            connection.send(response)
            connection.recv(DISCARDED_BYTES)
    connection.close()
