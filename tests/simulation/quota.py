"""The quota in the simulated world: processes create, renew and delete the same GUIDs over one simulated store.

The code under test is `guidsvc.services.quota`, `guidsvc.domain.quota_ledger`,
`guidsvc.services.guid_service` and `guidsvc.services.writes.record_writer`, as served. A seed
decides every delay, loss, pause, death and late write, the clock errors of the hosts, and the kind
of store: one that checks the deadline under a write lock, like SQLite, or one that checks it and
then waits, like MongoDB.

The judge inspects the records after every write: live records never exceed the quota. A creation
may be rejected only if that many records were live or reserved since its start.
"""

import asyncio
import logging
import random as global_random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import structlog
from pydantic_core import from_json

from guidsvc.domain import lifecycle
from guidsvc.domain.commands import PutCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.record import GUID_CHARACTERS, Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import GuidsvcError, NotFound, OutcomeUnknown, QuotaExceeded, StoreUnavailable
from guidsvc.services.guid_service import GuidService
from guidsvc.services.quota import LedgerQuota
from guidsvc.store.cache_fence import NEW, FenceReading
from guidsvc.store.contract import WOULD_BLOCK, WouldBlock
from guidsvc.store.lease import LeaseClock
from tests.simulation.network import Network
from tests.simulation.world import Actor, Process, Result, World

PROCESSES, CLIENTS, KEYS = 3, 2, 6
SECONDS = 120.0
"""The virtual time of a run: several times as long as a reservation lasts."""
CALM_SECONDS = 60.0
EPOCH_MS = 1_700_000_000_000
DISAGREE_MS = 4_000
"""The maximum error of a host's clock, in some worlds. No record expires in those, since around an expiry the quota is
only as exact as the clocks."""
LIVES = (0, 1, 3, 20, 31, 35, 45, 100)
"""Lifetimes of records in the other worlds, in seconds: some shorter and some longer than a reservation."""
WAIT_SECONDS = 0.2
"""The time limit of the wait for a place."""
STORE_SECONDS = 2.0
"""The time limit of the driver, of a MongoDB command, and of the wait for SQLite's lock."""
POLICY = RetentionPolicy(lifetime=600, retention=600)

_Result = TypeVar("_Result")


@dataclass
class Judge:
    """Records the live records and the rejections, and finds the violations."""

    world: World
    quota: int
    clocks_agree: bool
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    places: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])
    """The number of places held by live records and reservations, after each write."""

    @property
    def now(self) -> int:
        """The true time, in Unix milliseconds."""
        return EPOCH_MS + int(self.world.now * 1000)

    def inspect(self, records: dict[str, Record], ledger: QuotaLedger | None) -> None:
        """Check the content of the store."""
        live = {guid for guid, stored in records.items() if lifecycle.is_live(stored, self.now)}
        if len(live) > self.quota:
            self.violations.append(f"at {self.world.now:.3f}: {len(live)} live of a quota of {self.quota}")
        entries: dict[str, int] = {} if ledger is None else from_json(ledger.entries)
        reserved = {name[:GUID_CHARACTERS] for name, until in entries.items() if until > self.now - DISAGREE_MS}
        self.places.append((self.world.now, len(live | reserved)))

    def judge_rejection(self, start: float) -> None:
        """Check the rejection of a request that was sent at this time."""
        self.counts["refused"] += 1
        last_index = max(index for index, (at, _) in enumerate(self.places) if at <= start)
        if max(count for _, count in self.places[last_index:]) < self.quota:
            self.violations.append(f"at {self.world.now:.3f}: rejected, though there was room since {start:.3f}")


