"""The simulated processes and their faults."""

import asyncio
import logging
import random as global_random
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from pymongo import IndexModel

from guidsvc.domain import lifecycle
from guidsvc.domain.events.entry import NO_ORIGIN
from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.record import DELETED_EXPIRE, Record
from guidsvc.errors import EventsTrimmed, GuidsvcError
from guidsvc.store.mongo.documents import model_of, same_as
from guidsvc.store.mongo.events import outbox, retention, sequencer
from guidsvc.store.mongo.events.archive.collection import Archive
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.reading import Reading
from guidsvc.store.mongo.events.retention import Retention, bounds_document
from guidsvc.store.mongo.events.sequencer import BOUNDS_ID, LOG_INDEXES, Sequencer
from guidsvc.store.mongo.events.steps import Steps
from guidsvc.store.mongo.failures import read_failures, write_failures
from guidsvc.telemetry.metrics import StoreMetrics
from tests.simulation.events.collection import SimulatedCollection
from tests.simulation.events.judge import Judge
from tests.simulation.events.server import EPOCH_MS, Shard
from tests.simulation.network import Network
from tests.simulation.world import Actor, Process, Result, World

PROCESSES, WRITERS, KEYS = 3, 2, 5
SECONDS, CALM_SECONDS = 40.0, 45.0
"""Virtual time with faults, and without."""
SKEW_MS = 300
"""Maximum error of a host's clock."""
BATCH = 4
"""Size of a batch: so small that the log grows by several batches in a run."""
KEPT_SECONDS = 0.0, 1.0, 6.0
"""Retention of entries. A world chooses one of them."""
PAUSES = (0.01, 0.3, 2.0), (1.0, 6.0)
"""Maximum pause of a writer. A world chooses one of them. The newest entry stays the same while nobody writes."""
SIZE_BYTES = 4000
"""Maximum size of the log in one world of six. In the others, the log never reaches its size."""
OWNERS = 3
_METADATA = '{"a":"' + "x" * 600 + '"}'
"""Metadata of the first owner, which makes its share the largest if the log has a maximum size."""
POLICY = EventPolicy("all", (2,))
FAULTS = ("pause", "long_pause", "die", "cut", "slow", "stragglers", "fail_over", "fail_over", "no_majority")
"""All faults. Fail-overs are twice as frequent as each other fault."""
_NO_INDEX: list[IndexModel] = []
_Done = TypeVar("_Done")


class SimulatedOperations(Operations):
    """Operations without threads. The network limits their time."""

    def __init__(self) -> None:
        pass

    async def read(self, work: Callable[[], Awaitable[_Done]]) -> _Done:
        with read_failures():
            return await work()

    async def scan(self, work: Callable[[], Awaitable[_Done]], group: Hashable = None) -> _Done:
        return await self.read(work)

    async def write(self, work: Callable[[], Awaitable[_Done]]) -> _Done:
        with write_failures():
            return await work()


async def _no_gap() -> None:
    """Do nothing, because the log is on."""


class Database:
    """The two shards: one for the records, one for the log."""

    def __init__(self, world: World, judge: Judge, *, has_room: bool) -> None:
        self.records = Shard(world, {"records": _NO_INDEX}, judge.note)
        self.log = Shard(world, {"log": LOG_INDEXES, "log_bounds": _NO_INDEX, "log_archive": _NO_INDEX}, judge.note)
        self.kept_seconds = world.random.choice(KEPT_SECONDS)
        judge.kept_ms = int(1000 * self.kept_seconds)
        self.has_room = has_room
        judge.has_room = has_room
        self.pauses = world.random.choice(PAUSES)
        self.log.insert("log_bounds", {"_id": BOUNDS_ID, **bounds_document()})


