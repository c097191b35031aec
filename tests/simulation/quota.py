"""The quota in the simulated world: processes that create, renew and delete the same GUIDs over one simulated store.

The code under test is `guidsvc.services.quota`, `guidsvc.domain.quota_ledger`, `guidsvc.services.guid_service` and
`guidsvc.services.writes.record_writer`, as they are served. A seed decides every delay, loss, pause, death and late
write, how far the clocks of the hosts disagree, and which store there is: one that compares the time under a lock of
writers, as SQLite does, or one that compares it and then waits, as MongoDB does.

The judge looks at the records after every write: there are never more live ones than the quota. Whoever was refused was
refused while so many records were live or reserved.
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
"""Of virtual time: several times as long as a reservation lasts."""
CALM_SECONDS = 60.0
EPOCH_MS = 1_700_000_000_000
DISAGREE_MS = 4_000
"""The error of a host's clock, at most, in some worlds. No record expires there: around an expiry the quota is only as
exact as the clocks."""
LIVES = (0, 1, 3, 20, 31, 35, 45, 100)
"""For how many seconds records live, in the other worlds: shorter than a reservation lasts, and longer."""
WAIT_SECONDS = 0.2
"""How long a place is waited for."""
STORE_SECONDS = 2.0
"""The time limit of the driver; of a command of MongoDB; and of the wait for SQLite's lock."""
TERMS = RetentionPolicy(lifetime=600, retention=600)

_Done = TypeVar("_Done")


@dataclass
class Judge:
    """Notes how many records there are, and what was refused; and says what is wrong with that."""

    world: World
    quota: int
    clocks_agree: bool
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    taken: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])
    """After each write, how many places were taken by what was live or reserved."""

    @property
    def now(self) -> int:
        """The true time, in Unix milliseconds."""
        return EPOCH_MS + int(self.world.now * 1000)

    def look(self, records: dict[str, Record], ledger: QuotaLedger | None) -> None:
        """Look at what the store holds."""
        live = {guid for guid, each in records.items() if lifecycle.is_live(each, self.now)}
        if len(live) > self.quota:
            self.violations.append(f"at {self.world.now:.3f}: {len(live)} live of a quota of {self.quota}")
        entries: dict[str, int] = {} if ledger is None else from_json(ledger.entries)
        held = {name[:GUID_CHARACTERS] for name, until in entries.items() if until > self.now - DISAGREE_MS}
        self.taken.append((self.world.now, len(live | held)))

    def refuse(self, start: float) -> None:
        """Judge a refusal of what was asked for then."""
        self.counts["refused"] += 1
        before = max(place for place, (at, _) in enumerate(self.taken) if at <= start)
        if max(count for _, count in self.taken[before:]) < self.quota:
            self.violations.append(f"at {self.world.now:.3f}: refused, though there was room since {start:.3f}")


class QuotaStore:
    """The records and the ledger. What a method returns is the answer, or the error that is raised where it arrives."""

    def __init__(self, world: World, judge: Judge) -> None:
        self._world, self._judge = world, judge
        self._rate = world.random.uniform(0.996, 1.004)
        self.has_lock = world.random.random() < 0.5
        self.slow_share = world.random.choice((0.0, 0.05, 0.3))
        self._lock = asyncio.Lock()
        # A tombstone stops late writes. The quota must not rely on it, so in half of the worlds there is none.
        self.purges_at_once = Random(f"tombstones {world.seed}").random() > 0.5
        self.records: dict[str, Record] = {}
        self._ledger: QuotaLedger | None = None

    @property
    def now(self) -> int:
        """The time by its clock, in milliseconds."""
        return int(5_000_000 + self._world.now * 1000 * self._rate)

    async def read_fence(self) -> FenceReading:
        return FenceReading(NEW, self.now)

    async def get_for_update(self, guid: str) -> Record | None:
        return self.records.get(guid)

    async def ledger(self, _: str) -> QuotaLedger | None:
        return self._ledger

    async def count_linearizable(self, selection: Selection) -> int | Exception:
        return await self._settled(lambda: sum(map(selection.holds, self.records.values())))

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

    async def _settled(self, work: Callable[[], _Done]) -> _Done | Exception:
        """Read when no write is half done, where there is a lock."""
        if self.has_lock and self._lock.locked():
            try:
                async with asyncio.timeout(STORE_SECONDS), self._lock:
                    pass
            except TimeoutError:
                return StoreUnavailable("locked")
        return work()

    async def _write(self, apply: Callable[[], bool], not_after: int | None) -> bool | Exception:
        """Compare the time, and wait: under the lock for as long as it takes, or else within the time limit."""
        if not self.has_lock:
            if not_after is not None and self.now > not_after - STORE_SECONDS * 1000:
                return False
            await asyncio.sleep(self._wait(STORE_SECONDS))
            return self._applied(apply)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await self._lock.acquire()
        except TimeoutError:
            return StoreUnavailable("locked")
        try:
            if not_after is not None and self.now > not_after:
                return False
            await asyncio.sleep(self._wait(40.0 if self._world.random.random() < 0.05 else 0.5))
            return self._applied(apply)
        finally:
            self._lock.release()

    def _wait(self, most: float) -> float:
        random = self._world.random
        return most * random.random() if random.random() < self.slow_share else 0.001 * random.random()

    def _applied(self, apply: Callable[[], bool]) -> bool:
        done = apply()
        if done:
            self._judge.look(self.records, self._ledger)
        return done