class QuotaStore:
    """The records and the ledger. Methods return their reply, or an error for the process to raise."""

    def __init__(self, world: World, judge: Judge) -> None:
        self._world, self._judge = world, judge
        self._rate = world.random.uniform(0.996, 1.004)
        self.has_lock = world.random.random() < 0.5
        self.slow_share = world.random.choice((0.0, 0.05, 0.3))
        self._lock = asyncio.Lock()
        # Tombstones stop late writes. The quota must not rely on that, so half of the worlds have none.
        self.purges_at_once = Random(f"tombstones {world.seed}").random() > 0.5
        self.records: dict[str, Record] = {}
        self._ledger: QuotaLedger | None = None

    @property
    def now(self) -> int:
        """The time of the store's clock, in milliseconds."""
        return int(5_000_000 + self._world.now * 1000 * self._rate)

    async def read_fence(self) -> FenceReading:
        return FenceReading(NEW, self.now)

    async def get_for_update(self, guid: str) -> Record | None:
        return self.records.get(guid)

    async def ledger(self, _: str) -> QuotaLedger | None:
        return self._ledger

    async def count_linearizable(self, selection: Selection) -> int | Exception:
        return await self._read_settled(lambda: sum(map(selection.holds, self.records.values())))

    async def swap(self, old: Record | None, new: Record | None, not_after: int | None) -> bool | Exception:
        guid = (new or old).guid  # type: ignore[union-attr]  # the contract: one of them is a record

        def apply() -> bool:
            stored = self.records.get(guid)
            if (stored and stored.version) != (old and old.version):
                return False
            self.records.pop(guid, None)
            if new is not None and not (new.is_deleted and self.purges_at_once):
                self.records[guid] = new
            return True

        return await self._write(apply, not_after)

    async def swap_ledger(self, old: QuotaLedger | None, new: QuotaLedger) -> bool | Exception:
        def apply() -> bool:
            if (self._ledger and self._ledger.version) != (old and old.version):
                return False
            self._ledger = new
            return True

        return await self._write(apply, None)

    async def _read_settled(self, work: Callable[[], _Result]) -> _Result | Exception:
        """Read while no write is in progress, if the store has a lock."""
        if self.has_lock and self._lock.locked():
            try:
                async with asyncio.timeout(STORE_SECONDS), self._lock:
                    pass
            except TimeoutError:
                return StoreUnavailable("locked")
        return work()

    async def _write(self, apply: Callable[[], bool], not_after: int | None) -> bool | Exception:
        """Check the deadline, then wait: under the lock for any time, or without a lock within the time limit."""
        if not self.has_lock:
            if not_after is not None and self.now > not_after - STORE_SECONDS * 1000:
                return False
            await asyncio.sleep(self._wait(STORE_SECONDS))
            return self._apply_and_inspect(apply)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await self._lock.acquire()
        except TimeoutError:
            return StoreUnavailable("locked")
        try:
            if not_after is not None and self.now > not_after:
                return False
            await asyncio.sleep(self._wait(40.0 if self._world.random.random() < 0.05 else 0.5))
            return self._apply_and_inspect(apply)
        finally:
            self._lock.release()

    def _wait(self, max_seconds: float) -> float:
        random = self._world.random
        return max_seconds * random.random() if random.random() < self.slow_share else 0.001 * random.random()

    def _apply_and_inspect(self, apply: Callable[[], bool]) -> bool:
        is_applied = apply()
        if is_applied:
            self._judge.inspect(self.records, self._ledger)
        return is_applied


class QuotaStoreOfProcess:
    """The records, ledgers and fence as one process reaches them."""

    def __init__(self, world: World, store: QuotaStore, network: Network) -> None:
        self._world, self._store, self._network = world, store, network
        self.records = self
        self.ledgers, self.fence = LedgersOfProcess(self, store), FenceOfProcess(self, store)

    async def get_for_update(self, guid: str) -> Record | None:
        return await self.far(lambda: self._store.get_for_update(guid))

    get = get_for_update

    def get_nowait(self, guid: str) -> Record | WouldBlock | None:
        return WOULD_BLOCK

    async def count_linearizable(self, selection: Selection) -> int:
        return await self.far(lambda: self._store.count_linearizable(selection))

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        delay = 4 * self._network.straggle()  # up to a minute: longer than any reservation
        return await self.far(lambda: self._store.swap(old, new, not_after), OutcomeUnknown("no answer"), delay)

    async def far(
        self, work: Callable[[], Awaitable[_Result | Exception]], late: Exception | None = None, straggle: float = 0.0
    ) -> _Result:
        reply: _Result | Exception = await self._world.run_far(
            self._network, work, late or StoreUnavailable("no answer"), STORE_SECONDS, straggle
        )
        if isinstance(reply, Exception):
            raise reply
        return reply


class LedgersOfProcess:
    """The ledgers as one process reaches them."""

    def __init__(self, process: QuotaStoreOfProcess, store: QuotaStore) -> None:
        self._process, self._store = process, store

    async def get(self, owner: str, /) -> QuotaLedger | None:
        return await self._process.far(lambda: self._store.ledger(owner))

    async def swap(self, old: QuotaLedger | None, new: QuotaLedger) -> bool:
        return await self._process.far(lambda: self._store.swap_ledger(old, new), OutcomeUnknown("no answer"))


class FenceOfProcess:
    """The clock of the store as one process reaches it."""

    def __init__(self, process: QuotaStoreOfProcess, store: QuotaStore) -> None:
        self._process, self._store = process, store

    async def read(self) -> FenceReading:
        return await self._process.far(self._store.read_fence)


