"""The outage of a part of the service: one log line when it begins, and one when it ends."""

from collections.abc import Callable
from time import monotonic
from typing import Protocol


class Log(Protocol):
    """A logger: of structlog, whose methods take an event and its fields."""

    def warning(self, event: str, /, **fields: object) -> object:
        """Log a warning."""

    def info(self, event: str, /, **fields: object) -> object:
        """Log an event."""


class Outage:
    """Logs `down` with the first failure after a success, and `up`, with the duration, with the first success after it.

    Failures in between are not logged, however many there are.
    """

    def __init__(self, log: Log, down: str, up: str, *, timer: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._down = down
        self._up = up
        self._timer = timer
        self._begun: float | None = None

    def begin(self, **fields: object) -> None:
        """Note a failure."""
        if self._begun is None:
            self._begun = self._timer()
            self._log.warning(self._down, **fields)

    def end(self, **fields: object) -> None:
        """Note a success."""
        if self._begun is not None:
            seconds, self._begun = self._timer() - self._begun, None
            self._log.info(self._up, down_seconds=round(seconds, 1), **fields)
