"""A semaphore that is shared fairly: each group gets a place in turn, however many it has waiting."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSemaphore:
    """So many places; one group, such as what one owner asks for, never has the last one too if there are several."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._most = max(1, places - 1)
        self._taken: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, group: Hashable) -> AsyncIterator[None]:
        """Have a place, inside; wait for it if there is none."""
        if self._free and self._taken[group] < self._most:  # who waits has no right to one, or there were none free
            self._take(group)
        else:
            await self._wait(group)
        try:
            yield
        finally:
            self._release(group)

    def _take(self, group: Hashable) -> None:
        self._free -= 1
        self._taken[group] += 1

    def _release(self, group: Hashable) -> None:
        self._free += 1
        self._taken[group] -= 1
        if not self._taken[group]:
            del self._taken[group]
        self._give()

    async def _wait(self, group: Hashable) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(group)
            else:
                self._forget(group, turn)
            raise

    def _forget(self, group: Hashable, turn: "asyncio.Future[None]") -> None:
        """Drop a waiter that was cancelled, unless `_give` has dropped it already."""
        turns = self._waiting.get(group)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[group]

    def _give(self) -> None:
        """Give the free place to the group whose turn it is."""
        for group in list(self._waiting):
            if self._taken[group] < self._most and (turn := self._next(group)) is not None:
                self._take(group)
                turn.set_result(None)
                return

    def _next(self, group: Hashable) -> "asyncio.Future[None] | None":
        """Take the first waiter of a group out of the queue; one that was cancelled may not have run since."""
        turns = self._waiting[group]
        found = None
        while turns and found is None:
            turn = turns.popleft()
            found = None if turn.done() else turn
        self._waiting.move_to_end(group)
        if not turns:
            del self._waiting[group]
        return found
