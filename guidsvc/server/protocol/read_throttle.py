"""Read throttle: reading from rejected clients pauses until their Retry-After has elapsed.

A client that retries early is not rejected again, which is costly with thousands of clients. Its request waits in the
kernel buffer, at no cost. Connections of trusted proxies are never paused: they carry the requests of many clients.
"""

import asyncio
from collections import deque
from typing import Protocol

from guidsvc.http.constants import RETRY_AFTER

SECONDS = float(RETRY_AFTER)
POLL_SECONDS = 0.05


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
