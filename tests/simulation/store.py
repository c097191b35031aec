"""A simulated store, and the view that each process has of it.

Like a real store, it decides a write at one moment, also by its clock, and shows it later, once the
disk or a majority has it. Until then `get_linearizable` waits for the write, and `get` does not.

There are two kinds. SQLite checks the deadline when it applies a write. MongoDB checks it when the
command begins; the command may then wait for its whole time limit, and `get_linearizable` does not
wait for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import Record
from guidsvc.errors import OutcomeUnknown, StoreUnavailable
from guidsvc.store.cache_fence import NEW, Fence, FenceReading
from guidsvc.store.contract import WOULD_BLOCK, WithoutGroups, WouldBlock
from guidsvc.store.mongo.deadline import Deadline, StoreClock
from tests.simulation.network import Network
from tests.simulation.world import World

_Result = TypeVar("_Result")
STORE_SECONDS = 2.0
"""The timeout of the driver."""
BEGIN_SHARE, WAIT_SHARE = 0.5, 0.3
"""The share of worlds whose store checks the deadline when a command begins, and of its writes that then wait."""


class SimulatedStore:
    """The records and the fence."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rate = world.random.uniform(0.996, 1.004)
        self._in_progress: dict[str, asyncio.Future[None]] = {}
        self._highest: dict[str, int] = {}
        self.records: dict[str, Record] = {}
        self.fence = NEW
        self.cycles = 0
        self._own_random = Random(
            f"store {world.seed}"
        )  # a separate source, so that both kinds of store share the rest of the seed
        self.checks_at_begin = self._own_random.random() < BEGIN_SHARE
        self.stall = 0.0
        """The maximum time between the decision on a write and its effect, in seconds."""

    @property
    def now(self) -> int:
        """The time of the store's clock, in milliseconds."""
        return int(5_000_000 + self._world.now * 1000 * self._rate)

    async def get(self, guid: str) -> Record | None:
        return self.records.get(guid)

    async def get_linearizable(self, guid: str) -> Record | None:
        while guid in self._in_progress:
            await asyncio.shield(self._in_progress[guid])
        return self.records.get(guid)

    async def command(self, old: Record | None, new: Record | None, deadline: Deadline | None) -> bool:
        """Swap like MongoDB: check the deadline, wait for a lock or a ticket, and then apply."""
        if deadline is not None and self.now > deadline.begin_ms:
            return False
        if self._own_random.random() < WAIT_SHARE:
            run_seconds = STORE_SECONDS if deadline is None else deadline.run_ms / 1000
            await asyncio.sleep(run_seconds * self._own_random.random() ** 0.5)
        return await self.swap(old, new, None)

    async def swap(self, old: Record | None, new: Record | None, not_after: int | None) -> bool:
        """Swap like SQLite: check the deadline in the transaction that applies the write."""
        guid = (new or old).guid  # type: ignore[union-attr]
        while guid in self._in_progress:
            await asyncio.shield(self._in_progress[guid])
        stored = self.records.get(guid)
        if (stored and stored.version) != (old and old.version):
            return False
        if not_after is not None and self.now > not_after:
            return False
        if new is not None and new.version <= self._highest.get(guid, 0):
            return False  # the service ensures this, except for concurrent creations of several processes
        self._in_progress[guid] = completion = self._world.create_future()
        await asyncio.sleep(self.stall * self._world.random.random())
        if new is None:
            del self.records[guid]
        else:
            self.records[guid] = new
        self._highest[guid] = max(self._highest.get(guid, 0), (new or old).version)  # type: ignore[union-attr]
        del self._in_progress[guid]
        completion.set_result(None)
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


class StoreOfProcess(WithoutGroups):
    """The records and the fence as one process reaches them; with `near` its reads do not block."""

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
        unknown, delay = OutcomeUnknown("no answer"), self._network.straggle()
        if not self._store.checks_at_begin:
            return await self.far(lambda: self._store.swap(old, new, not_after), unknown, delay)
        deadline = None if not_after is None else self.clock.deadline(not_after, int(STORE_SECONDS * 1000))
        if deadline is not None and deadline.run_ms == 0:
            return False
        seconds = STORE_SECONDS if deadline is None else deadline.run_ms / 1000
        return await self.far(lambda: self._store.command(old, new, deadline), unknown, delay, seconds)

    async def far(
        self,
        work: Callable[[], Awaitable[_Result]],
        late: Exception | None = None,
        straggle: float = 0.0,
        seconds: float = STORE_SECONDS,
    ) -> _Result:
        result: _Result = await self._world.run_far(
            self._network, work, late or StoreUnavailable("no answer"), seconds, straggle
        )
        return result


class FenceOfProcess:
    """The fence as one process reaches it."""

    def __init__(self, process: StoreOfProcess, store: SimulatedStore) -> None:
        self._process, self._store = process, store

    async def read(self) -> FenceReading:
        requested_at = self._process.timer()
        reading = await self._process.far(self._store.read_fence)
        self._process.clock.set(requested_at, reading.now)
        return reading

    async def swap(self, old: Fence, new: Fence) -> bool:
        return await self._process.far(lambda: self._store.swap_fence(old, new), OutcomeUnknown("no answer"))
