"""The timers of a batch of lines: one for pauses of the client, one for the whole batch."""

import asyncio
from collections.abc import Callable

PAUSE_SECONDS = 30.0
"""A connection is closed if the client sends nothing for this time in the middle of its lines, in seconds."""


class LineBatchTimers:
    """The timers of a request; cancelling one that was not started has no effect."""

    def __init__(self) -> None:
        self._idle: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def start_idle(self, on_idle: Callable[[], object]) -> None:
        """Call `on_idle` after PAUSE_SECONDS, unless cancelled first."""
        self._idle = asyncio.get_running_loop().call_later(PAUSE_SECONDS, on_idle)

    def cancel_idle(self) -> None:
        """Cancel the timer for pauses: the client has sent something, or is not expected to."""
        if self._idle is not None:
            self._idle.cancel()

    def start_deadline(self, seconds: float, on_deadline: Callable[[], object]) -> None:
        """Call `on_deadline` after this time, unless cancelled first."""
        self._deadline = asyncio.get_running_loop().call_later(seconds, on_deadline)

    def cancel_deadline(self) -> None:
        """Cancel the timer of the whole batch."""
        if self._deadline is not None:
            self._deadline.cancel()
