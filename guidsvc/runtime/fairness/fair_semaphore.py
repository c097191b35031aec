"""A semaphore that is shared fairly: each group gets a place in turn, however many it has waiting."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from guidsvc.runtime.fairness.fair_slots import FairPlaces


class FairSemaphore:
    """So many places; one group, such as what one owner asks for, never has the last one too if there are several."""

    def __init__(self, places: int) -> None:
        self._places: FairPlaces[asyncio.Future[None]] = FairPlaces(places, max(1, places - 1))

    @asynccontextmanager
    async def place(self, group: Hashable) -> AsyncIterator[None]:
        """Have a place, inside; wait for it if there is none."""
        key = (group,)  # None is a group like any other here
        if not self._places.take(key):  # who waits has no right to one, or there were none free
            await self._wait(key)
        try:
            yield
        finally:
            self._release(key)

    def _release(self, group: Hashable) -> None:
        turn = self._places.release(group)
        if turn is not None:
            turn.set_result(None)

    async def _wait(self, group: Hashable) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._places.waiting.append(group, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(group)
            else:
                self._places.waiting.remove(group, turn)
            raise
