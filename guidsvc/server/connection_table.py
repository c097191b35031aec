"""The connections of a server, each in one state: connecting, open, or ended.

A connection begins with `begin`, and ends with the first `end`, whatever ends it: a client that disconnects, a failed
handshake, a time-out, or a new connection that takes its place. An ended connection never opens again, even if its
transport is set up after that.
"""

from collections.abc import Callable

import structlog

from guidsvc.server.client_networks import ClientNetworks, ManagedConnection

_log = structlog.get_logger(__name__)


class ConnectionTable:
    """The connections that have not ended, and their networks."""

    def __init__(self) -> None:
        self.connecting: dict[ManagedConnection, float] = {}
        """Connections not set up yet, for example in the TLS handshake, with their start time."""
        self.connections: set[ManagedConnection] = set()
        """Open connections."""
        self.paused_connections: set[ManagedConnection] = set()
        """Open connections whose reading is paused."""
        self.leaving: dict[ManagedConnection, None] = {}
        """Open connections that close after their present request, to give way to others; the oldest first."""
        self.networks = ClientNetworks()
        """The networks of all of these."""

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self.connecting) + len(self.connections)

    def __contains__(self, connection: ManagedConnection) -> bool:
        """Return whether a connection has not ended."""
        return connection in self.connections or connection in self.connecting

    def begin(self, connection: ManagedConnection, now: float) -> None:
        """Add a connection that has been accepted."""
        self.connecting[connection] = now
        self.networks.join(connection)

    def open(self, connection: ManagedConnection) -> bool:
        """Mark a connection as set up. Return False if it has ended meanwhile: the caller must abort it."""
        if self.connecting.pop(connection, None) is None:
            return False
        self.connections.add(connection)
        return True

    def end(self, connection: ManagedConnection) -> None:
        """Remove a connection; do nothing if it has ended."""
        if connection in self:
            self.connecting.pop(connection, None)
            self.connections.discard(connection)
            self.leaving.pop(connection, None)
            self.paused_connections.discard(connection)
            self.networks.leave(connection)

    def manage(self, connection: ManagedConnection, call: Callable[[ManagedConnection], bool | None]) -> bool | None:
        """Return the result of a call on a connection. An error ends this connection, and no other."""
        try:
            return call(connection)
        except Exception:  # noqa: BLE001  # logged; the others must be managed too
            _log.exception("managing a connection failed, closing it")
            self._discard(connection)
            return None

    def _discard(self, connection: ManagedConnection) -> None:
        """Abort a broken connection, and remove it even if that fails: it must not count for ever."""
        try:
            connection.abort()
        except Exception:  # noqa: BLE001  # logged; see above
            _log.exception("closing a connection failed")
        self.end(connection)
