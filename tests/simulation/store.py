"""A simulated store, and what each process sees of it.

As in a real one a write is judged at one time, by the store's clock too, and shows some time later: when the disk, or a
majority, has it. Until then it is what `settled` waits for, and `get` does not.

There are two kinds. SQLite checks the time when it applies a write. MongoDB checks it when the command begins; the
command may then wait for as long as it may run, and `settled` does not wait for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import Record
from guidsvc.errors import OutcomeUnknown, StoreUnavailable
from guidsvc.store.cache_fence import NEW, Fence, FenceReading
from guidsvc.store.contract import WOULD_BLOCK, WouldBlock
from guidsvc.store.mongo.deadline import Deadline, StoreClock
from tests.simulation.network import Network
from tests.simulation.world import World

_Done = TypeVar("_Done")
STORE_SECONDS = 2.0
"""The time-out of the driver."""
BEGIN_SHARE, WAIT_SHARE = 0.5, 0.3
"""The share of worlds whose store checks the time when a command begins, and of its writes that wait after it."""


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
        self._aside = Random(f"store {world.seed}")  # so that the rest of a seed is the same with either kind
        self.checks_at_begin = self._aside.random() < BEGIN_SHARE
        self.stall = 0.0
        """At most so many seconds lie between the judgement of a write and when it shows."""

    @property
    def now(self) -> int:
        """The time by its clock, in milliseconds."""
        return int(5_000_000 + self._world.now * 1000 * self._rate)

    async def get(self, guid: str) -> Record | None:
        return self.records.get(guid)

    async def get_linearizable(self, guid: str) -> Record | None:
        while guid in self._half_done:
            await asyncio.shield(self._half_done[guid])
        return self.records.get(guid)

    async def command(self, old: Record | None, new: Record | None, deadline: Deadline | None) -> bool:
        """Swap as MongoDB does: check the time, wait for a lock, or a ticket, and then apply."""
        if deadline is not None and self.now > deadline.begin_ms:
            return False
        if self._aside.random() < WAIT_SHARE:
            run_seconds = STORE_SECONDS if deadline is None else deadline.run_ms / 1000
            await asyncio.sleep(run_seconds * self._aside.random() ** 0.5)
        return await self.swap(old, new, None)

    async def swap(self, old: Record | None, new: Record | None, not_after: int | None) -> bool:
        """Swap as SQLite does: check the time in the transaction that applies it."""
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

    async def read_fence(self) -> FenceReading:
        return FenceReading(self.fence, self.now)

    async def swap_fence(self, old: Fence, new: Fence) -> bool:
        if self.fence != old:
            return False
        self._world.note("fence", new)
        self.cycles += old.mode != new.mode and new.mode == "on"
        self.fence = new
        return True


class StoreOfProcess:
    """The records, and the fence, as one process reaches them; `near` is one whose reads need not be waited for."""

    def __init__(
        self, world: World, store: SimulatedStore, network: Network, *, near: bool, timer: Callable[[], float]
    ) -> None:
        self._world, self._store, self._network = world, store, network
        self._near = near
        self.timer = timer
        self.clock = StoreClock(timer)
        self.fence = FenceOfProcess(self, store)

    async def get(self, guid: str) -> Record | None:
        return await self.far(lambda: self._store.get(guid))

    get_for_update = get

    def get_nowait(self, guid: str) -> Record | WouldBlock | None:
        return self._store.records.get(guid) if self._near else WOULD_BLOCK

    async def get_linearizable(self, guid: str) -> Record | None:
        return await self.far(lambda: self._store.get_linearizable(guid))

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        unknown, late = OutcomeUnknown("no answer"), self._network.straggle()
        if not self._store.checks_at_begin:
            return await self.far(lambda: self._store.swap(old, new, not_after), unknown, late)
        deadline = None if not_after is None else self.clock.deadline(not_after, int(STORE_SECONDS * 1000))
        if deadline is not None and deadline.run_ms == 0:
            return False
        seconds = STORE_SECONDS if deadline is None else deadline.run_ms / 1000
        return await self.far(lambda: self._store.command(old, new, deadline), unknown, late, seconds)

    async def far(
        self,
        work: Callable[[], Awaitable[_Done]],
        late: Exception | None = None,
        straggle: float = 0.0,
        seconds: float = STORE_SECONDS,
    ) -> _Done:
        done: _Done = await self._world.run_far(
            self._network, work, late or StoreUnavailable("no answer"), seconds, straggle
        )
        return done


class FenceOfProcess:
    """The fence as one process reaches it."""

    def __init__(self, process: StoreOfProcess, store: SimulatedStore) -> None:
        self._process, self._store = process, store

    async def read(self) -> FenceReading:
        asked = self._process.timer()
        sight = await self._process.far(self._store.read_fence)
        self._process.clock.set(asked, sight.now)
        return sight

    async def swap(self, old: Fence, new: Fence) -> bool:
        return await self._process.far(lambda: self._store.swap_fence(old, new), OutcomeUnknown("no answer"))
