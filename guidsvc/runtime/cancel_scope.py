"""Cancellation of work whose client disconnected or whose deadline passed.

Cancellation interrupts waits, and drops calls not yet sent to the store. Calls already sent are shielded, so that no
completed write is reported as not done. This module knows neither stores nor HTTP: the scope travels in the context,
and code that can still stop calls `checkpoint`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType

from guidsvc.errors import ClientDisconnected, DeadlineExceeded, GuidsvcError


class CancelScope:
    """The work for one request, or for one part of a batch."""

    __slots__ = (
        "begun_at",
        "caller",
        "has_started",
        "is_cancelled",
        "is_disconnected",
        "is_persistent",
        "shield_depth",
        "task",
        "without_slot",
    )

    def __init__(self) -> None:
        self.task: asyncio.Task[object] | None = None  # set while a task runs it
        self.begun_at: float | None = None
        """Loop time at which its time limit began, if that was before it asked for a slot."""
        self.caller: str | None = None
        """The caller whose share of the slots it uses; None until the caller is known."""
        self.has_started = False
        """A task runs it, or has run it."""
        self.is_cancelled = False
        """It was cancelled."""
        self.is_disconnected = False
        """It was cancelled because the client disconnected, not because the deadline passed."""
        self.is_persistent = False
        """It continues after its client has disconnected."""
        self.without_slot: Callable[[CancelScope], AbstractAsyncContextManager[None]] | None = None
        """Runs a block without the admission slot that it holds; see `Admission.without_slot`."""
        self.shield_depth = 0
        """The number of `shielded` blocks that it is in."""

    def cancel(self, *, is_disconnected: bool) -> None:
        """Cancel the task, or, inside a `shielded` block, let the next `checkpoint` raise.

        `is_disconnected` means that the client has disconnected, which a persistent scope ignores.
        """
        if not self.is_cancelled and not (is_disconnected and self.is_persistent):
            self.is_cancelled, self.is_disconnected = True, is_disconnected
            if self.task is not None and not self.shield_depth:
                self.task.cancel()

    def checkpoint(self) -> None:
        """Raise the error if it is cancelled."""
        if self.is_cancelled:
            raise self.error()

    def error(self) -> GuidsvcError:
        """Return the error that says why it was cancelled."""
        return (
            ClientDisconnected("its client has gone")
            if self.is_disconnected
            else DeadlineExceeded("the request took longer than its time limit")
        )


CURRENT: ContextVar[CancelScope | None] = ContextVar("cancel_scope", default=None)


@asynccontextmanager
async def cancellable(scope: CancelScope, seconds: float) -> AsyncIterator[None]:
    """Run the block, which needs no slot, in a scope. Raise the scope's error once it is cancelled: by `seconds`."""
    scope.checkpoint()
    task = scope.task = asyncio.current_task()
    timer = asyncio.get_running_loop().call_later(seconds, partial(scope.cancel, is_disconnected=False))
    token = CURRENT.set(scope)
    try:
        yield
    except asyncio.CancelledError as error:
        if not scope.is_cancelled or task is None:
            raise
        task.uncancel()
        raise scope.error() from error
    finally:
        CURRENT.reset(token)
        timer.cancel()
        scope.task = None


def checkpoint() -> None:
    """Raise DeadlineExceeded or ClientDisconnected if the current scope is cancelled. Do nothing without a scope."""
    scope = CURRENT.get()
    if scope is not None:
        scope.checkpoint()


def persist() -> None:
    """Continue the current scope even if its client disconnects. Its deadline still applies."""
    scope = CURRENT.get()
    if scope is not None:
        scope.is_persistent = True


class shielded:  # noqa: N801  # reads as a statement: `with shielded():`
    """A context manager that suppresses cancellation of the current scope inside the block."""

    __slots__ = ("_scope",)

    def __enter__(self) -> None:  # noqa: D105  # see the class
        scope = self._scope = CURRENT.get()
        if scope is not None:
            scope.shield_depth += 1

    def __exit__(  # noqa: D105
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._scope is not None:
            self._scope.shield_depth -= 1
