"""The slot of a worker: its listening sockets, its worker, and the delay before a dead one is restarted."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from socket import socket

from guidsvc.errors import StartError
from guidsvc.process import reuseport
from guidsvc.process.reuseport import Closed
from guidsvc.process.worker import Worker


@dataclass
class Backoff:
    """The delay before a dead worker is restarted: none, unless workers die repeatedly soon after their start.

    All times are in seconds.
    """

    first: float = 0.25
    most: float = 8.0
    steady: float = 10.0
    """A worker that served this long did not die because of its start."""
    deaths: int = 0
    """Consecutive deaths soon after the start."""

    def after(self, served: float) -> float:
        """Return the delay after the death of a worker that had served for `served` seconds."""
        if served >= self.steady:
            self.deaths = 0
            return 0.0
        self.deaths += 1
        return float(min(self.first * 2 ** min(self.deaths - 1, 30), self.most))


@dataclass(eq=False)
class Slot:
    """A slot, with a number from 1 and sockets of its own on the port of the service."""

    number: int
    listeners: list[socket]
    """Empty while they are closed."""
    closed: list[Closed] = field(default_factory=list)
    """The data to bind them again; cleared once a worker listens."""
    worker: Worker | None = None
    """The current worker, or the last one."""
    backoff: Backoff = field(default_factory=Backoff)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a new worker is being started, and during the pauses between attempts."""
    attempting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during an attempt to start a worker in place of a dead one."""

    def stop_listening(self, slots: Iterable["Slot"]) -> None:
        """Close the sockets of a slot without a worker, unless no other slot listens, which would free the port.

        Connections in their backlog are reset. A socket that was bound again but does not listen is always closed.
        """
        if self.closed or any(other.listeners and not other.closed for other in slots if other is not self):
            closed = reuseport.close(self.listeners)
            if closed:
                self.listeners, self.closed = [], closed

    def bind_again(self) -> None:
        """Bind the closed sockets again, for a worker to listen on. Raise StartError on failure."""
        if self.closed and not self.listeners:
            try:
                self.listeners = reuseport.bind_again(self.closed)
            except OSError as error:
                raise StartError(f"a worker cannot be started: {error.strerror}") from error
