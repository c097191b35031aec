"""What is done because somebody waits for it; and what is left when nobody does any more.

Who waits goes away, or has waited too long. Then what only waits is cut off, and what has not been sent to the store is
dropped. What has been sent is finished, so that nothing is told as not done that was. It knows neither stores nor HTTP:
an errand goes along with the context, and those who could still leave it ask.
"""

import asyncio
from contextvars import ContextVar
from types import TracebackType

from guidsvc.errors import ClientDisconnected, DeadlineExceeded, GuidsvcError


class CancelScope:
    """What is done for one request, or for one part of a long one."""

    __slots__ = ("begun", "caller", "gone", "is_persistent", "kept", "left", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[object] | None = None  # as soon as somebody does it
        self.caller: str | None = None
        """The caller whose share of the places it uses; None until the caller is known."""
        self.begun = False
        """Somebody does it, or has done."""
        self.left = False
        """Nobody waits for it any more."""
        self.gone = False
        """Who waited has gone, rather than lost patience."""
        self.is_persistent = False
        """It goes on to its end though its client has gone."""
        self.kept = 0
        """So many parts of it are not to be cut off."""

    def cancel(self, *, gone: bool) -> None:
        """Leave it: cut it off, unless a part of it is not to be; then it is dropped where it comes to a choice."""
        if not self.left and not (gone and self.is_persistent):
            self.left, self.gone = True, gone
            if self.task is not None and not self.kept:
                self.task.cancel()

    def error(self) -> GuidsvcError:
        """Return what it is told as."""
        return (
            ClientDisconnected("its client has gone")
            if self.gone
            else DeadlineExceeded("it took longer than a request may")
        )


CURRENT: ContextVar[CancelScope | None] = ContextVar("errand", default=None)


def checkpoint() -> None:
    """Return if somebody waits for what is being done, or if it is nobody's errand; else raise what it is told as."""
    errand = CURRENT.get()
    if errand is not None and errand.left:
        raise errand.error()


def persist() -> None:
    """Let what is being done go on to its end though its client goes away; it still has a time."""
    errand = CURRENT.get()
    if errand is not None:
        errand.is_persistent = True


class shielded:  # noqa: N801  # it reads as what it is: `with kept():`
    """What is done inside is not cut off."""

    __slots__ = ("_errand",)

    def __enter__(self) -> None:  # noqa: D105  # told of above
        errand = self._errand = CURRENT.get()
        if errand is not None:
            errand.kept += 1

    def __exit__(  # noqa: D105
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._errand is not None:
            self._errand.kept -= 1
