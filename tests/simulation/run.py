"""One seed: a few processes read and write a few GUIDs under faults; then the history is checked."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

import structlog

from guidsvc.cache.redis import link as redis_link
from guidsvc.cache.redis.cache import RedisCache
from guidsvc.cache.redis.link import RedisLink
from guidsvc.cache.redis.lua_scripts import ADOPT
from guidsvc.cache.timings import CacheTimings
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, OutcomeUnknown
from guidsvc.store.cache_fence import Fence, Mode
from guidsvc.store.contract import Swap
from tests.simulation.faults import inject_faults
from tests.simulation.network import Network
from tests.simulation.redis import Pool, SimulatedRedis
from tests.simulation.store import SimulatedStore, StoreOfProcess
from tests.simulation.world import Actor, Process, Result, World
from tests.support.history import Delete, Operation, Outcome, Read, Write
from tests.support.history_checker import check

PROCESSES, CLIENTS, KEYS = 3, 2, 2
SECONDS = 20.0
"""The virtual time of a run; after it the faults are healed, and work in flight is completed."""
CALM_SECONDS = 3.0
ENTRIES = 600.0, 600.0, 0.15
"""Lifetimes of entries: the usual maximum, or so short that entries expire during their lease."""
MARKERS = 10.0, 2.5
"""Lifetimes of markers: the usual one, or so short that slow writes outlast it."""
FENCES = (2.0, 0.5), (0.8, 0.2)
"""The time for which a fence reading is valid, and the interval between readings."""
READ_BYTES = redis_link.READ_BYTES, 1
"""The size of the values in a reply to READ: the usual one, or so small that each reply has one value."""
CHAIN_SHARE = 0.3
"""The share of updates that another update of the same chain follows."""
EPOCH_MS = 1_700_000_000_000
NEVER = 4_000_000_000
"""The expiry of the records."""

Change = tuple[Record | None, Record | None]
"""The old and the new record of a write."""


@dataclass
class History:
    """The operations as clients observed them."""

    operations: list[Operation] = field(default_factory=list)
    open: dict[int, Operation] = field(default_factory=dict)
    """Writes in flight; their process may die before they return."""
    counts: Counter[str] = field(default_factory=Counter)


class CacheProcess(Process):
    """A process of the service and its clients."""

    def __init__(  # its collaborators
        self,
        world: World,
        redis: SimulatedRedis,
        store: SimulatedStore,
        history: History,
        timing: CacheTimings,
        name: str,
    ) -> None:
        super().__init__(world, name)
        self._history, self._timing = history, timing
        self._write_share = world.random.choice((0.4, 0.2, 0.05, 0.01))
        self.to_redis, self.to_store = Network(world.random), Network(world.random)
        self._redis, self._store = redis, store
        self._near = world.random.random() < 0.5
        self._own_random = Random(f"process {world.seed} {name}")  # its own, so that all other draws stay the same
        self.revive()

    def kill(self) -> None:
        """Kill the process."""
        self.actor.kill()

    async def _live(self, actor: Actor) -> None:
        world, timing = self._world, self._timing
        rate, offset = world.random.uniform(0.996, 1.004), world.random.uniform(0, 1000)

        def timer() -> float:
            return offset + world.now * rate

        pool: Any = Pool(world, self._redis, self.to_redis)
        link = RedisLink(
            pool, name="s", timing=timing, timer=timer, random_name=world.draw, read_bytes=READ_BYTES[world.seed % 2]
        )
        store: Any = StoreOfProcess(world, self._store, self.to_store, near=self._near, timer=timer)
        cache = RedisCache(
            store, store.fence, link, clock=self._clock, size_bytes=1_000_000, timing=timing, timer=timer
        )
        actor.start(link.keep())
        actor.start(cache.monitor.keep())
        for number in range(CLIENTS):
            actor.start(self._client(cache, f"{actor.name}.{number}"))

    def _clock(self) -> int:
        return EPOCH_MS + int(self._world.now * 1000)

    async def _client(self, cache: RedisCache, name: str) -> None:
        random, share = self._world.random, self._write_share
        while self._world.now < SECONDS:
            # Bursts of requests with pauses between: cached records are read again, and time passes.
            for _ in range(random.randrange(1, 12)):
                guid = f"{random.randrange(KEYS):032X}"
                await (self._read(cache, guid, name) if random.random() > share else self._write(cache, guid, name))
                await asyncio.sleep(0.06 * random.random() ** 2)
            await asyncio.sleep(2.0 * random.random() ** 2)

    async def _read(self, cache: RedisCache, guid: str, name: str) -> None:
        start, calls = self._world.now, self._history.counts
        cached = cache.get_nowait(guid)
        record: Record | None
        if self._world.random.random() < 0.1:  # like the read after a failed precondition
            with suppress(GuidsvcError):
                self._record_read(guid, start, name, await cache.get_for_update(guid))
            return
        if isinstance(cached, Record) and cache.monitor.usable is not None:
            record = cached
            calls["l1"] += 1
        else:
            try:
                record = await (self._begun_read(cache, guid) if self._own_random.random() < 0.5 else cache.get(guid))
            except GuidsvcError:
                calls["failed reads"] += 1
                return
        calls["reads"] += 1
        self._record_read(guid, start, name, record)

    async def _begun_read(self, cache: RedisCache, guid: str) -> Record | None:
        """Read as the fast path does: without a task until Redis has replied."""
        begun, replied = cache.begin_get(guid, "caller"), asyncio.Event()
        if begun is None:
            return await cache.get(guid)
        begun.on_reply(replied.set)
        await replied.wait()
        return begun.record or await begun.finish()

    def _record_read(self, guid: str, start: float, name: str, record: Record | None) -> None:
        """Record the result of a read."""
        version, mark = (None, None) if record is None else (record.version, record.user)
        self._world.note(name, "read", guid[-1], version, "since", f"{start:.4f}")
        self._history.operations.append(Read(guid, start, self._world.now, name, version, mark))

    async def _write(self, cache: RedisCache, guid: str, name: str) -> None:
        """Create, update or delete as the service does: read, change and swap; some updates are a chain of swaps."""
        start, history = self._world.now, self._history
        mark = f"{name}-{len(history.operations)}-{start:.4f}"
        try:
            old = await cache.get_for_update(guid)
        except GuidsvcError:
            return
        self._record_read(guid, start, name, old)
        deletes = old is not None and self._world.random.random() < 0.2
        version = max(self._clock(), old.version + 1 if old else 0)
        new = None if deletes else record(guid, mark, version)
        changes: list[Change] = [(old, new)]
        while old is not None and (last := changes[-1][1]) is not None and self._own_random.random() < CHAIN_SHARE:
            changes.append((last, record(guid, f"{mark}-{len(changes)}", last.version + 1)))
        numbers = [len(history.open) + len(history.operations) + place for place in range(len(changes))]
        for number, change in zip(numbers, changes, strict=True):
            history.open[number] = _write_operation((start, inf), name, change, Outcome.UNKNOWN)
        self._world.note(name, "begins", mark, version if new else f"delete {old and old.version}", len(changes))
        outcomes = [_outcome_of(result) for result in await _swap(cache, changes)]
        self._world.note(name, "wrote", mark, *outcomes)
        history.counts["refused"] += outcomes.count(None)
        history.counts["chains"] += len(changes) > 1
        for number, change, outcome in zip(numbers, changes, outcomes, strict=True):
            history.counts[f"writes {outcome or Outcome.NO}"] += 1
            del history.open[number]
            times = (start, self._world.now)
            history.operations.append(_write_operation(times, name, change, outcome or Outcome.NO))


async def _swap(cache: RedisCache, changes: Sequence[Change]) -> Sequence[bool | GuidsvcError]:
    if len(changes) > 1:
        try:
            return await cache.swap_chain([Swap(*change) for change in changes])
        except GuidsvcError as error:
            return [error] * len(changes)
    try:
        return [await cache.swap(*changes[0])]
    except GuidsvcError as error:
        return [error]


def _outcome_of(result: bool | GuidsvcError) -> Outcome | None:  # the result of a swap
    """Return the outcome of a write; None if it was refused."""
    if isinstance(result, GuidsvcError):
        return Outcome.UNKNOWN if isinstance(result, OutcomeUnknown) else None
    return Outcome.OK if result else Outcome.NO


def _write_operation(times: tuple[float, float], name: str, change: Change, outcome: Outcome) -> Operation:
    """Return the write from `old` to `new`, as its client observed it."""
    old, new = change
    if new is not None:
        return Write(new.guid, *times, name, new.user, outcome, new.version if outcome is Outcome.OK else None)
    assert old is not None
    return Delete(old.guid, *times, name, old.version, outcome)


def record(guid: str, mark: str, version: int) -> Record:
    """Return a record with this mark and version."""
    return Record(guid=guid, user=mark, expire=NEVER, version=version, created=1, updated=1, purge_at=NEVER)


def run(seed: int, *, trace: bool = False, faults: Sequence[str] = ()) -> Result:
    """Run a seed to its end, and check the history of its clients; inject only the named faults, if any."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    world = World(seed, trace=trace)
    asyncio.set_event_loop(world)
    history = History()
    try:
        redis, store = SimulatedRedis(world), SimulatedStore(world)
        _fill_cache_and_store(world, redis, store, history)
        timing = _timing(world)
        processes = [CacheProcess(world, redis, store, history, timing, f"p{number}") for number in range(PROCESSES)]
        world.run_until_complete(inject_faults(world, redis, store, processes, until=SECONDS, named=faults))
        world.run_until_complete(asyncio.sleep(CALM_SECONDS))
        final = [_final_read(world, store, f"{number:032X}") for number in range(KEYS)]
        history.counts["cycles"] = store.cycles
        violations = check([*history.operations, *history.open.values()], final)
        return Result(seed, violations, history.counts, world.events)
    finally:
        world.end()
        asyncio.set_event_loop(None)


