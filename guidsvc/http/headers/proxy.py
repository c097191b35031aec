"""Who the client is when a proxy stands in between: what X-Forwarded-For and -Proto say, if the proxy is trusted."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

from tornado.httputil import HTTPServerRequest

from guidsvc.errors import StartError

UNIX = "unix"
"""Where a client is that comes over a Unix socket."""
MAX_HOPS = 32
"""Addresses of X-Forwarded-For that are read, from the right. No chain of proxies is longer."""


class TrustedProxies:
    """Believes the proxies in these networks (as `10.0.0.0/8`, an address, or `unix`), and nobody else."""

    def __init__(self, proxies: Sequence[str] = ()) -> None:
        try:
            self._networks = [ip_network(proxy) for proxy in proxies if proxy != UNIX]
        except ValueError as error:
            raise StartError(f"trusted_proxies: {error}") from error
        self._unix = UNIX in proxies
        self.any = bool(proxies)
        """Whether anybody is believed at all."""
        self._trusts = lru_cache(1024)(self._looked_up)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address of the client, for a request that came from `peer`.

        Each proxy adds, on the right, whom it had it from: so it is the rightmost that is no proxy of ours. Where
        MAX_HOPS addresses are all trusted, return the last of them.
        """
        client = peer
        for address in reversed((forwarded_for or "").rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            if not self._trusts(client) or not _is_address(address.strip()):
                break
            client = address.strip()
        return client

    def apply(self, request: HTTPServerRequest) -> None:
        """Put into a request who its client is, and how it came: `remote_ip` and `protocol`."""
        peer = str(request.remote_ip)
        if self.any and self._trusts(peer):
            request.remote_ip = self.client(peer, request.headers.get("X-Forwarded-For"))
            request.protocol = self.scheme(peer, request.headers.get("X-Forwarded-Proto"), request.protocol)

    def scheme(self, peer: str, forwarded_proto: str | None, spoken: str) -> str:
        """Return how a request came to the first of our proxies: `http` or `https`; `spoken` is how it came here."""
        named = (forwarded_proto or "").rpartition(",")[2].strip().lower()
        return named if named in {"http", "https"} and self._trusts(peer) else spoken

    def _looked_up(self, peer: str) -> bool:
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
    return "%" not in text  # a scope means something on the host that it is of, and nowhere else