class QuotaStoreOfProcess:
    """The records as one process reaches them; and the ledgers and the fence."""

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
        late = 4 * self._network.straggle()  # up to a minute: longer than any reservation
        return await self.far(lambda: self._store.swap(old, new, not_after), OutcomeUnknown("no answer"), late)

    async def far(
        self, work: Callable[[], Awaitable[_Done | Exception]], late: Exception | None = None, straggle: float = 0.0
    ) -> _Done:
        done: _Done | Exception = await self._world.run_far(
            self._network, work, late or StoreUnavailable("no answer"), STORE_SECONDS, straggle
        )
        if isinstance(done, Exception):
            raise done
        return done


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
    """A process of the service, and its clients."""

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
            store, lease_clock, clock=self._clock, generator=self._draw, policy=TERMS, attempts=20, quota=quota
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
        """Put, create or delete, and note what became of it."""
        random, start = self._world.random, self._world.now
        guid, what = self._draw(0), random.random()
        try:
            if what < 0.25:
                await service.delete(guid)
            elif what < 0.35:
                await service.create(self._change())
            else:
                await service.put(guid, self._change())
            self._judge.counts["done"] += 1
        except QuotaExceeded:
            self._judge.refuse(start)
        except NotFound:
            pass
        except GuidsvcError as error:
            self._judge.counts[type(error).__name__] += 1

    def _change(self) -> PutCommand:
        """Return a change whose record lives for some time, from none to longer than reservations do."""
        random = self._world.random
        seconds = random.choice(LIVES) if self._judge.clocks_agree else 1000
        return PutCommand(user=f"{random.random()}", expire=max(self._clock() // 1000 + seconds, 0))


def _wreak(world: World, store: QuotaStore, processes: list[QuotaProcess]) -> None:
    """Let one thing go wrong, with an end."""
    random, one = world.random, world.random.choice(processes)
    what = random.choice(("pause", "long_pause", "die", "cut", "slow", "stragglers", "slow_store"))
    world.note("fault:", what)
    if what == "pause":
        one.actor.pause(3.0 * random.random())
    elif what == "long_pause":
        one.actor.pause(random.uniform(10, 45))
    elif what == "die" and not one.actor.dead:
        one.actor.kill()
        world.outside(5 * random.random(), one.revive)
    elif what == "cut":
        way = random.choice(("cut_there", "cut_back"))
        setattr(one.to_store, way, True)
        world.outside(8 * random.random(), setattr, one.to_store, way, False)
    elif what == "slow":
        one.to_store.slow = random.choice((0.05, 0.5, 1.9))
        world.outside(10 * random.random(), setattr, one.to_store, "slow", 0.0)
    elif what == "stragglers":
        one.to_store.straggling = 0.4
        world.outside(15 * random.random(), setattr, one.to_store, "straggling", 0.0)
    else:
        store.slow_share = random.choice((0.0, 0.05, 0.3))


async def _all_of_it(world: World, store: QuotaStore, processes: list[QuotaProcess]) -> None:
    while world.now < SECONDS:
        await asyncio.sleep(world.random.choice((0.5, 2.0, 10.0)) * world.random.random())
        _wreak(world, store, processes)
    await asyncio.sleep(CALM_SECONDS)


def run(seed: int, *, trace: bool = False) -> Result:
    """Run a seed to its end, and judge it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    global_random.seed(seed)  # which the service draws its pauses from
    world = World(seed, trace=trace)
    asyncio.set_event_loop(world)
    judge = Judge(world, world.random.choice((1, 2, 3)), world.random.random() < 0.7)
    try:
        store = QuotaStore(world, judge)
        processes = [QuotaProcess(world, store, judge, f"p{number}") for number in range(PROCESSES)]
        world.run_until_complete(_all_of_it(world, store, processes))
        return Result(seed, judge.violations, judge.counts, world.events)
    finally:
        with suppress(RuntimeError):
            world.end()
        asyncio.set_event_loop(None)
