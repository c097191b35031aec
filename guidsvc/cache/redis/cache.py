"""The Redis cache, shared by processes, with short leases in each process (L1).

    read    L1, if the lease is valid and the fence is ON. Else READ in Redis, which returns a value (kept in L1), or
            a token (read the store, then FILL with the token), or busy (read the store, fill nothing)
    create  goes straight to the store: an absent record is in no cache, so nothing older can be cached
    swap    fence ON or ARM: BEGIN removes the key from Redis and returns how long other processes may still hold it
            in L1; the write waits that long. Fence OFF: the write waits for a fence lease. Either gives the write a
            window in which no cache can be filled with the old value; the store rejects a later write (`not_after`).
            Then the write is acknowledged and END removes its marker

Why no stale value is ever filled in: a FILL needs the token of its reader, and every BEGIN drops the token, so a
reader that read the store before a write cannot fill after it. While a marker is live, READ gives out no token. The
filled value comes from a linearizable read, so no earlier write that met its deadline can take effect later.

If Redis loses its memory, or takes over the memory of another Redis, its epoch (name space) ends, and with it every
entry of that epoch; see `guidsvc.cache.fence_monitor`.
"""

from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import NamedTuple

import structlog

from guidsvc.cache.byte_lru import bounded, put
from guidsvc.cache.fence_monitor import FenceMonitor
from guidsvc.cache.redis.begun_read import BegunRead, is_large
from guidsvc.cache.redis.key_readers import KeyReaders, RegisteredReader
from guidsvc.cache.redis.link import RedisLink, ScriptResult, open_link
from guidsvc.cache.redis.lua_scripts import FILL
from guidsvc.cache.timings import CacheTimings, milliseconds
from guidsvc.cache.write_window import WriteWindows
from guidsvc.domain import lifecycle
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import Record
from guidsvc.errors import CacheUnavailable, GuidsvcError, LeaseExpired, Unavailable
from guidsvc.runtime.background import BackgroundTasks, running_in_background
from guidsvc.runtime.clock import Clock, ContinuousClock, continuous_clock
from guidsvc.runtime.fairness.decoding_turns import DecodingTurns
from guidsvc.store.cache_fence import FenceStore
from guidsvc.store.contract import WOULD_BLOCK, Database, RecordRepository, Swap, WouldBlock
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import earliest
from guidsvc.telemetry.metrics import CacheMetrics
from guidsvc.telemetry.tracing import record_source

GRAIN = 0.002
"""Seconds by which a lease ends early: Redis rounds its start and its end to whole milliseconds."""
DECODED_BYTES = 1024
"""Values up to this size are cached in decoded form, so they need not be parsed again."""
ENTRY_BYTES = 256
"""Estimated memory of an L1 entry, without its record."""
FILL_BYTES = 1024 * 1024
"""Memory of the records that are on their way to Redis. Beyond it, records that are read are not cached."""
TIMING = CacheTimings()

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_redis_cache(
    url: str,
    database: Database,
    *,
    clock: Clock,
    size_bytes: int,
    timing: CacheTimings = TIMING,
    meter: CacheMetrics | None = None,
) -> AsyncIterator["RedisCache"]:
    """Open the cache in the Redis that a URL names, whether or not it answers now, and close it at the end."""
    meter = CacheMetrics() if meter is None else meter
    async with open_link(url, name=await database.store_id(), timing=timing, meter=meter) as link:
        cache = RedisCache(
            database.records,
            database.fence,
            link,
            clock=clock,
            size_bytes=size_bytes,
            timing=timing,
            meter=meter,
        )
        async with running_in_background(cache.monitor.keep):
            try:
                yield cache
            finally:
                await cache.aclose()


class _Entry(NamedTuple):
    """A record in L1, and the end of its lease by the local timer."""

    record: Record
    until: float


