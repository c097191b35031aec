"""A bound of the records that are kept for an owner, live or expired, beside the quota of live ones.

Without it an owner could store any number: what is created expired, or expires soon, leaves the quota of live records
and is kept for the retention. The bound is not exact. A process counts, and then admits an eighth of what is left
before it counts again; what other processes have admitted meanwhile may exceed the bound.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cachebox import LRUCache

from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import QuotaExceeded
from guidsvc.runtime.clock import Clock
from guidsvc.services.quota import Quota, open_quota
from guidsvc.store.contract import LedgerRepository

KEPT_PER_LIVE = 10
"""For each live record that an owner may have, so many are kept, live or expired."""
ROOM_MS = 5_000
"""A count is good for so long: deletions and the end of retention make room."""
OWNERS = 10_000
"""Of so many owners a process remembers the room."""
FULL_SECONDS = 0.2
"""A refusal holds for so long, or for FULL_COUNTS times what the count took: a full owner costs little."""
FULL_COUNTS = 100
PAUSE_SECONDS = 0.005
"""Between two counts while creations that are under way may take the last places."""
_PARTS = 8


@asynccontextmanager
async def open_quotas(ledgers: LedgerRepository, *, clock: Clock, quota: int) -> AsyncIterator[Quota]:
    """Open the quota of live records with the bound of kept ones; none of both if the quota is 0."""
    async with open_quota(ledgers, clock=clock, quota=quota) as live:
        yield RetentionQuota(live, ledgers, clock=clock, quota=quota) if quota else live


@dataclass
class _Room:
    left: int = 0
    pending: int = 0
    """Creations that were admitted and have not ended: a count may hold them or not."""
    until: int = 0
    full_until: float = 0.0
    """Until then, by the timer, creations are refused without a count."""
    counting: asyncio.Lock = field(default_factory=asyncio.Lock)


class RetentionQuota:
    """A quota that also refuses creations by an owner of whom too many records are kept."""

    def __init__(
        self, live: Quota, ledgers: LedgerRepository, *, clock: Clock, quota: int, parts: int = _PARTS
    ) -> None:
        self._live = live
        self._ledgers = ledgers
        self._clock = clock
        self._quota = quota
        self._most = quota * KEPT_PER_LIVE
        self._parts = parts
        self._rooms: LRUCache[str, _Room] = LRUCache(OWNERS)

    @asynccontextmanager
    async def reserve(self, old: Record | None, new: Record | None) -> AsyncIterator[int | None]:
        """As `Quota` says; QuotaExceeded if too many records of the owner are kept."""
        if old is not None or new is None:
            async with self._live.reserve(old, new) as not_after:
                yield not_after
            return
        room = await self._admit(new.owner)
        try:
            async with self._live.reserve(old, new) as not_after:
                yield not_after
        finally:
            room.pending -= 1

    def dry_run(self) -> Quota:
        live = self._live.dry_run()  # which creates nothing, so that one count is enough
        return RetentionQuota(live, self._ledgers, clock=self._clock, quota=self._quota, parts=1)

    async def _admit(self, owner: str) -> _Room:
        room: _Room | None = self._rooms.get(owner)
        if room is None:
            room = _Room()
            self._rooms.insert(owner, room)
        if not self._has_room(room):
            async with room.counting:
                if not self._has_room(room):  # nor has one who waited for the same count found some
                    await self._count(owner, room)
        room.left -= 1
        room.pending += 1
        return room

    def _has_room(self, room: _Room) -> bool:
        """Whether there is room without a count; QuotaExceeded if a count has found none a moment ago."""
        if time.monotonic() < room.full_until:
            raise QuotaExceeded(self._quota, kept=self._most)
        return room.left > 0 and self._clock() < room.until

    async def _count(self, owner: str, room: _Room) -> None:
        begun = time.monotonic()
        while True:
            now, pending = self._clock(), room.pending
            kept = await self._ledgers.count_linearizable(Selection(owner=owner, kept_at=now // 1000))
            free = self._most - kept - pending
            if free > 0:
                room.left, room.until = -(-free // self._parts), now + ROOM_MS
                return
            if kept >= self._most or not pending:
                ended = time.monotonic()
                room.full_until = ended + max(FULL_SECONDS, FULL_COUNTS * (ended - begun))
                raise QuotaExceeded(self._quota, kept=self._most)
            await asyncio.sleep(PAUSE_SECONDS)  # until it is known what became of them
