"""Progress of one attempt at an idempotent request. It decides whether the receipt may be deleted at the end.

The attempt is a context variable. The service marks it before it sends the first write to the store. After an error
without that mark, nothing was changed.
"""

from contextvars import ContextVar


class Attempt:
    """One attempt at a request that has a receipt."""

    __slots__ = ("has_begun", "has_done")

    def __init__(self) -> None:
        self.has_begun = False
        """Whether a write was sent to the store."""
        self.has_done: bool | None = None
        """Whether a changing part was done, even if it needed no write; None if the request has no parts."""

    @property
    def should_store(self) -> bool:
        """Whether the response must be stored for repetitions: something was done, or may have been."""
        return self.has_begun or self.has_done is not False


CURRENT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def begin_write() -> None:
    """Mark the current attempt, if any: from here on it may have changed something."""
    attempt = CURRENT.get()
    if attempt is not None:
        attempt.has_begun = True
