"""A limit on the stored records of an owner, live or expired, in addition to the quota of live ones.

Without it an owner could store any number of records: those created expired, or expiring soon, do not count as live but
are stored until the end of retention. The limit is not exact. A process counts, then admits an eighth of the room left
before it counts again; concurrent admissions of other processes may exceed the limit.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cachebox import LRUCache

from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import QuotaExceeded
from guidsvc.runtime.clock import Clock, continuous_clock
from guidsvc.services.quota import Quota, open_quota
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.lease import LeaseClock
from guidsvc.store.work_time import measured_work

STORED_PER_LIVE = 10
"""Maximum number of stored records, live or expired, as a multiple of the quota of live ones."""
ROOM_MS = 5_000
"""Validity of a count: deletions and the end of retention make room."""
OWNERS = 10_000
"""Maximum number of owners whose room a process caches; the least recently used is evicted."""
FULL_SECONDS = 0.2
"""A rejection is repeated without a count for this time, or for FULL_COUNTS times the store's work on the count if that
is longer, but at most MAX_FULL_SECONDS: so a full owner costs little. A deletion by this process ends that time."""
FULL_COUNTS = 100
MAX_FULL_SECONDS = 5.0
PAUSE_SECONDS = 0.005
"""Pause between two counts while pending creations may take the last places."""
_PARTS = 8


@asynccontextmanager
async def open_quotas(database: Database, *, lease_clock: LeaseClock, clock: Clock, quota: int) -> AsyncIterator[Quota]:
    """Open the quota of live records and the limit on stored ones; neither applies if the quota is 0."""
    async with open_quota(database, lease_clock=lease_clock, clock=clock, quota=quota) as live:
        yield RetentionQuota(live, database.records, clock=clock, quota=quota) if quota else live


@dataclass
class _Room:
    remaining: int = 0
    pending: int = 0
    """Creations that were admitted and have not ended: a count may include them or not."""
    until: int = 0
    full_until: float = 0.0
    """Time, by the continuous clock, until which creations are rejected without a count."""
    deletions: int = 0
    """Deletions by this process. A count begun before one of them may be too high."""
    rehearsed: int = 0
    """Creations of a dry run, less its deletions: no count includes them."""
    counting: asyncio.Lock = field(default_factory=asyncio.Lock)


class RetentionQuota:
    """A quota that also rejects creations if the owner has too many stored records."""

    def __init__(
        self, live: Quota, records: RecordRepository, *, clock: Clock, quota: int, is_dry_run: bool = False
    ) -> None:
        self._live = live
        self._records = records
        self._clock = clock
        self._quota = quota
        self._limit = quota * STORED_PER_LIVE
        self._is_dry_run = is_dry_run
        self._parts = 1 if is_dry_run else _PARTS  # nobody else creates in a dry run
        self._rooms: LRUCache[str, _Room] = LRUCache(OWNERS)

    @asynccontextmanager
    async def reserve(self, old: Record | None, new: Record | None) -> AsyncIterator[int | None]:
        """Implement `Quota.reserve`; also raise QuotaExceeded if the owner has too many stored records."""
        if old is not None or new is None:
            async with self._live.reserve(old, new) as not_after:
                yield not_after
            if new is not None and new.is_deleted:
                self.note_deletion(new.owner)
            return
        room = await self._admit(new.owner)
        try:
            async with self._live.reserve(old, new) as not_after:
                yield not_after
            room.rehearsed += self._is_dry_run
        finally:
            room.pending -= 1

    def dry_run(self) -> Quota:
        live = self._live.dry_run()
        return RetentionQuota(live, self._records, clock=self._clock, quota=self._quota, is_dry_run=True)

    def note_deletion(self, owner: str) -> None:
        """Let the next creation of the owner count again."""
        room = self._room(owner)
        room.deletions += 1
        room.rehearsed -= self._is_dry_run
        room.full_until = 0.0

    def _room(self, owner: str) -> _Room:
        room: _Room | None = self._rooms.get(owner)
        if room is None:
            room = _Room()
            self._rooms.insert(owner, room)
        return room

    async def _admit(self, owner: str) -> _Room:
        room = self._room(owner)
        if not self._has_room(room):
            async with room.counting:
                if not self._has_room(room):  # another task may have counted while this one waited
                    await self._count(owner, room)
        room.remaining -= 1
        room.pending += 1
        return room

    def _has_room(self, room: _Room) -> bool:
        """Whether a valid count left room; raise QuotaExceeded if a recent count found none."""
        if continuous_clock() < room.full_until:
            raise QuotaExceeded(self._quota, stored_limit=self._limit)
        return room.remaining > 0 and self._clock() < room.until

    async def _count(self, owner: str, room: _Room) -> None:
        while True:
            now, pending, rehearsed, deletions = self._clock(), room.pending, room.rehearsed, room.deletions
            with measured_work() as work:
                stored = rehearsed + await self._records.count_linearizable(Selection(owner=owner, kept_at=now // 1000))
            free = self._limit - stored - pending
            if free > 0:
                room.remaining, room.until = -(-free // self._parts), now + ROOM_MS
                return
            if stored >= self._limit or not pending:
                if room.deletions == deletions:
                    pause = min(MAX_FULL_SECONDS, max(FULL_SECONDS, FULL_COUNTS * work.seconds))
                    room.full_until = continuous_clock() + pause
                raise QuotaExceeded(self._quota, stored_limit=self._limit)
            await asyncio.sleep(PAUSE_SECONDS)  # until some pending creations have ended
