"""Turns at a GUID."""

import pytest

from guidsvc.errors import Contention
from guidsvc.runtime.keyed_lock import KeyedLock
from tests.support.factories import GUID


async def test_a_write_that_waits_too_long_for_those_before_it_is_unavailable() -> None:
    turns = KeyedLock()
    async with turns.acquire(GUID, seconds=0):
        with pytest.raises(Contention, match="too many concurrent writes"):
            async with turns.acquire(GUID, seconds=0):
                pytest.fail("it is not its turn")
        async with turns.acquire("0" * 32, seconds=0):
            pass
    async with turns.acquire(GUID, seconds=0):
        pass


async def test_of_turns_that_are_over_nothing_is_kept() -> None:
    turns = KeyedLock()
    async with turns.acquire(GUID):
        assert len(turns._locks) == 1
    assert not turns._locks
