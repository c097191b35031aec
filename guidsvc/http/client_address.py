"""Client addresses, and the networks by which they are counted."""

from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address, IPv6Network

NETWORK_BITS = 64
"""Prefix length of the IPv6 network of one customer, who can change the remaining bits with each request."""
REMEMBERED = 1_000
"""Maximum number of addresses whose network is cached: computing it takes as long as a cached read."""


def network_of(address: str) -> str:
    """Return the /64 network of an IPv6 address; return IPv4 addresses and other text, such as `unix`, unchanged."""
    return _network_of_ipv6(address) if ":" in address else address


@lru_cache(REMEMBERED)
def _network_of_ipv6(address: str) -> str:
    try:
        parsed = IPv6Address(address)
    except AddressValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Network((parsed, NETWORK_BITS), strict=False))
