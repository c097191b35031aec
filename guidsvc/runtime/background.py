"""Work that goes on beside what is done inside, and ends with it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import structlog

from guidsvc.runtime import cancel_scope as errand
from guidsvc.telemetry import tracing

AGAIN_SECONDS = 1.0
"""After a fault, work waits this long before it begins again."""

Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def running_in_background(work: Callable[[], Coroutine[object, object, None]]) -> AsyncIterator[None]:
    """Run the work, inside, and cancel it at the end. After a fault, which is logged, it begins again."""
    task = asyncio.create_task(_keep_up(work))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep_up(work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run the work to its end, however often a fault stops it."""
    while True:
        try:
            return await work()
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            _tell_fault(work)  # what the work waited for was cancelled, not the work
        except Exception:  # noqa: BLE001  # it is logged; without this work the service would not last
            _tell_fault(work)
        await asyncio.sleep(AGAIN_SECONDS)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _tell_fault(work: Callable[[], Coroutine[object, object, None]]) -> None:
    function = work.func if isinstance(work, partial) else work
    name = getattr(function, "__qualname__", repr(function))
    _log.exception("fault in background work, which begins again", work=name, again_in=AGAIN_SECONDS)


def spawn_detached(work: Coroutine[object, object, Result]) -> "asyncio.Task[Result]":
    """Begin work that no request waits for: it is no part of the one that is being done, nor left when that is."""
    context = copy_context()
    context.run(errand.CURRENT.set, None)
    context.run(tracing.CURRENT.set, None)
    return asyncio.create_task(work, context=context)


class BackgroundTasks:
    """Work that goes on beside requests, none of which waits for it; at the end it is finished."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Begin some more. That it fails is for itself to tell."""
        task = spawn_detached(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Return when all of it has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)
