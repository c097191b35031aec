"""The cache of one process: the records that were read last, in memory.

An entry may have expired since: whoever serves a record checks that.

A read that misses registers a fill, and readers of one key share its flight. A swap marks its key, cancels the
fill and drops the entry before it goes to the store; a fill lands only if it was not cancelled, and while the
mark stands nothing of the key is cached or shared: its readers go to the store, each by itself.
"""

import asyncio

from guidsvc.cache.byte_lru import bounded, put
from guidsvc.domain import lifecycle as rules
from guidsvc.domain.record import Record
from guidsvc.errors import OutcomeUnknown
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import WOULD_BLOCK, Store, WouldBlock
from guidsvc.store.delegating import DelegatingStore
from guidsvc.telemetry.metrics import CacheMetrics
from guidsvc.telemetry.tracing import record_source

QUARANTINE_SECONDS = 3600.0
"""So long is a key not cached after a write of it whose outcome is unknown, and which may land yet."""


class MemoryCache(DelegatingStore[Store]):
    """Records of `store` that take at most `size_bytes` of memory; the least recently used goes first.

    Right only as long as nobody else writes the same records: `open_store(..., exclusive=True)`.
    """

    def __init__(self, store: Store, *, clock: Clock, size_bytes: int, meter: CacheMetrics | None = None) -> None:
        super().__init__(store)
        self._clock = clock
        self._meter = CacheMetrics() if meter is None else meter
        self._size_bytes = size_bytes
        self._entries = bounded(size_bytes, _weigh)
        self._flights: dict[str, asyncio.Task[Record | None]] = {}
        self._marked: dict[str, int] = {}  # how many writes of a key are under way

    async def get(self, guid: str) -> Record | None:
        """Return what is at hand; else what the store says, in one flight with all who ask now."""
        entry: Record | None = self._entries.get(guid)
        if entry is not None and not rules.is_live(entry, self._clock()):
            self._entries.pop(guid, None)
        misses = self._meter.misses
        at_hand = self.get_nowait(guid)
        if at_hand is not WOULD_BLOCK:
            record_source(self._meter.source(misses))
            return at_hand
        self._meter.miss()
        if guid in self._marked:
            return await self._store.get(guid)
        flight = self._flights.get(guid)
        if flight is None:
            flight = self._flights[guid] = asyncio.create_task(self._fill(guid))
        return await asyncio.shield(flight)  # a reader that goes away leaves the flight to the others

    get_for_update = get

    def get_nowait(self, guid: str) -> Record | WouldBlock | None:
        """Return the entry; else what the store has at hand, and keep that while it is live."""
        entry: Record | None = self._entries.get(guid)
        if entry is not None:
            self._meter.l1_hits += 1
            return entry
        record = self._store.get_nowait(guid)
        if record is not WOULD_BLOCK:
            self._meter.misses += 1
        # If no write is under way, none can have begun before this is kept: nothing is waited for in between.
        if isinstance(record, Record) and guid not in self._marked and rules.is_live(record, self._clock()):
            put(self._entries, guid, record)
        return record

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        """Take the key out of the cache, and keep it out until the store has answered."""
        guid = (old or new).guid  # type: ignore[union-attr]  # the contract: one of them is a record
        self._mark(guid)
        try:
            swapped = await self._store.swap(old, new, not_after=not_after)
        except (OutcomeUnknown, asyncio.CancelledError):
            asyncio.get_running_loop().call_later(QUARANTINE_SECONDS, self._unmark, guid)
            raise
        except BaseException:
            self._unmark(guid)
            raise
        self._unmark(guid)
        return swapped

    async def check(self) -> None:
        """Return: memory always answers."""

    def begin_anew(self, is_alone: bool) -> None:  # noqa: FBT001  # as a store calls it
        """Drop every record, and keep none while another process may write them."""
        if is_alone:
            self._flights.clear()
        self._entries = bounded(self._size_bytes if is_alone else 0, _weigh)  # in which no record has room

    async def _fill(self, guid: str) -> Record | None:
        flight = asyncio.current_task()
        try:
            record = await self._store.get(guid)
            registered = self._flights.get(guid) is flight
            if registered and record is not None and rules.is_live(record, self._clock()):
                put(self._entries, guid, record)
            return record
        finally:
            if self._flights.get(guid) is flight:
                del self._flights[guid]

    def _mark(self, guid: str) -> None:
        self._marked[guid] = self._marked.get(guid, 0) + 1
        self._flights.pop(guid, None)
        self._entries.pop(guid, None)

    def _unmark(self, guid: str) -> None:
        left = self._marked.pop(guid) - 1
        if left:
            self._marked[guid] = left


def _weigh(_guid: str, record: Record) -> int:
    return record.held_bytes
