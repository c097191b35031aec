"""Client addresses, and the networks by which they are counted."""

from ipaddress import AddressValueError, IPv6Address, IPv6Network

NETWORK_BITS = 64
"""Prefix length of the IPv6 network of one customer, who can change the remaining bits with each request."""


def network_of(address: str) -> str:
    """Return the /64 network of an IPv6 address; return IPv4 addresses and other text, such as `unix`, unchanged."""
    try:
        parsed = IPv6Address(address)
    except AddressValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Network((parsed, NETWORK_BITS), strict=False))
