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
