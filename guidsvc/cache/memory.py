"""In-process cache of the most recently used records.

A cached record may have expired: the caller must check before serving it.

A read that misses registers a fill, and concurrent readers of the key share it. A swap marks its key, cancels the
fill and drops the entry before it goes to the store. A fill lands only if it was not cancelled. While a key is
marked, nothing of it is cached or shared: each reader goes to the store.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import compress
from operator import not_

from guidsvc.cache.byte_lru import bounded, put
from guidsvc.domain import lifecycle
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, OutcomeUnknown
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import WOULD_BLOCK, RecordRepository, Swap, TakeTurn, WouldBlock
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.telemetry.metrics import CacheMetrics
from guidsvc.telemetry.tracing import record_source

QUARANTINE_SECONDS = 3600.0
"""Time for which a key stays uncached after a write of unknown outcome, which may still take effect."""
MAX_QUARANTINED = 10_000
"""Maximum number of writes of unknown outcome that are remembered. While there are more, nothing is cached."""

_Swaps = Callable[[Sequence[Swap]], Awaitable[Sequence[bool | GuidsvcError]]]


class MemoryCache(DelegatingRecords):
    """An LRU cache of `records`, bounded to `size_bytes` of memory.

    Correct only if no other process writes the same records: `open_store(..., exclusive=True)`.
    """

    def __init__(
        self, records: RecordRepository, *, clock: Clock, size_bytes: int, meter: CacheMetrics | None = None
    ) -> None:
        super().__init__(records)
        self.commits_chains = records.commits_chains
        self._clock = clock
        self._meter = CacheMetrics() if meter is None else meter
        self._size_bytes = size_bytes
        self._entries = bounded(size_bytes, _weigh)
        # No `SingleFlight`: the read belongs to the trace of the first reader, and a swap ends the sharing at once.
        self._flights: dict[str, asyncio.Task[Record | None]] = {}
        self._marked: dict[str, int] = {}  # number of writes in progress or of unknown outcome, by key
        self._quarantine: deque[tuple[float, str]] = deque()  # writes of unknown outcome: end of their time, and key
        self._is_alone = True
        self._resumption: asyncio.TimerHandle | None = None  # while nothing is cached, as there are too many of them

    async def get(self, guid: str, /) -> Record | None:
        """Return the cached record, else read the store; concurrent misses of a key share one read."""
        entry: Record | None = self._entries.get(guid)
        if entry is not None and not lifecycle.is_live(entry, self._clock()):
            self._entries.pop(guid, None)
        misses = self._meter.misses
        at_hand = self.get_nowait(guid)
        if at_hand is not WOULD_BLOCK:
            record_source(self._meter.source(misses))
            return at_hand
        self._meter.miss()
        if guid in self._marked or self._resumption is not None:
            return await self._records.get(guid)
        flight = self._flights.get(guid)
        if flight is None:
            flight = self._flights[guid] = asyncio.create_task(self._fill(guid))
        return await asyncio.shield(flight)  # a cancelled reader must not cancel the shared read

    get_for_update = get

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:
        """Return the cached record, else what the store returns without waiting, and cache that if it is live."""
        entry: Record | None = self._entries.get(guid)
        if entry is not None:
            self._meter.l1_hits += 1
            return entry
        record = self._records.get_nowait(guid)
        if record is not WOULD_BLOCK:
            self._meter.misses += 1
        # No write can begin between this check and the put: there is no await in between.
        if isinstance(record, Record) and guid not in self._marked and lifecycle.is_live(record, self._clock()):
            put(self._entries, guid, record)
        return record

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        """Remove the key from the cache, and keep it out until the store has answered."""
        guid = (old or new).guid  # type: ignore[union-attr]  # by contract, one of them is a record
        self._mark(guid)
        try:
            swapped = await self._records.swap(old, new, not_after=not_after, origin=origin)
        except (OutcomeUnknown, asyncio.CancelledError):
            self._quarantine_key(guid)
            raise
        except BaseException:
            self._unmark(guid)
            raise
        self._unmark(guid)
        return swapped

    async def get_many_for_update(
        self, guids: Sequence[str], take_turn: TakeTurn, /
    ) -> Mapping[str, Record] | WouldBlock:
        entries, now = self._entries, self._clock()
        cached: dict[str, Record] = {}
        for guid in guids:
            entry: Record | None = entries.get(guid)
            if entry is not None and lifecycle.is_live(entry, now):
                cached[guid] = entry
        absent = [guid for guid in guids if guid not in cached]
        read = await self._records.get_many_for_update(absent, take_turn)
        if read is WOULD_BLOCK:
            return read
        self._meter.l1_hits += len(cached)
        self._meter.misses += len(absent)
        return cached | dict(read)  # not cached: they are about to change

    async def swap_many(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        """Remove the keys from the cache, and keep them out until the store has answered."""
        return await self._swap_marked(self._records.swap_many, swaps)

    async def swap_chain(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        """Remove the key from the cache, and keep it out until the store has answered."""
        return await self._swap_marked(self._records.swap_chain, swaps)

    async def _swap_marked(self, execute: _Swaps, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        guids = [swap.guid for swap in swaps]
        self._mark(*guids)
        try:
            results = await execute(swaps)
        except BaseException:  # none of the store, which returns its errors
            for guid in guids:
                self._quarantine_key(guid)
            raise
        is_unknown = [isinstance(result, OutcomeUnknown) for result in results]
        for guid in compress(guids, is_unknown):
            self._quarantine_key(guid)
        self._unmark(*compress(guids, map(not_, is_unknown)))
        return results

    async def check(self) -> None:
        """Return at once: memory is always available."""

    def begin_anew(self, is_alone: bool) -> None:  # noqa: FBT001  # signature of the store's callback
        """Drop all records, and cache none while another process may write them."""
        self._is_alone = is_alone
        if is_alone:
            self._flights.clear()
        self._drop_all()

    def _drop_all(self) -> None:
        can_cache = self._is_alone and self._resumption is None
        self._entries = bounded(self._size_bytes if can_cache else 0, _weigh)  # 0 bytes: no record fits

    async def _fill(self, guid: str) -> Record | None:
        flight = asyncio.current_task()
        try:
            record = await self._records.get(guid)
            registered = self._flights.get(guid) is flight
            if registered and record is not None and lifecycle.is_live(record, self._clock()):
                put(self._entries, guid, record)
            return record
        finally:
            if self._flights.get(guid) is flight:
                del self._flights[guid]

    def _mark(self, *guids: str) -> None:
        marked, flights, entries = self._marked, self._flights, self._entries
        for guid in guids:
            marked[guid] = marked.get(guid, 0) + 1
            flights.pop(guid, None)
            entries.pop(guid, None)

    def _unmark(self, *guids: str) -> None:
        marked = self._marked
        for guid in guids:
            remaining = marked.pop(guid) - 1
            if remaining:
                marked[guid] = remaining

    def _quarantine_key(self, guid: str) -> None:
        """Keep a key out of the cache for QUARANTINE_SECONDS; if too many are, cache nothing for that time."""
        loop = asyncio.get_running_loop()
        if len(self._quarantine) < MAX_QUARANTINED:
            self._quarantine.append((loop.time() + QUARANTINE_SECONDS, guid))
            if len(self._quarantine) == 1:
                loop.call_later(QUARANTINE_SECONDS, self._end_quarantines)
            return
        if self._resumption is not None:
            self._resumption.cancel()
        self._resumption = loop.call_later(QUARANTINE_SECONDS, self._resume)
        self._unmark(guid)
        self._flights.clear()
        self._drop_all()

    def _end_quarantines(self) -> None:
        loop = asyncio.get_running_loop()
        while self._quarantine and self._quarantine[0][0] <= loop.time():
            self._unmark(self._quarantine.popleft()[1])
        if self._quarantine:
            loop.call_at(self._quarantine[0][0], self._end_quarantines)

    def _resume(self) -> None:
        self._resumption = None
        self._drop_all()


def _weigh(_guid: str, record: Record) -> int:
    return record.memory_bytes
