"""A fair semaphore: groups get slots in turn, however many waiters each has."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager

from guidsvc.errors import Overloaded
from guidsvc.runtime.fairness.fair_slots import FairPlaces


class FairSemaphore:
    """A semaphore of `places` slots. If it has several, one group, such as an owner, never holds all of them."""

    def __init__(self, places: int) -> None:
        self._places: FairPlaces[asyncio.Future[None]] = FairPlaces(places, max(1, places - 1))

    @asynccontextmanager
    async def place(self, group: Hashable) -> AsyncIterator[None]:
        """Hold a slot inside the block. Wait if no slot is free, or if the group is at its limit."""
        key = (group,)  # so that None is a group like any other
        if not self._places.take(key):  # overtakes no one: with a slot free, all waiting groups are at their limit
            await self._wait(key)
        try:
            yield
        finally:
            self._release(key)

    @asynccontextmanager
    async def place_within(self, group: Hashable, seconds: float | None, refusal: str) -> AsyncIterator[None]:
        """Hold a slot inside the block. Raise Overloaded, with this text, after a wait of `seconds`; None waits on."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(seconds):
                    await held.enter_async_context(self.place(group))
            except TimeoutError as error:
                raise Overloaded(refusal) from error
            yield

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
