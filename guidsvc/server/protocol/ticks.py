"""The time that time-outs are measured by. It stands still while the process does."""

import asyncio

TICK_SECONDS = 0.5
"""How often connections are searched for those that are overdue."""


class Ticks:
    """A clock that advances by at most two ticks at a look.

    A later look means that the process stood still: it was stopped, or its machine was. What clients sent meanwhile
    could not be read, so that time counts against nobody.
    """

    def __init__(self) -> None:
        self.now = self._seen = asyncio.get_running_loop().time()

    def advance(self) -> float:
        """Advance to now, and return the time."""
        now = asyncio.get_running_loop().time()
        self.now += min(now - self._seen, 2 * TICK_SECONDS)
        self._seen = now
        return self.now
