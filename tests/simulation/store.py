"""A simulated store, and what each process sees of it.

As in a real one a write is judged at one time, by the store's clock too, and shows some time later: when the disk, or a
majority, has it. Until then it is what `settled` waits for, and `get` does not.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from guidsvc.errors import OutcomeUnknown, StoreUnavailable
from guidsvc.models import Record
from guidsvc.store import FAR, Far
from guidsvc.store.fence import NEW, Fence, Sight
from tests.simulation.network import Network
from tests.simulation.world import World

_Done = TypeVar("_Done")
STORE_SECONDS = 2.0
"""The time-out of the driver."""


class SimulatedStore:
    """The records, and the fence."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rate = world.random.uniform(0.996, 1.004)
        self._half_done: dict[str, asyncio.Future[None]] = {}
        self._last: dict[str, int] = {}
        self.records: dict[str, Record] = {}
        self.fence = NEW
        self.cycles = 0
        self.stall = 0.0
        """At most so many seconds lie between the judgement of a write and when it shows."""

    @property
    def now(self) -> int:
        """The time by its clock, in milliseconds."""
        return int(5_000_000 + self._world.now * 1000 * self._rate)

    async def get(self, guid: str) -> Record | None:
        return self.records.get(guid)

    async def settled(self, guid: str) -> Record | None:
        while guid in self._half_done:
            await asyncio.shield(self._half_done[guid])
        return self.records.get(guid)

    async def swap(self, old: Record | None, new: Record | None, not_after: int | None) -> bool:
        guid = (new or old).guid  # type: ignore[union-attr]
        while guid in self._half_done:
            await asyncio.shield(self._half_done[guid])
        stored = self.records.get(guid)
        if (stored and stored.version) != (old and old.version):
            return False
        if not_after is not None and self.now > not_after:
            return False
        if new is not None and new.version <= self._last.get(guid, 0):
            return False  # the service sees to that, but for what a create may do across processes
        self._half_done[guid] = done = self._world.create_future()
        await asyncio.sleep(self.stall * self._world.random.random())
        if new is None:
            del self.records[guid]
        else:
            self.records[guid] = new
        self._last[guid] = max(self._last.get(guid, 0), (new or old).version)  # type: ignore[union-attr]
        del self._half_done[guid]
        done.set_result(None)
        return True

    async def look(self) -> Sight:
        return Sight(self.fence, self.now)

    async def swap_fence(self, old: Fence, new: Fence) -> bool:
        if self.fence != old:
            return False
        self._world.note("fence", new)
        self.cycles += old.mode != new.mode and new.mode == "on"
        self.fence = new
        return True


class StoreOfProcess:
    """The store as one process reaches it; `near` is one whose reads need not be waited for."""

    def __init__(self, world: World, store: SimulatedStore, network: Network, *, near: bool) -> None:
        self._world, self._store, self._network = world, store, network
        self._near = near

    async def get(self, guid: str) -> Record | None:
        return await self._far(lambda: self._store.get(guid))

    latest = get

    def peek(self, guid: str) -> Record | Far | None:
        return self._store.records.get(guid) if self._near else FAR

    async def settled(self, guid: str) -> Record | None:
        return await self._far(lambda: self._store.settled(guid))

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        late = self._network.straggle()
        return await self._far(lambda: self._store.swap(old, new, not_after), OutcomeUnknown("no answer"), late)

    async def fence(self) -> Sight:
        return await self._far(self._store.look)

    async def swap_fence(self, old: Fence, new: Fence) -> bool:
        return await self._far(lambda: self._store.swap_fence(old, new), OutcomeUnknown("no answer"))

    async def _far(
        self, work: Callable[[], Awaitable[_Done]], late: Exception | None = None, straggle: float = 0.0
    ) -> _Done:
        done: _Done = await self._world.run_far(
            self._network, work, late or StoreUnavailable("no answer"), STORE_SECONDS, straggle
        )
        return done
