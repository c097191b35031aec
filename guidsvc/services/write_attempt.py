"""One attempt at a request that is done once: what it has begun, so that whoever ends it knows what may be forgotten.

An attempt goes along with the context. The service marks it before the first write is sent to the store; an error that
comes before that mark means that nothing was done, and an error after it does not.
"""

from contextvars import ContextVar


class Attempt:
    """An attempt at a request under a receipt."""

    __slots__ = ("has_begun", "has_done", "is_refused")

    def __init__(self) -> None:
        self.has_begun = False
        """A write was sent to the store."""
        self.has_done: bool | None = None
        """A part that changes something was done, if perhaps without a write; None where there are no parts."""
        self.is_refused = False
        """A part was refused because the caller may not go on."""

    @property
    def is_final(self) -> bool:
        """Whether its answer may be given again: not where it was refused in part, nor where nothing was done."""
        return (self.has_begun or self.has_done is not False) and not self.is_refused


CURRENT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def begin_write() -> None:
    """Mark the current attempt, if there is one: from here on it may have changed something."""
    attempt = CURRENT.get()
    if attempt is not None:
        attempt.has_begun = True