class QuotaProcess(Process):
    """A process of the service and its clients."""

    def __init__(self, world: World, store: QuotaStore, judge: Judge, name: str) -> None:
        super().__init__(world, name)
        self._store, self._judge = store, judge
        self.to_store = Network(world.random)
        self._wrong_ms = 0 if judge.clocks_agree else world.random.randint(-DISAGREE_MS, DISAGREE_MS)
        self.revive()

    async def _live(self, actor: Actor) -> None:
        world = self._world
        rate, offset = world.random.uniform(0.996, 1.004), world.random.uniform(0, 1000)
        store: Any = QuotaStoreOfProcess(world, self._store, self.to_store)
        lease_clock = LeaseClock(store.fence, timer=lambda: offset + world.now * rate)
        quota = LedgerQuota(
            store,
            lease_clock=lease_clock,
            clock=self._clock,
            quota=self._judge.quota,
            wait_seconds=WAIT_SECONDS,
        )
        service = GuidService(
            store, lease_clock, clock=self._clock, generator=self._draw, policy=POLICY, attempts=20, quota=quota
        )
        for _ in range(CLIENTS):
            actor.start(self._client(service))

    def _clock(self) -> int:
        return self._judge.now + self._wrong_ms

    def _draw(self, _: int) -> str:
        return f"{self._world.random.randrange(KEYS):032X}"

    async def _client(self, service: GuidService) -> None:
        random = self._world.random
        while self._world.now < SECONDS:
            await asyncio.gather(*(self._ask(service) for _ in range(random.choice((1, 1, 2, 4)))))
            await asyncio.sleep(random.choice((0.0, 0.02, 3.0, 10.0)) * random.random())

    async def _ask(self, service: GuidService) -> None:
        """Put, create or delete, and count the result."""
        random, start = self._world.random, self._world.now
        guid, action = self._draw(0), random.random()
        try:
            if action < 0.25:
                await service.delete(guid)
            elif action < 0.35:
                await service.create(self._change())
            else:
                await service.put(guid, self._change())
            self._judge.counts["done"] += 1
        except QuotaExceeded:
            self._judge.judge_rejection(start)
        except NotFound:
            pass
        except GuidsvcError as error:
            self._judge.counts[type(error).__name__] += 1

    def _change(self) -> PutCommand:
        """Return a command with a lifetime from zero to longer than a reservation."""
        random = self._world.random
        seconds = random.choice(LIVES) if self._judge.clocks_agree else 1000
        return PutCommand(user=f"{random.random()}", expire=max(self._clock() // 1000 + seconds, 0))


def _inject_fault(world: World, store: QuotaStore, processes: list[QuotaProcess]) -> None:
    """Inject one fault, and schedule its end."""
    random, process = world.random, world.random.choice(processes)
    fault = random.choice(("pause", "long_pause", "die", "cut", "slow", "stragglers", "slow_store"))
    world.note("fault:", fault)
    if fault == "pause":
        process.actor.pause(3.0 * random.random())
    elif fault == "long_pause":
        process.actor.pause(random.uniform(10, 45))
    elif fault == "die" and not process.actor.dead:
        process.actor.kill()
        world.outside(5 * random.random(), process.revive)
    elif fault == "cut":
        direction = random.choice(("cut_there", "cut_back"))
        setattr(process.to_store, direction, True)
        world.outside(8 * random.random(), setattr, process.to_store, direction, False)
    elif fault == "slow":
        process.to_store.slow = random.choice((0.05, 0.5, 1.9))
        world.outside(10 * random.random(), setattr, process.to_store, "slow", 0.0)
    elif fault == "stragglers":
        process.to_store.straggling = 0.4
        world.outside(15 * random.random(), setattr, process.to_store, "straggling", 0.0)
    else:
        store.slow_share = random.choice((0.0, 0.05, 0.3))


async def _run_processes(world: World, store: QuotaStore, processes: list[QuotaProcess]) -> None:
    while world.now < SECONDS:
        await asyncio.sleep(world.random.choice((0.5, 2.0, 10.0)) * world.random.random())
        _inject_fault(world, store, processes)
    await asyncio.sleep(CALM_SECONDS)


def run(seed: int, *, trace: bool = False) -> Result:
    """Run a seed to its end, and judge it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    global_random.seed(seed)  # the service draws its pauses from it
    world = World(seed, trace=trace)
    asyncio.set_event_loop(world)
    judge = Judge(world, world.random.choice((1, 2, 3)), world.random.random() < 0.7)
    try:
        store = QuotaStore(world, judge)
        processes = [QuotaProcess(world, store, judge, f"p{number}") for number in range(PROCESSES)]
        world.run_until_complete(_run_processes(world, store, processes))
        return Result(seed, judge.violations, judge.counts, world.events)
    finally:
        with suppress(RuntimeError):
            world.end()
        asyncio.set_event_loop(None)
