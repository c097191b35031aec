"""Garbage collection after the process has grown, when reference cycles hold memory."""

import asyncio
import gc
import weakref

import pytest

from guidsvc.runtime import memory
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.memory import BUSY_GROWTH_BYTES, GROWTH_BYTES, GrowthTrigger, collect_on_growth, resident_bytes
from tests.conftest import Serving


class Cycle:
    """An object that refers to itself."""

    def __init__(self, size_bytes: int) -> None:
        self.itself = self
        self.data = b"x" * size_bytes


def old_garbage(size_bytes: int) -> weakref.ref[Cycle]:
    """Return a reference to garbage in the oldest generation, which only a full collection frees."""
    cycle = Cycle(size_bytes)
    gc.collect()
    return weakref.ref(cycle)


def test_grown_idle_process_is_due_for_collection_sooner() -> None:
    trigger = GrowthTrigger()
    assert not trigger.is_due(1000, is_idle=True)
    assert not trigger.is_due(1000 + GROWTH_BYTES - 1, is_idle=True)
    assert trigger.is_due(1000 + GROWTH_BYTES, is_idle=True)
    assert not trigger.is_due(1000 + GROWTH_BYTES, is_idle=False)
    assert trigger.is_due(1000 + BUSY_GROWTH_BYTES, is_idle=False)
    trigger.reset(1000 + GROWTH_BYTES)
    assert not trigger.is_due(1000 + GROWTH_BYTES, is_idle=True)
    assert not trigger.is_due(10, is_idle=True)
    assert trigger.is_due(10 + GROWTH_BYTES, is_idle=True)


async def test_garbage_of_the_oldest_generation_is_collected_on_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHECK_SECONDS", 0.01)
    gc.collect()
    gc.disable()
    try:
        async with running_in_background(lambda: collect_on_growth(lambda: True)):
            await asyncio.sleep(0.05)
            garbage = old_garbage(2 * GROWTH_BYTES)
            grown_bytes = resident_bytes()
            async with asyncio.timeout(20):
                while garbage() is not None:
                    await asyncio.sleep(0.01)
                while grown_bytes is not None and (resident_bytes() or 0) > grown_bytes - GROWTH_BYTES:
                    await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_service_collects_garbage_after_growth(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHECK_SECONDS", 0.01)
    gc.disable()
    try:
        async with serving() as client:
            assert (await client.get("/livez")).status == 200
            garbage = old_garbage(2 * GROWTH_BYTES)
            async with asyncio.timeout(20):
                while garbage() is not None:
                    await asyncio.sleep(0.01)
    finally:
        gc.enable()
