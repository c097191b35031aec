"""The limit on connections, and which connection gives way at the limit, so that every client network gets a share.

A connection of the network with the most connections gives way to one of a smaller network. One that waits for its
client closes at once. If none waits, one that executes a request leaves: it closes after the response to this request.
Until then, the new connection has one of a few spare places beyond the limit. So the time to leave is limited, and
requests that would last long, such as streams of events, end early.
"""

from collections.abc import Callable
from math import inf

import structlog

from guidsvc.server.accepting.rate_limited_log import RateLimitedLog
from guidsvc.server.client_networks import ClientNetwork, ManagedConnection
from guidsvc.server.connection_table import ConnectionTable

_log = structlog.get_logger(__name__)


class ConnectionLimit:
    """A limit of `limit` connections, of which at most `max_leaving` more are leaving.

    `cancel` ends a connection that is not set up yet.
    """

    def __init__(
        self, table: ConnectionTable, limit: int, max_leaving: int, cancel: Callable[[ManagedConnection], None]
    ) -> None:
        self._table = table
        self._limit = limit
        self._max_leaving = max_leaving
        self._cancel = cancel
        self._log = ConnectionLimitLog()
        self._victims: list[ManagedConnection] = []
        self._victims_tick = -inf  # the tick at which they were chosen

    def admit(self, network: ClientNetwork, tick: float) -> bool:
        """Make room for a connection of a network if necessary; return whether there is room."""
        if len(self._table) < self._limit or self._make_room(network, tick):
            return True
        self._log.log_rejection(len(self._table.connections), self._limit)
        return False

    def _make_room(self, network: ClientNetwork, tick: float) -> bool:
        if len(self._table) - len(self._table.leaving) < self._limit:  # one leaves whose place nobody has taken yet
            return self._is_small(network)
        return self._close_waiting(network, tick) or (self._is_small(network) and self._let_one_leave())

    def _is_small(self, network: ClientNetwork) -> bool:
        """Whether the network with the most connections has as many as this one even after it lost one to it."""
        return self._table.networks.most >= len(network.connections) + 2

    def _close_waiting(self, network: ClientNetwork, tick: float) -> bool:
        """Close a waiting connection of a network that has more than this one; return whether there was one."""
        if self._victims_tick != tick:  # choosing takes a look at all connections of the largest networks
            self._victims, self._victims_tick = self._table.networks.victims(), tick
        while self._victims:
            victim = self._victims[-1]
            is_candidate = victim in self._table and victim not in self._table.leaving
            if is_candidate and len(victim.network.connections) <= len(network.connections):
                return False
            self._victims.pop()
            if is_candidate and self._close_if_waiting(victim):
                return True
        return False

    def _close_if_waiting(self, connection: ManagedConnection) -> bool:
        """Close a connection that waits for its client, or for its setup; return whether it did."""
        if connection in self._table.connecting:
            self._cancel(connection)
        elif not self._table.manage(connection, lambda each: each.waiting_since is not None and each.expire()):
            return False
        return self._end(connection)

    def _let_one_leave(self) -> bool:
        """Close a leaving connection whose response has arrived, or that had its time, or let one more leave.

        Return whether that worked.
        """
        leaving = self._table.leaving
        for connection in list(leaving):
            if self._table.manage(connection, lambda each: each.leave()):
                return self._end(connection)
        if len(leaving) >= self._max_leaving:
            return self._give_one_up()
        victim = self._table.networks.next_of_largest(leaving)
        if victim is None:
            return False
        if victim in self._table.connecting:
            self._cancel(victim)
        elif not self._table.manage(victim, lambda each: each.leave()):
            leaving[victim] = None
            self._log.log_closing(victim.network.name, self._limit)
            return True
        return self._end(victim)

    def _give_one_up(self) -> bool:
        """Close a leaving connection whose client loses nothing by that; return whether there was one."""
        for connection in list(self._table.leaving):
            if self._table.manage(connection, lambda each: each.give_up()):
                return self._end(connection)
        return False

    def _end(self, connection: ManagedConnection) -> bool:
        self._table.end(connection)
        self._log.log_closing(connection.network.name, self._limit)
        return True


class ConnectionLimitLog:
    """A rate-limited log of connections over the limit."""

    def __init__(self) -> None:
        self._log = RateLimitedLog(_log)

    def log_rejection(self, connections: int, limit: int) -> None:
        """Log that a connection is rejected."""
        self._log.warning("too many connections, rejecting new ones", connections=connections, limit=limit)

    def log_closing(self, network: str, limit: int) -> None:
        """Log that a connection of this client network is closed for another."""
        event = "too many connections, closing those of the client with most"
        self._log.warning(event, client=network, limit=limit)