class EventProcess(Process):
    """A process of the service: it writes, appends, executes due steps, trims the log, and follows it."""

    def __init__(self, world: World, database: Database, judge: Judge, name: str) -> None:
        super().__init__(world, name)
        self._database, self._judge = database, judge
        self.networks = Network(world.random), Network(world.random)
        self._skew_ms = world.random.randint(-SKEW_MS, SKEW_MS)
        self.revive()

    async def _live(self, actor: Actor) -> None:
        to_records, to_log = self.networks
        records: Any = SimulatedCollection(self._world, self._database.records, "records", to_records)
        log: Any = SimulatedCollection(self._world, self._database.log, "log", to_log)
        bounds: Any = SimulatedCollection(self._world, self._database.log, "log_bounds", to_log)
        operations = SimulatedOperations()
        archived: Any = SimulatedCollection(self._world, self._database.log, "log_archive", to_log)
        archive = Archive(archived, operations)
        self._records = records
        self._sequencer = Sequencer(records, log, bounds, operations, Counter())
        self._retention = Retention(records, log, bounds, operations, self._sequencer, archive)
        self._reading = Reading(log, operations, self._sequencer, self._retention, archive)
        self._steps = Steps(records, bounds, operations, POLICY, StoreMetrics(), _no_gap)
        for _ in range(WRITERS):
            actor.start(self._repeat(self._write, self._database.pauses, until=SECONDS))
        actor.start(self._repeat(self._sequencer.run_round, (0.02, 0.2, 1.0)))
        actor.start(self._repeat(self._advance, (0.3, 1.0)))
        actor.start(self._repeat(self._trim, (0.5, 2.0)))
        if self._database.has_room:
            actor.start(self._follow())
        else:
            for number in range(OWNERS):
                actor.start(self._follow_owner(f"owner {number}"))

    async def _repeat(
        self, work: Callable[[], Awaitable[object]], pauses: tuple[float, ...], until: float = 10**9
    ) -> None:
        random = self._world.random
        while self._world.now < until:
            with suppress(GuidsvcError):
                await work()
            await asyncio.sleep(0.001 + random.choice(pauses) * random.random())

    async def _advance(self) -> None:
        await self._steps.advance(self._database.records.now_ms, 10)

    async def _trim(self) -> None:
        kept_seconds = self._database.kept_seconds if self._database.has_room else 10**6
        size_bytes = 10**9 if self._database.has_room else SIZE_BYTES
        before = EPOCH_MS + int(1000 * (self._world.now - kept_seconds))
        self._judge.counts["cut off"] += await self._retention.trim(before, size_bytes, 7)

    async def _follow(self) -> None:
        after = 0
        while True:
            await asyncio.sleep(self._world.random.random())
            try:
                page = await self._reading.page(after, 10, EventSelection(), None)
            except EventsTrimmed:
                with suppress(GuidsvcError):
                    after = (await self._retention.floor()).number
            except GuidsvcError:
                pass
            else:
                self._judge.read(after, list(page.entries))
                after = page.looked_to

    async def _follow_owner(self, owner: str) -> None:
        after = 0
        while True:
            await asyncio.sleep(self._world.random.random())
            try:
                page = await self._reading.page(after, 4, EventSelection(owner=owner), None)
            except EventsTrimmed:
                with suppress(GuidsvcError):
                    after = (await self._retention.floor_of(owner)).number
                self._judge.counts["gone"] += 1
            except GuidsvcError:
                pass
            else:
                self._judge.read_of(owner, after, page)
                after = 0 if self._world.random.random() < 0.1 else page.looked_to

    async def _write(self) -> None:
        """Write a record: from any state to any other."""
        guid = f"{self._world.random.randrange(KEYS):032X}"
        if self._world.random.random() < 0.05:  # as if its outbox were full
            await self._sequencer.run_round(guid)
        with write_failures():
            document = await self._records.find_one({"_id": guid})
            old = None if document is None else model_of(Record, document)
            now = EPOCH_MS + int(1000 * self._world.now) + self._skew_ms
            if old is None:
                await self._records.insert_many([outbox.created(self._new(guid, old, now), POLICY, NO_ORIGIN)])
            elif not (old.is_deleted and self._world.random.random() < 0.7):
                update = outbox.swapped(old, self._new(guid, old, now), POLICY, NO_ORIGIN)
                await self._records.update_one({**same_as(old), **outbox.HAS_ROOM}, update)

    def _new(self, guid: str, old: Record | None, now: int) -> Record:
        random, seconds = self._world.random, now // 1000
        absent = old is None or lifecycle.is_absent(old, now)
        is_deleted = not absent and random.random() < 0.2
        expire = seconds + random.choice((-1, 1, 2, 5, 8))
        return Record(
            guid=guid,
            user=f"user {random.randrange(3)}",
            expire=DELETED_EXPIRE if is_deleted else expire,
            version=now if old is None else max(old.version + 1, now),
            created=now if old is None or absent else old.created,
            updated=now,
            purge_at=max(seconds, expire) + random.choice((1, 4)),
            **({} if self._database.has_room else _owned(guid)),
        )