class RedisCache(DelegatingRecords):
    """The `records` of a store, cached in a Redis that processes share, and in `size_bytes` of local memory."""

    def __init__(  # noqa: PLR0913  # one argument per collaborator
        self,
        records: RecordRepository,
        fence: FenceStore,
        link: RedisLink,
        *,
        clock: Clock,
        size_bytes: int,
        timing: CacheTimings,
        timer: ContinuousClock = continuous_clock,
        meter: CacheMetrics | None = None,
    ) -> None:
        super().__init__(records)
        self.commits_chains = records.commits_chains
        self._meter = meter = CacheMetrics() if meter is None else meter
        self._link = link
        self._clock = clock
        self._timing = timing
        self._timer = timer
        self._entries = bounded(size_bytes // 2, _weigh_entry)
        self._key_readers: dict[str, KeyReaders] = {}
        self._decodings = bounded(size_bytes // 2, _weigh_decoding)  # never stale: the key is the encoded value
        self._decoding_turns = DecodingTurns()
        self._filling_bytes = 0
        self._background = BackgroundTasks()
        self.monitor = FenceMonitor(fence, link, timing=timing, timer=timer, meter=meter)
        self._windows = WriteWindows(link, self.monitor, timing=timing, timer=timer, spawn=self._run_in_background)

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:
        """Return the record from L1; if no cache is in use, return what the store returns without waiting."""
        entry: _Entry | None = self._entries.get(guid)
        now = self._timer()
        if now < self.monitor.until:
            if entry is not None and now < entry.until:
                self._meter.l1_hits += 1
                return entry.record
            return WOULD_BLOCK
        record = self._records.get_nowait(guid)
        if record is not WOULD_BLOCK:
            self._meter.misses += 1
        return record

    async def get(self, guid: str, /) -> Record | None:
        """Return the record from L1, else from Redis, else from the store."""
        misses = self._meter.misses
        at_hand = self.get_nowait(guid)
        epoch = self.monitor.usable if at_hand is WOULD_BLOCK else None
        if epoch is not None and self._link.up_since is not None:
            return await self._from_redis(guid, epoch)
        if isinstance(at_hand, Record) and lifecycle.is_live(at_hand, self._clock()):
            record_source(self._meter.source(misses))
            return at_hand
        if at_hand is WOULD_BLOCK:
            self._meter.miss()
        else:
            record_source(self._meter.store)  # get_nowait has counted the miss
        return await self._records.get(guid)  # an expired record may since have been purged and created again

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        """Write within a window; Unavailable, and nothing changed, if none can be obtained."""
        if old is None:
            return await self._records.swap(None, new, not_after=not_after, origin=origin)
        with self._excluded_from_l1(old.guid):
            window = await self._windows.open(old.guid)
            try:
                until = earliest(window.not_after, not_after)
                swapped = await self._records.swap(old, new, not_after=until, origin=origin)
            except Unavailable:
                self._windows.close(window)
                raise
            # If the outcome is unknown, the marker stays: the write may still take effect while the marker lives.
        self._windows.close(window)
        if not swapped and self._timer() >= window.until:
            raise LeaseExpired("the store did not finish before the deadline of the write")
        return swapped

    async def swap_chain(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        """Write within one window, each swap as `swap` does."""
        guid = swaps[0].guid
        with self._excluded_from_l1(guid):
            window = await self._windows.open(guid)
            bounded_swaps = [each._replace(not_after=earliest(window.not_after, each.not_after)) for each in swaps]
            results = await self._records.swap_chain(bounded_swaps)
        if not any(isinstance(result, Exception) and not isinstance(result, Unavailable) for result in results):
            self._windows.close(window)
        if self._timer() < window.until:
            return results
        late = LeaseExpired("the store did not finish before the deadline of the write")
        return [result or late for result in results]

    async def check(self) -> None:
        await self._link.check()

    async def aclose(self) -> None:
        """Finish the background work; work that needs an unavailable Redis fails by itself."""
        await self._background.drain()

    def begin_get(self, guid: str, caller: str, /) -> BegunRead | None:
        """Begin to read from Redis, without a task; None if `get` would not ask Redis."""
        epoch = self.monitor.usable
        reply = None if epoch is None else self._link.begin_read(guid, epoch, caller)
        if epoch is None or reply is None:
            return None
        registration = RegisteredReader(self._key_readers, guid)
        uncached, again = partial(self._uncached, guid, epoch), partial(self._from_redis, guid, epoch)
        return BegunRead(reply, registration, partial(self._cached, guid), uncached, again, self._meter.redis_latency)

    async def _from_redis(self, guid: str, epoch: str) -> Record | None:
        reply: ScriptResult | None = None
        with RegisteredReader(self._key_readers, guid) as readers:
            with suppress(CacheUnavailable):
                reply = await self._link.read(guid, epoch)
            if is_large(reply):
                await self._decoding_turns.take_own_turn()
            record = self._cached(guid, reply, readers)
        return await self._uncached(guid, epoch, reply) if record is None else record

    def _cached(self, guid: str, reply: ScriptResult | None, readers: KeyReaders) -> Record | None:
        """Return the live record that a reply holds, if any, and store it in L1 if it is leased."""
        if reply is None or reply.value is None or reply.value[:1] not in {b"R", b"r"}:
            return None
        record = self._decode(guid, reply.value[1:])
        if record is None or not lifecycle.is_live(record, self._clock()):
            return None
        if reply.value[:1] == b"R":
            self._store_in_l1(record, reply.sent_at, readers)
        self._meter.redis()
        return record

    async def _uncached(self, guid: str, epoch: str, reply: ScriptResult | None) -> Record | None:
        """Return the record from the store, and fill Redis if the reply allows it."""
        if reply is None:
            self._meter.unavailable()
            return await self._records.get(guid)
        value, _, token = reply
        self._meter.miss()
        if value != b"T":
            return await self._records.get(guid)
        at_hand = self._records.get_nowait(guid)
        record = await self._records.get_linearizable(guid) if at_hand is WOULD_BLOCK else at_hand
        if record is not None and lifecycle.is_live(record, self._clock()):
            self._begin_fill(record, token, epoch, is_linearizable=at_hand is WOULD_BLOCK)
        return record

    def _begin_fill(self, read: Record, token: str, epoch: str, *, is_linearizable: bool) -> None:
        """Fill Redis in the background, unless many bytes are already on their way: a fill may be left out."""
        if self._filling_bytes + read.memory_bytes <= FILL_BYTES:
            self._filling_bytes += read.memory_bytes
            self._run_in_background(self._fill(read, token, epoch, is_linearizable=is_linearizable))

    async def _fill(self, read: Record, token: str, epoch: str, *, is_linearizable: bool) -> None:
        """Fill Redis with the record that was read, or with a linearizable read of its GUID if that read was not."""
        try:
            await self._fill_from(read if is_linearizable else None, read.guid, token, epoch)
        finally:
            self._filling_bytes -= read.memory_bytes

    async def _fill_from(self, known: Record | None, guid: str, token: str, epoch: str) -> None:
        record = known or await self._records.get_linearizable(guid)
        life = 0 if record is None else min(record.expire * 1000 - self._clock(), milliseconds(self._timing.entry))
        if record is None or life <= 0:
            return
        with RegisteredReader(self._key_readers, guid) as readers:
            fill = (token, record.model_dump_json(), life, self._link.me, milliseconds(self._timing.lease))
            value, sent_at, _ = await self._link.call(FILL, guid, *fill, epoch=epoch)
            if value == 1:
                self._store_in_l1(record, sent_at, readers)

    def _store_in_l1(self, record: Record, sent_at: float, readers: KeyReaders) -> None:
        """Store a record in L1 for the lease noted in Redis, unless the key is being written in this process.

        The lease ends long before the fence can be ON in another epoch.
        """
        if self._entries.maxsize == 1:  # no L1, as with a cache size of 0
            return
        if not readers.is_invalidated:
            live = self._timer() + (record.expire * 1000 - self._clock()) / 1000
            until = min(live, sent_at + self._timing.holder_seconds(self._timing.lease) - GRAIN)
            put(self._entries, record.guid, _Entry(record, until))

    def _decode(self, guid: str, value: bytes) -> Record | None:
        """Decode a value; if it is not a record of this GUID, remove the key from Redis and return None."""
        record: Record | None = self._decodings.get(value)
        try:
            if record is None:
                record = Record.model_validate_json(value)
                if len(value) <= DECODED_BYTES:
                    put(self._decodings, value, record)
            if record.guid != guid:
                raise ValueError(f"it belongs to GUID {record.guid}")
        except ValueError as error:  # includes pydantic's ValidationError
            _log.error("corrupt cache entry removed", guid=guid, error=str(error))
            self._run_in_background(self._windows.invalidate(guid))
            return None
        return record

    @contextmanager
    def _excluded_from_l1(self, guid: str) -> Iterator[None]:
        """Keep a key out of L1 for the block, because BEGIN does not wait for leases of this process."""
        self._entries.pop(guid, None)
        with RegisteredReader(self._key_readers, guid) as readers:
            readers.is_invalidated = True  # for current readers too
            yield

    def _run_in_background(self, work: Coroutine[None, None, None]) -> None:
        """Run work in the background; failures of Redis and the store are reported elsewhere."""
        self._background.spawn(_quietly(work))


def _weigh_entry(_guid: str, entry: _Entry) -> int:
    return ENTRY_BYTES + entry.record.memory_bytes


def _weigh_decoding(value: bytes, record: Record) -> int:
    return len(value) + record.memory_bytes


async def _quietly(work: Coroutine[None, None, None]) -> None:
    with suppress(GuidsvcError):
        await work
