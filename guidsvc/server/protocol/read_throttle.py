"""Connections that are not listened to for a while: those of clients that were refused, and told when to come again.

Who comes again before that is not refused anew, which costs more than it seems when there are thousands: his request
waits where it costs nothing, in the system's buffers, until the time that he was told is over.
"""

import asyncio
from collections import deque
from typing import Protocol

from guidsvc.http.constants import RETRY_AFTER

SECONDS = float(RETRY_AFTER)
LOOK_SECONDS = 0.05


class Listener(Protocol):
    """A connection that listens unless it is held."""

    def resume_reading(self) -> None:
        """Listen again."""


class ReadThrottle:
    """The connections that are held, in the order in which they were."""

    def __init__(self) -> None:
        self._order: deque[tuple[float, Listener]] = deque()
        self._looking: asyncio.TimerHandle | None = None

    def add(self, listener: Listener) -> None:
        """Hold it until the time is over that its client was told."""
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
        finally:  # after a fault in one, too: the others would be held for ever
            self._looking = loop.call_later(LOOK_SECONDS, self._look) if self._order else None