def _owned(guid: str) -> dict[str, str]:
    """Return the owner of a GUID, and the metadata that this owner writes."""
    owner = int(guid, 16) % OWNERS
    return {"owner": f"owner {owner}"} | ({} if owner else {"metadata": _METADATA})


def _inject_fault(world: World, database: Database, processes: list[EventProcess], faults: Sequence[str]) -> None:
    """Inject one of these faults, and end it."""
    random, one = world.random, world.random.choice(processes)
    network, shard = random.choice(one.networks), random.choice((database.records, database.log))
    what = random.choice(faults)
    world.note("fault:", what)
    if what == "pause":
        one.actor.pause(3.0 * random.random())
    elif what == "long_pause":
        one.actor.pause(random.uniform(8, 15))
    elif what == "die" and not one.actor.dead:
        one.actor.kill()
        world.outside(5 * random.random(), one.revive)
    elif what == "cut":
        direction = random.choice(("cut_there", "cut_back"))
        setattr(network, direction, True)
        world.outside(5 * random.random(), setattr, network, direction, False)
    elif what == "slow":
        network.slow = random.choice((0.05, 0.5, 1.9))
        world.outside(10 * random.random(), setattr, network, "slow", 0.0)
    elif what == "stragglers":
        network.straggling = 0.4
        world.outside(15 * random.random(), setattr, network, "straggling", 0.0)
    elif what == "fail_over":
        shard.fail_over()
    elif what == "no_majority":
        shard.commit_seconds = random.choice((0.1, 1.0, 3.0))
        world.outside(6 * random.random(), setattr, shard, "commit_seconds", 0.002)
        world.outside(3 * random.random(), shard.fail_over)


async def _inject_faults(
    world: World, database: Database, processes: list[EventProcess], faults: Sequence[str]
) -> None:
    while world.now < SECONDS:
        await asyncio.sleep(world.random.choice((0.2, 1.0, 5.0)) * world.random.random())
        _inject_fault(world, database, processes, faults)
    await asyncio.sleep(CALM_SECONDS)


def run(seed: int, *, trace: bool = False, faults: Sequence[str] = ()) -> Result:
    """Run a seed to its end, with these faults only if any are given, and check the result."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    global_random.seed(seed)
    sequencer.BATCH = retention.BATCH = BATCH  # type: ignore[attr-defined]
    world = World(seed, trace=trace)
    asyncio.set_event_loop(world)
    judge = Judge(world)
    try:
        database = Database(world, judge, has_room=seed % 6 != 1)
        processes = [EventProcess(world, database, judge, f"p{number}") for number in range(PROCESSES)]
        world.run_until_complete(_inject_faults(world, database, processes, faults or FAULTS))
        judge.finish()
        return Result(seed, judge.violations, judge.counts, world.events)
    finally:
        with suppress(RuntimeError):
            world.end()
        asyncio.set_event_loop(None)
