"""The cache of many processes: in Redis, and under leases in each of them.

    read    what this process holds under a lease, while the fence says that it may; else READ: a value, which is then
            held; or a token, with which what the store says is filled in; or busy, and the store is asked
    create  goes to the store: what is not there is in no cache, and nothing older can be
    swap    fence ON or ARM: BEGIN takes the key out of Redis, and says how long another may hold it, which is waited
            for. Fence OFF: a fence lease is waited for. Either gives the write a window in which no cache can be filled
            with what was before, and the store does not do it later than that. Then it is acknowledged; END

Why nothing stale is ever filled in: a fill needs the token of its reader, and every BEGIN drops it, so a reader that
asked the store before a write cannot fill after it; while the marker stands no token is given; and what is filled in is
what the store has settled, so no write that was in time can show later. When Redis loses its memory, or takes over
another, the boot (its name space) is over, and with it everything that was kept under it.
`guidsvc.cache.fence_monitor` tells what happens then.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from math import floor
from typing import NamedTuple

import structlog

from guidsvc.cache.byte_lru import bounded, put
from guidsvc.cache.fence_monitor import FenceMonitor, FenceView
from guidsvc.cache.lua_scripts import BEGIN, END, FILL
from guidsvc.cache.redis_link import RedisLink, open_link
from guidsvc.cache.timings import CacheTimings, MonotonicClock, milliseconds
from guidsvc.domain import lifecycle as rules
from guidsvc.domain.record import Record
from guidsvc.errors import CacheUnavailable, GuidsvcError, StoreUnavailable
from guidsvc.runtime.background import BackgroundTasks, running_in_background
from guidsvc.runtime.clock import Clock
from guidsvc.store.cache_fence import Mode
from guidsvc.store.contract import WOULD_BLOCK, Backend, WouldBlock
from guidsvc.store.delegating import DelegatingStore
from guidsvc.store.lease import earliest
from guidsvc.telemetry.metrics import CacheMetrics
from guidsvc.telemetry.tracing import MISS, record_source

GRAIN = 0.002
"""Seconds by which a lease ends before its note in Redis, which counts whole milliseconds where it begins and ends."""
DECODED_BYTES = 1024
"""Values of no more than so many bytes are known by what they say, and need not be read again."""
HELD_BYTES = 256
"""The memory of a lease."""
WINDOW_SECONDS = 8.0
"""A write that has found no window for so long is refused."""
TIMING = CacheTimings()

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_redis_cache(
    url: str,
    store: Backend,
    *,
    clock: Clock,
    size_bytes: int,
    timing: CacheTimings = TIMING,
    meter: CacheMetrics | None = None,
) -> AsyncIterator["RedisCache"]:
    """Open the cache in the Redis that a URL names, whether or not it answers now, and close it at the end."""
    meter = CacheMetrics() if meter is None else meter
    async with open_link(url, name=await store.store_id(), timing=timing, meter=meter) as link:
        cache = RedisCache(store, link, clock=clock, size_bytes=size_bytes, timing=timing, meter=meter)
        async with running_in_background(cache.fence.keep):
            try:
                yield cache
            finally:
                await cache.aclose()


class _Held(NamedTuple):
    """A record in this process, and until when, by our timer, it may be served."""

    record: Record
    until: float


class _Reading:
    """Those who read a key now. `spoiled` says that it is being written: what they read is not to be held."""

    __slots__ = ("readers", "spoiled")

    def __init__(self) -> None:
        self.readers = 0
        self.spoiled = False


class _WriteWindow(NamedTuple):
    """A write's right to go to the store: until then, by our timer, no cache can be filled with what was before.

    `not_after` is the same, by the store's clock. `marker` is None where the fence is OFF.
    """

    guid: str
    until: float
    not_after: int
    boot: str
    marker: str | None


class RedisCache(DelegatingStore[Backend]):
    """Records of `store` in Redis, for every process that uses the same, and in `size_bytes` of memory of this one."""

    def __init__(  # noqa: PLR0913  # its collaborators
        self,
        store: Backend,
        link: RedisLink,
        *,
        clock: Clock,
        size_bytes: int,
        timing: CacheTimings,
        timer: MonotonicClock = time.monotonic,
        meter: CacheMetrics | None = None,
    ) -> None:
        super().__init__(store)
        self._meter = meter = CacheMetrics() if meter is None else meter
        self._link = link
        self._clock = clock
        self._timing = timing
        self._timer = timer
        self._held = bounded(size_bytes // 2, _weigh_held)
        self._reading: dict[str, _Reading] = {}
        self._decodings = bounded(size_bytes // 2, _weigh_decoding)  # what a value says never changes
        self._beside = BackgroundTasks()
        self.fence = FenceMonitor(store, link, timing=timing, timer=timer, meter=meter)

    def get_nowait(self, guid: str) -> Record | WouldBlock | None:
        """Return what this process holds under a lease; else what the store has at hand, where no cache is used."""
        held: _Held | None = self._held.get(guid)
        now = self._timer()
        if now < self.fence.until:
            if held is not None and now < held.until:
                self._meter.l1_hits += 1
                return held.record
            return WOULD_BLOCK
        record = self._store.get_nowait(guid)
        if record is not WOULD_BLOCK:
            self._meter.misses += 1
        return record

    async def get(self, guid: str) -> Record | None:
        """Return what is held; else what Redis has; else what the store says."""
        misses = self._meter.misses
        at_hand = self.get_nowait(guid)
        boot = self.fence.usable if at_hand is WOULD_BLOCK else None
        if boot is not None and self._link.up_since is not None:
            with self._read(guid) as reading:
                return await self._from_redis(guid, reading, boot)
        if isinstance(at_hand, Record) and rules.is_live(at_hand, self._clock()):
            record_source(self._meter.source(misses))
            return at_hand
        if at_hand is WOULD_BLOCK:
            self._meter.miss()
        else:
            record_source(MISS)  # and counted by now
        return await self._store.get(guid)  # what has expired may have been purged by now, and made anew

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        """Do it in a window; CacheUnavailable or StoreUnavailable, and nothing changed, if none can be had."""
        if old is None:
            return await self._store.swap(None, new, not_after=not_after)
        with self._written(old.guid):
            window = await self._open(old.guid)
            try:
                swapped = await self._store.swap(old, new, not_after=earliest(window.not_after, not_after))
            except StoreUnavailable:
                self._close(window)
                raise
            # Of one whose outcome is unknown the marker stays: it may be done yet, as long as that stands.
        self._close(window)
        if not swapped and self._timer() >= window.until:
            raise StoreUnavailable("the store took longer than the time that the write had")
        return swapped

    async def check(self) -> None:
        await self._link.check()

    async def aclose(self) -> None:
        """Finish what is under way beside the requests; what fails for the lack of Redis dies there by itself."""
        await self._beside.drain()

    async def _from_redis(self, guid: str, reading: _Reading, boot: str) -> Record | None:
        try:
            value, asked, token = await self._link.read(guid, boot)
        except CacheUnavailable:
            self._meter.miss()
            return await self._store.get(guid)
        if value is not None and value[:1] in {b"R", b"r"}:
            record = self._decoded(guid, value[1:])
            if record is not None and rules.is_live(record, self._clock()):
                if value[:1] == b"R":
                    self._hold(record, asked, reading)
                self._meter.redis()
                return record
        self._meter.miss()
        if value != b"T":
            return await self._store.get(guid)
        at_hand = self._store.get_nowait(guid)
        record = await self._store.get_linearizable(guid) if at_hand is WOULD_BLOCK else at_hand
        if record is not None and rules.is_live(record, self._clock()):
            known = record if at_hand is WOULD_BLOCK else None
            self._beside_requests(self._fill(guid, known, token, boot))
        return record

    async def _fill(self, guid: str, known: Record | None, token: str, boot: str) -> None:
        """Fill in what the store has settled, if it is not known yet."""
        record = known or await self._store.get_linearizable(guid)
        life = 0 if record is None else min(record.expire * 1000 - self._clock(), milliseconds(self._timing.entry))
        if record is None or life <= 0:
            return
        with self._read(guid) as reading:
            fill = (token, record.model_dump_json(), life, self._link.me, milliseconds(self._timing.lease))
            value, asked, _ = await self._link.call(FILL, guid, *fill, boot=boot)
            if value == 1:
                self._hold(record, asked, reading)

    def _hold(self, record: Record, asked: float, reading: _Reading) -> None:
        """Keep a record for the lease that was noted in Redis, if it is not being written here.

        It ends long before the fence could be ON under another boot.
        """
        if not reading.spoiled:
            live = self._timer() + (record.expire * 1000 - self._clock()) / 1000
            until = min(live, asked + self._timing.held(self._timing.lease) - GRAIN)
            put(self._held, record.guid, _Held(record, until))

    def _decoded(self, guid: str, value: bytes) -> Record | None:
        """Return the record that a value is; None if it is none of this GUID, which then is taken out."""
        record: Record | None = self._decodings.get(value)
        try:
            if record is None:
                record = Record.model_validate_json(value)
                if len(value) <= DECODED_BYTES:
                    put(self._decodings, value, record)
            if record.guid != guid:
                raise ValueError(f"it is of GUID {record.guid}")
        except ValueError as error:  # pydantic's is one
            _log.error("corrupt cache entry, taken out", guid=guid, fault=str(error))
            self._beside_requests(self._take_out(guid))
            return None
        return record

    async def _take_out(self, guid: str) -> None:
        """Take a key out of Redis, where it is used."""
        view = await self.fence.fresh()
        if view.fence.mode is not Mode.OFF:
            marker = self._link.draw()
            await self._begin(guid, marker, view)
            await self._end(guid, marker, view.fence.epoch)

    async def _open(self, guid: str) -> _WriteWindow:
        """Return a window for a write."""
        deadline = self._timer() + WINDOW_SECONDS
        while self._timer() < deadline:
            view = await self.fence.fresh()
            window = await (self._without(guid, view) if view.fence.mode is Mode.OFF else self._with(guid, view))
            if window is not None:
                return window
        raise CacheUnavailable(f"no cache could be told of a write within {WINDOW_SECONDS} s")

    async def _without(self, guid: str, view: FenceView) -> _WriteWindow | None:
        """Return a window without Redis, or wait until there may be one."""
        wait = self.fence.quiet_at(view) - self._timer()
        if wait <= 0:
            return self._window(guid, view, view.asked + self._timing.held(self._timing.fence_lease), None)
        await asyncio.sleep(wait)
        return None

    async def _with(self, guid: str, view: FenceView) -> _WriteWindow | None:
        """Take the key out of Redis, and wait until no process holds it; set the fence to OFF if that fails."""
        marker, asked = self._link.draw(), self._timer()
        lease = await self._begin(guid, marker, view)
        if lease is None:
            await self.fence.off(view.fence)
            return None
        if lease > 0:
            await asyncio.sleep(self._timing.waited(lease / 1000))
        timing = self._timing
        # From the look on it takes two fence leases, at least, to OFF and to ARM and to ON, under another boot.
        until = min(asked + timing.held(timing.marker), view.asked + 2 * timing.held(timing.fence_lease))
        return self._window(guid, view, until, marker)

    async def _begin(self, guid: str, marker: str, view: FenceView) -> int | None:
        """Run BEGIN, if need be when Redis is back; return how many ms others hold the key, or None if it failed."""
        timing = self._timing
        arguments = (marker, milliseconds(timing.marker), self._link.me, milliseconds(timing.cool))
        for _ in range(2):
            with suppress(CacheUnavailable):
                if self._link.up_since is None:
                    await self._link.wait_up(timing.begin)
                lease: int | None = (await self._link.call(BEGIN, guid, *arguments, boot=view.fence.epoch)).value
                return lease
        return None

    def _window(self, guid: str, view: FenceView, until: float, marker: str | None) -> _WriteWindow:
        left = self._timing.held(until - view.told) - self._timing.skew
        return _WriteWindow(guid, until, view.sight.now + floor(left * 1000), view.fence.epoch, marker)

    def _close(self, window: _WriteWindow) -> None:
        """Drop the marker, some time soon: while it stands nothing is filled in, which is all."""
        if window.marker is not None:
            self._beside_requests(self._end(window.guid, window.marker, window.boot))

    async def _end(self, guid: str, marker: str, boot: str) -> None:
        await self._link.call(END, guid, marker, boot=boot)

    @contextmanager
    def _read(self, guid: str) -> Iterator[_Reading]:
        """Read a key, inside, and be told if it is written meanwhile."""
        reading = self._reading.setdefault(guid, _Reading())
        reading.readers += 1
        try:
            yield reading
        finally:
            reading.readers -= 1
            if not reading.readers:
                del self._reading[guid]

    @contextmanager
    def _written(self, guid: str) -> Iterator[None]:
        """Hold nothing of a key, inside: our own leases are not waited for."""
        self._held.pop(guid, None)
        with self._read(guid) as reading:
            reading.spoiled = True  # for those too who read it already
            yield

    def _beside_requests(self, work: Coroutine[None, None, None]) -> None:
        """Do something that no request waits for; that Redis or the store fails is told elsewhere."""
        self._beside.spawn(_quietly(work))


def _weigh_held(_guid: str, held: _Held) -> int:
    return HELD_BYTES + held.record.held_bytes


def _weigh_decoding(value: bytes, record: Record) -> int:
    return len(value) + record.held_bytes


async def _quietly(work: Coroutine[None, None, None]) -> None:
    with suppress(GuidsvcError):
        await work
