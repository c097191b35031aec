"""Turns at a GUID."""

import asyncio

import pytest

from guidsvc.errors import Contention
from guidsvc.runtime.keyed_lock import KeyedLock
from tests.support.factories import GUID


async def test_write_over_its_queue_time_is_unavailable() -> None:
    turns = KeyedLock()
    async with turns.acquire(GUID, seconds=0):
        with pytest.raises(Contention, match="too many concurrent writes"):
            async with turns.acquire(GUID, seconds=0):
                pytest.fail("it is not its turn")
        async with turns.acquire("0" * 32, seconds=0):
            pass
    async with turns.acquire(GUID, seconds=0):
        pass


async def test_released_locks_leave_nothing_behind() -> None:
    turns = KeyedLock()
    async with turns.acquire(GUID):
        assert len(turns._locks) == 1
    assert not turns._locks


async def test_only_free_locks_are_acquired_together() -> None:
    locks, others = KeyedLock(), ["1" * 32, "2" * 32]
    async with locks.acquire(GUID):
        with locks.acquire_free([GUID, *others]) as acquired:
            assert list(acquired) == others
            waiting = asyncio.ensure_future(_use(locks, others[0]))
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
    assert not locks._locks


async def _use(locks: KeyedLock, guid: str) -> None:
    async with locks.acquire(guid):
        pass


async def _hold(turns: KeyedLock, order: list[str], name: str) -> None:
    async with turns.acquire(GUID):
        order.append(name)
        await asyncio.sleep(0)


async def test_waiters_get_the_lock_in_order_of_arrival() -> None:
    turns, order = KeyedLock(), list[str]()
    await asyncio.gather(*(_hold(turns, order, name) for name in "abcd"))

    assert order == ["a", "b", "c", "d"]
    assert not turns._locks


@pytest.mark.parametrize("has_lock", [False, True])
async def test_lock_of_cancelled_waiter_goes_to_the_next(has_lock: bool) -> None:
    """Whether it is cancelled while it waits, or at the moment in which it gets the lock."""
    turns, order = KeyedLock(), list[str]()
    async with turns.acquire(GUID):
        tasks = [asyncio.create_task(_hold(turns, order, name)) for name in "abc"]
        await asyncio.sleep(0)
        if not has_lock:
            tasks[0].cancel()
    tasks[0].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)

    assert order == ["b", "c"]
    assert not turns._locks
