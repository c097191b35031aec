"""The address of a client, or the network that it stands for."""

from ipaddress import AddressValueError, IPv6Address, IPv6Network

NETWORK_BITS = 64
"""Of an IPv6 address, those that one customer has to himself: he may change the others with each request."""


def place_of(address: str) -> str:
    """Return as what an address is counted: its /64 for IPv6; any other, and what is none, as `unix`, is itself."""
    try:
        parsed = IPv6Address(address)
    except AddressValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Network((parsed, NETWORK_BITS), strict=False))
