"""Deadlines of conditional writes, for a store that checks the time when a command begins, not when it takes effect.

MongoDB evaluates `$$NOW` once per command. The command may then wait for a lock, a ticket or flow control until its
`maxTimeMS` ends. So the time that a write has is split: the first part to reach the server and begin, the second part,
which is its `maxTimeMS`, to take effect. Both end before the deadline.
"""

import time
from collections.abc import Callable
from typing import NamedTuple


class Deadline(NamedTuple):
    """When a command must begin, by the clock of the store, and how long it may run then, in milliseconds."""

    begin_ms: int
    run_ms: int


class StoreClock:
    """An upper estimate of the clock of the store, from its last answer. Only how time is split depends on it."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._offset_ms: float | None = None
        self._asked = 0.0

    def set(self, asked: float, now_ms: int) -> None:
        """Note what the store said its time was, and when, by the timer, it had been asked."""
        self._asked, self._offset_ms = asked, now_ms - 1000 * asked

    def is_known(self, within_seconds: float) -> bool:
        """Return whether the store told its time within the last seconds."""
        return self._offset_ms is not None and self._timer() - self._asked < within_seconds

    def deadline(self, not_after_ms: int, longest_ms: int) -> Deadline:
        """Split the time that is left before `not_after_ms` in halves, of which the second is at most `longest_ms`."""
        left_ms = not_after_ms - 1000 * self._timer() - (self._offset_ms or 0)
        run_ms = max(0, min(longest_ms, int(left_ms / 2)))
        return Deadline(not_after_ms - run_ms, run_ms)
