"""Turns of the writers of one GUID: all but two of them wait without an admission slot.

The first writer of a GUID holds its lock. A second one may wait for the lock; any other waits for its turn to do so.
Without this, the requests of a few callers for a few GUIDs would hold all slots while they wait for each other, and the
requests of others would be rejected.

A writer takes its slot again while it has the turn, never while it has the lock. So those that hold a slot while they
wait for the lock, as the operations of a batch do, always wait for a writer that has a slot.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from guidsvc.runtime import cancel_scope
from guidsvc.runtime.keyed_lock import KeyedLock


class WriteTurns:
    """The turns of all GUIDs."""

    def __init__(self) -> None:
        self._turns = KeyedLock()

    @asynccontextmanager
    async def turn(self, guid: str) -> AsyncIterator[None]:
        """Wait for the turn of a writer without its slot, and hold the turn and a slot in the block.

        The operations of a batch share a slot that they cannot release, so they take no turns.
        """
        scope = cancel_scope.CURRENT.get()
        if scope is None or scope.without_slot is None or scope.task is not asyncio.current_task():
            yield
            return
        async with AsyncExitStack() as stack:
            async with scope.without_slot(scope):
                await stack.enter_async_context(self._turns.acquire(guid))
            yield
