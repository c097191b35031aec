"""A store whose results wait until the test releases them, for races that a real store cannot reproduce."""

import asyncio
import time
from collections.abc import Sequence

from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.store.cache_fence import NEW, Fence, FenceReading
from guidsvc.store.contract import WOULD_BLOCK, WithoutGroups, WouldBlock


class GatedStore(WithoutGroups):
    """An in-memory store whose results wait at a gate, and which counts its reads."""

    def __init__(self) -> None:
        self.fence = GatedFence(self)
        self.records: dict[str, Record] = {}
        self.current_fence = NEW
        self.fence_gate = asyncio.Event()
        self.fence_gate.set()
        self.fence_fault: Exception | None = None
        self.gets = 0
        self.is_nowait_hit = False  # whether get_nowait returns records instead of WOULD_BLOCK
        self.open = asyncio.Event()
        self.open.set()
        self.fault: Exception | None = None
        self.loses_swaps = False  # whether swaps lose against a concurrent write
        self.swap_gates: list[asyncio.Event] = []  # gates of the next swaps, in order, instead of `open`

    async def get(self, guid: str, /) -> Record | None:
        self.gets += 1
        record = self.records.get(guid)  # the state when the read began
        await self.open.wait()
        if self.fault:
            raise self.fault
        return record

    async def get_for_update(self, guid: str, /) -> Record | None:
        return await self.get(guid)

    async def get_linearizable(self, guid: str, /) -> Record | None:
        return await self.get(guid)

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:
        return self.records.get(guid) if self.is_nowait_hit else WOULD_BLOCK

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        await (self.swap_gates.pop(0) if self.swap_gates else self.open).wait()
        if self.fault:
            raise self.fault
        if self.loses_swaps:
            return False
        present = new or old
        assert present is not None
        self.records.pop(present.guid, None)
        if new is not None:
            self.records[new.guid] = new
        return True

    async def find(self, selection: Selection, after: str, limit: int) -> list[Record]:
        return []

    async def find_by_expire(self, selection: Selection, after: Position, limit: int) -> list[Record]:
        return []

    async def count(self, selection: Selection) -> int:
        return 0

    async def count_linearizable(self, selection: Selection) -> int:
        return 0

    async def count_by_expire(self, bounds: Sequence[int], kept_at: int) -> list[int]:
        return [0] * (len(bounds) - 1)


class GatedFence:
    """The fence of a gated store. Its reads wait at a separate gate."""

    def __init__(self, store: GatedStore) -> None:
        self._store = store

    async def read(self) -> FenceReading:
        await self._store.fence_gate.wait()
        return FenceReading(self._store.current_fence, time.monotonic_ns() // 1_000_000)

    async def swap(self, old: Fence, new: Fence) -> bool:
        if self._store.fence_fault:
            raise self._store.fence_fault
        is_current = self._store.current_fence == old
        if is_current:
            self._store.current_fence = new
        return is_current


async def run_ready_tasks(count: int = 5) -> None:
    """Run all tasks that are ready."""
    for _ in range(count):
        await asyncio.sleep(0)
