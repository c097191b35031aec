"""Read throttle: reading from rejected clients pauses until their Retry-After has elapsed.

A client that retries early is not rejected again, which is costly with thousands of clients. Its request waits in the
kernel buffer, at no cost. Connections of trusted proxies are never paused: they carry the requests of many clients.

The rest of a request whose response came early is read and discarded, as its client may read only once it has sent
everything. Beyond a bound, it is read at a low rate: then no client waits forever, and none keeps a core busy.
"""

import asyncio
from collections import deque
from typing import Protocol

from guidsvc.http.constants import RETRY_AFTER

SECONDS = float(RETRY_AFTER)
POLL_SECONDS = 0.05
DISCARD_BYTES = 16 * 1024 * 1024
"""Bytes of a request that are read and discarded as fast as they arrive."""
DISCARD_BYTES_PER_SECOND = 1024 * 1024
"""Rate at which further bytes are read and discarded."""


def discard_pause(discarded_bytes: int, size: int) -> float:
    """Return for how many seconds reading pauses after `size` bytes, the last of `discarded_bytes`."""
    return min(size, max(0, discarded_bytes - DISCARD_BYTES)) / DISCARD_BYTES_PER_SECOND


class ThrottledConnection(Protocol):
    """A connection whose reading can be paused."""

    def resume_reading(self) -> None:
        """Read again."""


class ReadThrottle:
    """The paused connections, oldest first."""

    def __init__(self) -> None:
        self._paused: deque[tuple[float, ThrottledConnection]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: ThrottledConnection) -> None:
        """Resume a connection, which has stopped reading, after Retry-After."""
        loop = asyncio.get_running_loop()
        self._paused.append((loop.time() + SECONDS, connection))
        if self._timer is None:
            self._timer = loop.call_later(POLL_SECONDS, self._resume_due)

    def _resume_due(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._paused and self._paused[0][0] <= loop.time():
                _, connection = self._paused.popleft()
                connection.resume_reading()
        finally:  # also after an error in one: the others would stay paused forever
            self._timer = loop.call_later(POLL_SECONDS, self._resume_due) if self._paused else None
