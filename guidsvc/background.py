"""Work that goes on beside what is done inside, and ends with it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context

from guidsvc import errand, tracing


@asynccontextmanager
async def background(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run the work, inside, and cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def detached(work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
    """Begin work that no request waits for: it is no part of the one that is being done, nor left when that is."""
    context = copy_context()
    context.run(errand.CURRENT.set, None)
    context.run(tracing.CURRENT.set, None)
    return asyncio.create_task(work, context=context)


class Beside:
    """Work that goes on beside requests, none of which waits for it; at the end it is finished."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[object, object, None]) -> None:
        """Begin some more. That it fails is for itself to tell."""
        task = detached(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Return when all of it has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)
