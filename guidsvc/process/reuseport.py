"""Listening sockets that share a port (SO_REUSEPORT): close them temporarily, and bind them again.

While one is closed, the system distributes connections to the others on its port.
"""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

_NAMES = (
    ("SOL_SOCKET", "SO_REUSEADDR"),
    ("SOL_SOCKET", "SO_REUSEPORT"),
    ("IPPROTO_IPV6", "IPV6_V6ONLY"),
    ("IPPROTO_TCP", "TCP_NOTSENT_LOWAT"),
)
_OPTIONS = [(getattr(socket, level), getattr(socket, name)) for level, name in _NAMES if hasattr(socket, name)]


class Closed(NamedTuple):
    """The data needed to bind a closed socket again."""

    family: int
    address: Any
    options: list[tuple[int, int, int]]
    """Level, name and value."""


def close(listeners: Sequence[socket.socket]) -> list[Closed]:
    """Close sockets, and return the data to bind them again.

    If one is a Unix socket, close none and return an empty list.
    """
    if any(each.family == socket.AF_UNIX for each in listeners):
        return []
    closed = [Closed(each.family, each.getsockname(), _options(each)) for each in listeners]
    for each in listeners:
        each.close()
    return closed


def _options(listener: socket.socket) -> list[tuple[int, int, int]]:
    return [
        (level, name, listener.getsockopt(level, name))
        for level, name in _OPTIONS
        if level != socket.IPPROTO_IPV6 or listener.family == socket.AF_INET6
    ]


def bind_again(closed: Sequence[Closed]) -> list[socket.socket]:
    """Bind the sockets again, or raise OSError. They get no connections until a process listens on them."""
    with ExitStack() as stack:
        bound = [_bind(stack, each) for each in closed]
        stack.pop_all()
    return bound


def _bind(stack: ExitStack, closed: Closed) -> socket.socket:
    bound = stack.enter_context(socket.socket(closed.family, socket.SOCK_STREAM))
    bound.setblocking(False)
    for level, name, value in closed.options:
        bound.setsockopt(level, name, value)
    bound.bind(closed.address)
    return bound