def _timing(world: World) -> CacheTimings:
    """Return the time limits of a world, which are the same for all its processes."""
    lease, poll = world.random.choice(FENCES)
    entry, marker = world.random.choice(ENTRIES), world.random.choice(MARKERS)
    return CacheTimings(entry=entry, marker=marker, fence_lease=lease, poll=poll)


def _final_read(world: World, store: SimulatedStore, guid: str) -> Read:
    """Return the final state of a GUID."""
    stored = store.records.get(guid)
    version, mark = (None, None) if stored is None else (stored.version, stored.user)
    return Read(guid, world.now, world.now, "store", version, mark)


def _fill_cache_and_store(world: World, redis: SimulatedRedis, store: SimulatedStore, history: History) -> None:
    """Fill the store; in most seeds the cache is enabled at the start."""
    if world.random.random() < 0.8:
        redis.run(("SCRIPT", "LOAD", ADOPT.source))
        epoch = redis.run(("EVALSHA", ADOPT.digest, 1, "gs:s:ctl", redis.run_id, 1, world.draw())).decode()
        store.fence = Fence(Mode.ON, 1, epoch)
    for number in range(KEYS):
        guid = f"{number:032X}"
        store.records[guid] = record(guid, "first", 1)
        history.operations.append(Write(guid, -2.0, -1.0, "before", "first", Outcome.OK, 1))
