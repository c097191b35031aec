"""The networks of clients, and the choice of the connection that closes when there are too many.

Limits on connections and bytes protect the process. Without a share for each network, one client could use up such a
limit, and with it the service of all others.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Protocol

from guidsvc.http.client_address import network_of
from guidsvc.http.headers.proxy import UNIX


class ManagedConnection(Protocol):
    """A connection, as its server sees it."""

    network: "ClientNetwork"

    @property
    def waiting_since(self) -> float | None:
        """When the connection began to wait for its client; None if a request is being executed."""

    def check_paused(self) -> None:
        """Check a connection whose reading is paused: resume reading, or close it, if its client has disconnected."""

    def is_overdue(self, now: float) -> bool:
        """Whether the connection has timed out."""

    def retire(self, idle_before: float) -> bool:
        """Close the connection if it is idle since `idle_before` or earlier; return whether work is left."""

    def is_stuck(self) -> bool:
        """Whether the client has taken nothing of its response for a second, during which this was asked often."""

    def expire(self) -> bool:
        """Abort the connection, unless it is idle and an unread request has arrived; return whether it was aborted."""

    def leave(self) -> bool:
        """Close the connection as soon as no response can be lost by that; return whether it was closed at once.

        It answers its present request, or the one that has arrived, and reads no further request. The answer has a time
        limit: called again after that, this closes the connection.
        """

    def give_up(self) -> bool:
        """Abort a connection that leaves if its client loses nothing without the response; return whether it did."""

    def shut_down(self) -> None:
        """Close at the end of a shutdown; reject an incomplete request, and let its client read the response first."""

    def close(self) -> None:
        """Send pending data, and close; with a reset if the answer would otherwise look complete."""

    def abort(self) -> None:
        """Close at once, and discard unsent data."""


class ClientNetwork:
    """The connections from one network, and the received bytes that they hold."""

    __slots__ = ("connections", "incoming_bytes", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: OrderedDict[ManagedConnection, None] = OrderedDict()
        self.incoming_bytes = 0
        """Bytes of unanswered requests."""


class ClientNetworks:
    """The networks with open connections."""

    def __init__(self) -> None:
        self._networks: dict[str, ClientNetwork] = {}
        self._by_size: dict[int, OrderedDict[ClientNetwork, None]] = {}  # by number of connections
        self.most = 0
        """The number of connections of the largest network."""

    def find(self, address: str) -> ClientNetwork:
        """Return the network of an address, which may have no connections yet."""
        name = network_of(address)
        return self._networks.get(name) or ClientNetwork(name)

    def join(self, connection: ManagedConnection) -> None:
        """Add a connection to its network."""
        network = connection.network
        self._remove_size(network)
        network.connections[connection] = None
        self._add_size(network)
        self._networks[network.name] = network

    def leave(self, connection: ManagedConnection) -> None:
        """Remove a connection from its network; do nothing if it has left."""
        network = connection.network
        if connection not in network.connections:
            return
        self._remove_size(network)
        del network.connections[connection]
        self._add_size(network)
        while self.most and self.most not in self._by_size:
            self.most -= 1
        if not network.connections and self._networks.get(network.name) is network:
            del self._networks[network.name]

    def exceeds_share(self, network: ClientNetwork, total_bytes: int, held_bytes: int, size: int) -> bool:
        """Whether a connection that holds `held_bytes` of requests may not receive `size` more.

        Half of `total_bytes` is divided equally among the networks, and the other half among their connections. So a
        network below its share is served in full, and small requests of any network fit.
        """
        share_bytes = total_bytes // (2 * max(len(self._networks), 1))
        if network.incoming_bytes + size <= share_bytes:
            return False
        return held_bytes + size > share_bytes // max(len(network.connections), 1)

    def victims(self) -> list[ManagedConnection]:
        """Return the connections that close for those of smaller networks; the last one first.

        They belong to the networks with the most connections. Those that have waited for their clients longest come
        last in the list. Connections that execute a request are not in it.
        """
        candidates = [
            (since, id(connection), connection)
            for each in self._by_size.get(self.most, ())
            for connection in each.connections
            if (since := connection.waiting_since) is not None
        ]
        return [connection for *_, connection in sorted(candidates, reverse=True)]

    def next_of_largest(self, excluded: Collection[ManagedConnection]) -> ManagedConnection | None:
        """Return a connection of the network with the most connections, in any state; each gets its turn."""
        network = next(iter(self._by_size.get(self.most, ())), None)
        if network is None:
            return None
        for _ in range(min(self.most, len(excluded) + 1)):
            connection = next(iter(network.connections))
            network.connections.move_to_end(connection)
            if connection not in excluded:
                return connection
        return None

    def _remove_size(self, network: ClientNetwork) -> None:
        size = len(network.connections)
        if size:
            networks = self._by_size[size]
            del networks[network]
            if not networks:
                del self._by_size[size]

    def _add_size(self, network: ClientNetwork) -> None:
        size = len(network.connections)
        if size:
            self._by_size.setdefault(size, OrderedDict())[network] = None
            self.most = max(self.most, size)


def address_of(name: object) -> str:
    """Return the IP address in the name of a peer's socket, or `unix`."""
    return str(name[0]) if isinstance(name, tuple) else UNIX
