"""Read throttle: reading from rejected clients pauses until their Retry-After has elapsed.

A client that retries early is not rejected again, which is costly with thousands of clients. Its request waits in the
kernel buffer, at no cost.
"""

import asyncio
from collections import deque
from typing import Protocol

from guidsvc.http.constants import RETRY_AFTER

SECONDS = float(RETRY_AFTER)
LOOK_SECONDS = 0.05


class Listener(Protocol):
    """A connection whose reading can be paused."""

    def resume_reading(self) -> None:
        """Read again."""


class ReadThrottle:
    """The paused connections, oldest first."""

    def __init__(self) -> None:
        self._order: deque[tuple[float, Listener]] = deque()
        self._looking: asyncio.TimerHandle | None = None

    def add(self, listener: Listener) -> None:
        """Resume a connection, which has stopped reading, after Retry-After."""
        loop = asyncio.get_running_loop()
        self._order.append((loop.time() + SECONDS, listener))
        if self._looking is None:
            self._looking = loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._order and self._order[0][0] <= loop.time():
                _, listener = self._order.popleft()
                listener.resume_reading()
        finally:  # also after an error in one: the others would stay paused forever
            self._looking = loop.call_later(LOOK_SECONDS, self._look) if self._order else None
