"""Log lines that are written once: at the start and at the end of an outage of a part, and for each key."""

from collections.abc import Callable, Hashable
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


class FirstTimes:
    """Tells which keys come for the first time, for a log line that comes once for each. It remembers `most` of them.

    Beyond that no key counts as new, so that neither the memory nor the log grows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: set[Hashable] = set()

    @property
    def count(self) -> int:
        """The number of keys that it remembers."""
        return len(self._keys)

    def is_first(self, key: Hashable) -> bool:
        """Whether this key comes for the first time. The next time it does not."""
        if key in self._keys or len(self._keys) >= self._most:
            return False
        self._keys.add(key)
        return True
