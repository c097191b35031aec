"""The keyed lock."""

import asyncio

import pytest

from guidsvc.errors import Contention
from guidsvc.runtime.keyed_lock import KeyedLock
from tests.support.factories import GUID


async def test_write_over_its_queue_time_is_unavailable() -> None:
    lock = KeyedLock()
    async with lock.acquire(GUID, seconds=0):
        with pytest.raises(Contention, match="too many concurrent writes"):
            async with lock.acquire(GUID, seconds=0):
                pytest.fail("the lock is held")
        async with lock.acquire("0" * 32, seconds=0):
            pass
    async with lock.acquire(GUID, seconds=0):
        pass


async def test_released_locks_leave_nothing_behind() -> None:
    lock = KeyedLock()
    async with lock.acquire(GUID):
        assert len(lock._locks) == 1
    assert not lock._locks


async def test_only_free_locks_are_acquired_together() -> None:
    locks, free_guids = KeyedLock(), ["1" * 32, "2" * 32]
    async with locks.acquire(GUID):
        with locks.acquire_free([GUID, *free_guids]) as acquired:
            assert list(acquired) == free_guids
            waiter = asyncio.ensure_future(_use(locks, free_guids[0]))
            await asyncio.sleep(0)
            assert not waiter.done()
        await waiter
    assert not locks._locks


async def _use(locks: KeyedLock, guid: str) -> None:
    async with locks.acquire(guid):
        pass


async def _hold(lock: KeyedLock, order: list[str], name: str) -> None:
    async with lock.acquire(GUID):
        order.append(name)
        await asyncio.sleep(0)


async def test_waiters_get_the_lock_in_order_of_arrival() -> None:
    lock, order = KeyedLock(), list[str]()
    await asyncio.gather(*(_hold(lock, order, name) for name in "abcd"))

    assert order == ["a", "b", "c", "d"]
    assert not lock._locks


@pytest.mark.parametrize("has_lock", [False, True])
async def test_lock_of_cancelled_waiter_goes_to_the_next(has_lock: bool) -> None:
    """Whether it is cancelled while it waits, or at the moment when it gets the lock."""
    lock, order = KeyedLock(), list[str]()
    async with lock.acquire(GUID):
        tasks = [asyncio.create_task(_hold(lock, order, name)) for name in "abc"]
        await asyncio.sleep(0)
        if not has_lock:
            tasks[0].cancel()
    tasks[0].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)

    assert order == ["b", "c"]
    assert not lock._locks
