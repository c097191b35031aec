"""Deadlines of conditional writes, for a store that checks the time when a command begins, not when it takes effect.

MongoDB evaluates `$$NOW` once per command. The command may then wait for a lock, a ticket or flow control until its
`maxTimeMS` ends. So the time left for a write is split: the first part to reach the server and begin; the second, which
is its `maxTimeMS`, to take effect. Both end before the deadline.
"""

from typing import NamedTuple

from guidsvc.runtime.clock import ContinuousClock, continuous_clock


class Deadline(NamedTuple):
    """The latest start of a command, by the clock of the store, and its maximum duration, in milliseconds."""

    begin_ms: int
    run_ms: int


class StoreClock:
    """An upper estimate of the store's clock, from its last answer. Only the split of the time depends on it."""

    def __init__(self, timer: ContinuousClock = continuous_clock) -> None:
        self._timer = timer
        self._offset_ms: float | None = None
        self._asked = 0.0

    def set(self, asked: float, now_ms: int) -> None:
        """Note the time that the store returned, and when, by the timer, it was requested."""
        self._asked, self._offset_ms = asked, now_ms - 1000 * asked

    def is_known(self, within_seconds: float) -> bool:
        """Return whether the last reading was requested less than `within_seconds` ago."""
        return self._offset_ms is not None and self._timer() - self._asked < within_seconds

    def deadline(self, not_after_ms: int, longest_ms: int) -> Deadline:
        """Split the time left before `not_after_ms` in halves; the second is at most `longest_ms`."""
        left_ms = not_after_ms - 1000 * self._timer() - (self._offset_ms or 0)
        run_ms = max(0, min(longest_ms, int(left_ms / 2)))
        return Deadline(not_after_ms - run_ms, run_ms)
