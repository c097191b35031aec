"""The networks that clients connect from, and which connection gives way when there are too many.

Limits on connections and bytes protect the process. Without a share for each network, one client could use up such a
limit, and with it the service of all others.
"""

from typing import Protocol

from guidsvc.http.client_address import network_of
from guidsvc.http.headers.proxy import UNIX


class ManagedConnection(Protocol):
    """A connection, as its server sees it."""

    network: "ClientNetwork"

    @property
    def waiting_since(self) -> float | None:
        """When the connection began to wait for its client; None if a request is being executed."""

    def regulate(self) -> None:
        """Pause or resume reading, depending on the buffers."""

    def is_overdue(self, now: float) -> bool:
        """Whether the connection has timed out."""

    def retire(self, idle_before: float) -> bool:
        """Close the connection if it is idle since `idle_before` or earlier; return whether work is left."""

    def expire(self) -> bool:
        """Abort the connection, unless it is idle and an unread request has arrived; return whether it was aborted."""

    def close(self) -> None:
        """Send pending data, and close; with a reset if the answer would otherwise look complete."""

    def abort(self) -> None:
        """Close at once, and discard unsent data."""


class ClientNetwork:
    """The connections from one network, and the received bytes that they hold."""

    __slots__ = ("connections", "incoming_bytes", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: set[ManagedConnection] = set()
        self.incoming_bytes = 0
        """Bytes of unanswered requests."""


class ClientNetworks:
    """The networks with open connections."""

    def __init__(self) -> None:
        self._networks: dict[str, ClientNetwork] = {}

    def find(self, address: str) -> ClientNetwork:
        """Return the network of an address, which may have no connections yet."""
        name = network_of(address)
        return self._networks.get(name) or ClientNetwork(name)

    def join(self, connection: ManagedConnection) -> None:
        """Add a connection to its network."""
        network = connection.network
        network.connections.add(connection)
        self._networks[network.name] = network

    def leave(self, connection: ManagedConnection) -> None:
        """Remove a connection from its network; do nothing if it has left."""
        network = connection.network
        network.connections.discard(connection)
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
        """Return the connections that give way to those of smaller networks; the last one first.

        They belong to the networks with the most connections. Those that have waited for their clients longest come
        last in the list. Connections that execute a request are not in it.
        """
        most = max((len(each.connections) for each in self._networks.values()), default=0)
        candidates = [
            (since, id(connection), connection)
            for each in self._networks.values()
            if len(each.connections) == most
            for connection in each.connections
            if (since := connection.waiting_since) is not None
        ]
        return [connection for *_, connection in sorted(candidates, reverse=True)]


def address_of(name: object) -> str:
    """Return the IP address in the name of a peer's socket, or `unix`."""
    return str(name[0]) if isinstance(name, tuple) else UNIX
