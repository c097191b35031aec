"""The file descriptors of accepted connections, from `accept` until the system has closed them.

A connection that ends keeps its descriptor for some iterations of the event loop. Were those not counted, clients that
connect and disconnect could use up the descriptors that are reserved for the store and the logs.
"""

import sys
from collections.abc import Callable
from socket import socket


class Descriptors:
    """At most `limit` descriptors. `free` is the number of those that are left."""

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.free = limit
        self._waiting: list[Callable[[], None]] = []
        self._on_close = self._release  # one object for all sockets

    def take(self, accepted: socket) -> socket:
        """Count the descriptor of an accepted socket until it is closed; return a socket in its place."""
        self.free -= 1
        return _CountedSocket(accepted, self._on_close)

    def wait(self, callback: Callable[[], None]) -> None:
        """Call back when the next descriptor is closed."""
        self._waiting.append(callback)

    def _release(self) -> None:
        self.free += 1
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


class _CountedSocket(socket):
    """A socket that calls back when its descriptor is closed: by `close`, or by uvloop, which then detaches it."""

    __slots__ = ("_on_close",)

    def __init__(self, accepted: socket, on_close: Callable[[], None]) -> None:
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        super().__init__(family, kind, protocol, fileno=accepted.detach())
        self._on_close: Callable[[], None] | None = on_close

    def close(self) -> None:
        super().close()
        self._report()

    def detach(self) -> int:
        descriptor = super().detach()
        self._report()
        return descriptor

    def _report(self) -> None:
        if self._on_close is not None and self.fileno() < 0:
            callback, self._on_close = self._on_close, None
            callback()
