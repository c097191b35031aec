"""Client address and scheme behind trusted proxies, from X-Forwarded-For and X-Forwarded-Proto."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

from tornado.httputil import HTTPServerRequest

from guidsvc.errors import StartError

UNIX = "unix"
"""Address of a client that connects over a Unix socket."""
MAX_HOPS = 32
"""Maximum number of addresses read of X-Forwarded-For, from the right. No chain of proxies is longer."""


class TrustedProxies:
    """Trusted proxies, given as networks such as `10.0.0.0/8`, single addresses, or `unix`."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        try:
            self._networks = [ip_network(proxy) for proxy in proxies if proxy != UNIX]
        except ValueError as error:
            raise StartError(
                f"trusted_proxies: {error}; use addresses, networks such as 10.0.0.0/8, or unix"
            ) from error
        self._unix = UNIX in proxies
        self.any = bool(proxies)
        """Whether any proxy is trusted."""
        self.trusts = lru_cache(1024)(self._is_trusted)
        """Whether a peer, given by its address, is a trusted proxy."""

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address of the client, for a request that came from `peer`.

        Each proxy appends the address that it received the request from, so the client is the rightmost untrusted
        address. If all MAX_HOPS addresses are trusted, return the leftmost of them.
        """
        client = peer
        for address in reversed((forwarded_for or "").rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            if not self.trusts(client) or not _is_address(address.strip()):
                break
            client = address.strip()
        return client

    def apply(self, request: HTTPServerRequest) -> None:
        """Set `remote_ip` and `protocol` of a request to those of its client."""
        peer = str(request.remote_ip)
        if self.any and self.trusts(peer):
            request.remote_ip = self.client(peer, request.headers.get("X-Forwarded-For"))
            request.protocol = self.scheme(peer, request.headers.get("X-Forwarded-Proto"), request.protocol)

    def scheme(self, peer: str, forwarded_proto: str | None, connection_scheme: str) -> str:
        """Return the last scheme in X-Forwarded-Proto if `peer` is trusted; else `connection_scheme`."""
        forwarded_scheme = (forwarded_proto or "").rpartition(",")[2].strip().lower()
        return forwarded_scheme if forwarded_scheme in {"http", "https"} and self.trusts(peer) else connection_scheme

    def _is_trusted(self, peer: str) -> bool:
        if peer == UNIX:
            return self._unix
        address = ip_address(peer.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # an IPv6 scope has a meaning only on its own host
