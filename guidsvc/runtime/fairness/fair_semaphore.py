"""A fair semaphore: groups get slots in turn, however many waiters each has."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager

from guidsvc.errors import Overloaded
from guidsvc.runtime.fairness.fair_slots import LONG, DynamicSlots, FairSlots


class FairSemaphore:
    """A semaphore of `slots` slots. If it has several, one group, such as an owner, never holds all of them.

    If `is_dynamic`, a group leaves as many free as it holds: for slots that are held for long.
    """

    def __init__(self, slots: int, *, is_dynamic: bool = False) -> None:
        kind = DynamicSlots if is_dynamic else FairSlots
        self._slots: FairSlots[_Waiter] = kind(slots, max(1, slots - 1))

    def is_available(self, group: Hashable) -> bool:
        """Return whether a group gets a slot without a wait."""
        return self._slots.free > 0 and self._slots.has_room((group,))

    def require_short_queue(self, group: Hashable, seconds: float, error_text: str) -> None:
        """Raise Overloaded, with this text, if the first waiter of a group has waited for a tenth of `seconds`.

        A waiter gives up after `seconds`, so the last of a long queue would wait in vain.
        """
        first = self._slots.waiting.first((group,))
        if first is not None and asyncio.get_running_loop().time() - first.since > LONG * seconds:
            raise Overloaded(error_text)

    def slot(self, group: Hashable) -> "_Slot":
        """Return a slot, to hold with `async with`. Wait if no slot is free, or if the group is at its limit."""
        return _Slot(self, (group,))  # so that None is a group like any other

    async def acquire(self, key: Hashable) -> None:
        """Take a slot; wait for it if necessary. The key is a group in a tuple, as in `slot`."""
        if not self._slots.take(key):  # overtakes no one: all waiting groups are at their limit
            await self._wait(key)

    @asynccontextmanager
    async def slot_within(self, group: Hashable, seconds: float | None, error_text: str) -> AsyncIterator[None]:
        """Hold a slot inside the block. Raise Overloaded, with this text, after a wait of `seconds`; None waits on."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(seconds):
                    await stack.enter_async_context(self.slot(group))
            except TimeoutError as error:
                raise Overloaded(error_text) from error
            yield

    async def take_turn(self, group: Hashable) -> None:
        """Wait for a slot, and hold it until the next iteration of the event loop.

        The work must follow without another wait. So no iteration has more of it than there are slots.
        """
        key = (group,)  # so that None is a group like any other
        await self.acquire(key)
        asyncio.get_running_loop().call_soon(self.release, key)

    def release(self, key: Hashable) -> None:
        """Release a slot to the next waiter."""
        waiter = self._slots.release(key)
        while waiter is not None:
            waiter.future.set_result(None)
            waiter = self._slots.next() if self._slots.waiting.length else None

    async def _wait(self, key: Hashable) -> None:
        waiter = _Waiter(asyncio.get_running_loop())
        self._slots.waiting.append(key, waiter)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.done() and not waiter.future.cancelled():
                self.release(key)
            else:
                self._slots.waiting.remove(key, waiter)
            raise


class _Slot:
    """A slot of a semaphore, in an `async with` block. A class, because a generator makes twice as many calls."""

    __slots__ = ("_key", "_semaphore")

    def __init__(self, semaphore: FairSemaphore, key: Hashable) -> None:
        self._semaphore = semaphore
        self._key = key

    async def __aenter__(self) -> None:
        await self._semaphore.acquire(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release(self._key)


class _Waiter:
    """A waiter, and the loop time since which it waits."""

    __slots__ = ("future", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self.since = loop.time()

    def done(self) -> bool:
        return self.future.done()
