"""One attempt at an idempotent request: the end of its claim, and its progress.

The attempt is a context variable. Each of its writes must take effect before its claim ends. Afterwards, another
attempt may be executed, or the client may have been told that the outcome is unknown.

The service counts the writes that it sends to the store, and takes back those that certainly changed nothing. After an
error with none left, nothing was changed, and the receipt may be deleted.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar


class Attempt:
    """One attempt at a request that has a receipt."""

    __slots__ = ("has_done", "not_after", "possible_writes")

    def __init__(self, not_after: Callable[[], Awaitable[int]]) -> None:
        self.not_after = not_after
        """Returns the end of the claim, as `RecordRepository.swap` expects it; LeaseExpired if it has ended."""
        self.possible_writes = 0
        """The number of writes that were sent to the store, and may have changed something."""
        self.has_done: bool | None = None
        """Whether a changing part was done, even if it needed no write; None if the request has no parts."""

    @property
    def has_begun(self) -> bool:
        """Whether this attempt may have changed something."""
        return self.possible_writes > 0

    @property
    def should_store(self) -> bool:
        """Whether the response must be stored for repetitions: something was done, or may have been."""
        return self.has_begun or self.has_done is not False


CURRENT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def begin_write() -> None:
    """Count a write of the current attempt, if any: from here on it may have changed something."""
    attempt = CURRENT.get()
    if attempt is not None:
        attempt.possible_writes += 1


def take_back_write() -> None:
    """Take back a write of the current attempt that has changed nothing, and never will."""
    attempt = CURRENT.get()
    if attempt is not None:
        attempt.possible_writes -= 1
