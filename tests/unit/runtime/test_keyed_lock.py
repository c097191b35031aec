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
