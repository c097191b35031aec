"""Single operations of the log. Each runs in the bulkhead of its kind, and within its time limit."""

from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from guidsvc.store.mongo.bulkhead import Bulkheads
from guidsvc.store.mongo.failures import read_failures, write_failures

_Done = TypeVar("_Done")


class Operations:
    """Runs operations, and converts their errors to those of the store."""

    def __init__(self, bulkheads: Bulkheads) -> None:
        self._bulkheads = bulkheads

    async def read(self, work: Callable[[], Awaitable[_Done]]) -> _Done:
        """Run a short read."""
        with read_failures():
            return await self._bulkheads.reads.run(work)

    async def scan(self, work: Callable[[], Awaitable[_Done]], group: Hashable = None) -> _Done:
        """Run a long read, in the turn of its group."""
        with read_failures():
            return await self._bulkheads.finds.run(work, group=group)

    async def write(self, work: Callable[[], Awaitable[_Done]]) -> _Done:
        """Run a write."""
        with write_failures():
            return await self._bulkheads.updates.run(work)
