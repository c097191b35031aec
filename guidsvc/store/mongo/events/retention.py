"""The beginning of the log, and its trimming.

To cut the log off raises its floor, which is the number of the last entry that no reader sees any more. The floor never
passes an entry that is still in an outbox, so a sequencer that appends that again finds it in the log.

The entries below the floor are deleted later. A sequencer that was suspended may hold entries that have since been
moved to the log and cut off. It knows a newest number from before, and inserts a batch after it at most. So once the
log has grown by more than a batch since the floor was raised, all those numbers are taken, and the entries can go.

Entries are appended in order, so none is older than a later one. That holds against the time of an append that lies in
the future, because the clock of a server was wrong.

An invalid document of the log ends what can be read from before it. A process that has met one says that its log begins
behind it.

While the log is off, records change without entries. That is a gap, which a process notes in the bounds before it
writes. Once the log is on, it continues with a new epoch, so that no cursor passes the gap unnoticed.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog

from guidsvc.domain.events.cursor import CursorKey, draw_key
from guidsvc.domain.events.shares import Item, Place, shares_for_reading
from guidsvc.errors import CorruptRecord, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.clock import ContinuousClock, continuous_clock
from guidsvc.store.event_log import LogBounds
from guidsvc.store.mongo.documents import NOW, OUTBOX, Document
from guidsvc.store.mongo.events.archive.collection import Archive, owner_in
from guidsvc.store.mongo.events.archive.trim import Bounds, Oldest, SharedTrim
from guidsvc.store.mongo.events.entry_documents import checksum_in, id_in
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.outbox import IS_PENDING, ids_in
from guidsvc.store.mongo.events.sequencer import BATCH, BOUNDS_ID, IS_NUMBERED, Head, Sequencer
from guidsvc.store.mongo.repository import Collection, in_one_reply

LATER_SAMPLES = 24
"""Number of later entries that show the age of a page: the next one, and those at doubled distances."""
DELETIONS = 2
"""Ratio of the entries deleted at once to those trimmed at once, so that a backlog is deleted too."""
GAP_SECONDS = 5.0
"""Time after a note of a gap for which its process may still write without entries, by the clock of the server."""
MAX_GAP_SECONDS = 2 * GAP_SECONDS
"""A note that ends later than this from now was made while the clock of the server was ahead."""
NOTE_SECONDS = 1.0
"""Maximum age of a note for a write: a write that begins by then ends long before GAP_SECONDS have passed."""
_GAP = "gap_until"
_HAS_GAP: dict[str, Any] = {"_id": BOUNDS_ID, _GAP: {"$exists": True}}
_NOTE_GAP: list[Document] = [{"$set": {_GAP: {"$add": [NOW, int(GAP_SECONDS * 1000)]}}}]
_POLL_SECONDS = 0.25
_NEVER = 2**63

_log = structlog.get_logger(__name__)


class Floor(NamedTuple):
    """The stored bounds of a log."""

    key: CursorKey
    number: int
    checksum: int
    total_bytes: int
    """The size of all entries up to the floor."""
    shares: object = None
    """The text of the shares of owners; None if nothing was counted, or it was not read."""


class _Cut(NamedTuple):
    """A floor, and the newest entry when it was first seen."""

    floor: int
    newest: int


def bounds_document() -> dict[str, Any]:
    """Return the bounds of a new log, with a key drawn at random."""
    key = draw_key()
    return {"epoch": key.epoch, "secret": key.secret, "floor": 0, "checksum": 0, "total": 0}


def with_bounds() -> list[Document]:
    """Return the update that adds the bounds of a new log, and when the store was first opened with it."""
    added = {"$mergeObjects": [{"$literal": bounds_document()}, {"opened": NOW}, "$$ROOT"]}
    return [{"$replaceWith": added}]


async def close_gap(bounds: Collection, *, exclusive: bool) -> None:
    """Invalidate all cursors if the log was off meanwhile.

    Unless the store is used exclusively, another process may still write without entries. Wait for its end, but not for
    longer than GAP_SECONDS: if it goes on, the next start voids the cursors again. A note from while the server's clock
    was ahead is over if no process has made another for so long.
    """
    over = _HAS_GAP if exclusive else _HAS_GAP | {"$expr": {"$lte": [f"${_GAP}", NOW]}}
    is_wrong = {"$expr": {"$gt": [f"${_GAP}", {"$add": [NOW, int(MAX_GAP_SECONDS * 1000)]}]}}
    until, first = continuous_clock() + GAP_SECONDS, None
    while (found := await bounds.find_one(_HAS_GAP, {_GAP: 1})) is not None:
        is_late = continuous_clock() >= until
        first = found if first is None else first
        unchanged = is_wrong | {"_id": BOUNDS_ID, _GAP: first[_GAP]}
        if await _close(bounds, over) or (is_late and await _close(bounds, unchanged)):
            _log.info("event log was off, earlier cursors are invalid")
        elif is_late:
            await bounds.update_one(_HAS_GAP, {"$set": {"epoch": draw_key().epoch}})
            _log.warning("event log is off in another process, its changes have no events")
            return
        else:
            await asyncio.sleep(_POLL_SECONDS)


async def _close(bounds: Collection, over: Document) -> bool:
    """Remove the note of a gap that is over, and invalidate all cursors; return whether it is over."""
    update = {"$set": {"epoch": draw_key().epoch}, "$unset": {_GAP: ""}}
    return bool((await bounds.update_one(over, update)).matched_count)


class Gap:
    """Notes that records change without entries."""

    def __init__(
        self, bounds: Collection, operations: Operations, *, timer: ContinuousClock = continuous_clock
    ) -> None:
        self._bounds = bounds
        self._operations = operations
        self._timer = timer
        self._noted_at = -math.inf
        self._noting = asyncio.Lock()

    async def note(self) -> None:
        """Note the gap if the last note is older than NOTE_SECONDS. Call it before each change without entries."""
        if self._is_noted():
            return
        async with self._noting:
            if self._is_noted():
                return
            begun = self._timer()
            try:
                await self._operations.write(partial(self._bounds.update_one, {"_id": BOUNDS_ID}, _NOTE_GAP))
            except OutcomeUnknown as error:  # what is unknown is not the change that waits for this
                raise StoreUnavailable(str(error)) from error
            self._noted_at = begun

    def _is_noted(self) -> bool:
        return self._timer() < self._noted_at + NOTE_SECONDS


class Retention:
    """Cuts the log off."""

    def __init__(  # one argument per collaborator
        self,
        records: Collection,
        log: Collection,
        bounds: Collection,
        operations: Operations,
        sequencer: Sequencer,
        archive: Archive,
    ) -> None:
        self._records = records
        self._log = log
        self._bounds = bounds
        self._operations = operations
        self._sequencer = sequencer
        self._shared = SharedTrim(log, bounds, archive, operations)
        self._deletable = 0
        """No sequencer can append entries up to this number again."""
        self._deleted = 0
        self._cuts: deque[_Cut] = deque()
        """Floors up to which entries cannot be deleted yet: one for each newest entry, so at most a batch."""
        self._damage = 0

    async def floor(self) -> Floor:
        """Return the stored bounds without the shares, which may be large."""
        return await self._stored({"shares": 0})

    async def floor_with_shares(self) -> Floor:
        """Return the stored bounds."""
        return await self._stored(None)

    async def _stored(self, projection: Document | None) -> Floor:
        found = await self._operations.read(partial(self._bounds.find_one, {"_id": BOUNDS_ID}, projection))
        if found is None:
            raise CorruptRecord("the store has no bounds of its log; restart all processes that use it")
        key = CursorKey(found["epoch"], found["secret"])
        return Floor(key, found["floor"], found["checksum"], found["total"], found.get("shares"))

    async def floor_of(self, owner: str) -> Floor:
        """Return the stored bounds for a reader of one owner: its floor is where it lost entries, or may have."""
        floor = await self.floor_with_shares()
        shares = shares_for_reading(floor.shares, floor.number)
        if shares is None:
            return floor
        number, checksum = shares.floor_of(owner)
        return floor._replace(number=number, checksum=checksum)

    async def bounds(self, owner: str | None = None) -> LogBounds:
        """Return where the log begins and ends; see `EventLog.bounds`."""
        floor = await (self.floor() if owner is None else self.floor_of(owner))
        newest = self._log.find(IS_NUMBERED).sort("_id", -1).limit(1)
        found = await self._operations.read(partial(newest.to_list, 1))
        number, checksum = (found[0]["_id"], checksum_in(found[0])) if found else (0, 0)
        if self._damage > floor.number:
            return LogBounds(floor.key, self._damage, 0, number, checksum)
        return LogBounds(floor.key, floor.number, floor.checksum, number, checksum)

    def begin_behind(self, number: int) -> None:
        """Let the bounds begin behind an invalid document of the log."""
        self._damage = max(self._damage, number)

    async def size(self) -> tuple[int, int]:
        """Return the size of the log in bytes, and when its oldest entry was appended."""
        floor = await self.floor_with_shares()
        head = await self._sequencer.head()
        oldest = self._log.find({"_id": {"$gt": floor.number}}, {"appended": 1}).sort("_id", 1).limit(1)
        found = await self._operations.read(partial(oldest.to_list, 1))
        oldest_at = found[0].get("appended") if found else 0
        shares = shares_for_reading(floor.shares, floor.number)
        archive_bytes = 0 if shares is None else shares.archive_bytes
        size_bytes = max(0, head.total_bytes - floor.total_bytes) + archive_bytes
        return size_bytes, oldest_at if isinstance(oldest_at, int) else 0

    async def trim(self, before: int, size_bytes: int, limit: int) -> int:
        """Cut off entries that were appended before a time, or are beyond a size; return how many."""
        floor, head = await self.floor_with_shares(), await self._sequencer.head()
        await self._delete_cut_off(floor, head, limit)
        bounds = Bounds(Place(floor.number, floor.checksum), floor.total_bytes, floor.shares)
        is_over = head.total_bytes - floor.total_bytes > size_bytes
        if await self._shared.is_due(bounds, is_over=is_over):
            oldest = partial(self._oldest, floor, head, before)
            return await self._shared.run(bounds, head, oldest, (before, size_bytes), limit)
        documents = await self._oldest_documents(floor, head, limit)
        if not documents:
            return 0
        later_at = await self._appended_later(documents[-1]["_id"], head)
        cut = _cut(documents, later_at, before, floor.total_bytes, head.total_bytes - size_bytes)
        cut = await self._before_undrained(documents[:cut])
        return cut if cut and await self._raise_floor(floor, documents[:cut]) else 0

    async def _oldest_documents(self, floor: Floor, head: Head, limit: int) -> Sequence[Document]:
        last = head.number - 1
        oldest = in_one_reply(self._log.find({"_id": {"$gt": floor.number, "$lte": last}}).sort("_id", 1), limit)
        return await self._operations.scan(partial(oldest.to_list, limit))

    async def _oldest(self, floor: Floor, head: Head, before: int, limit: int) -> Oldest:
        """Return the oldest entries, up to one that is still in an outbox."""
        documents = await self._oldest_documents(floor, head, limit)
        later_at = await self._appended_later(documents[-1]["_id"], head) if documents else ()
        times = _latest_appends(documents, later_at)
        documents = documents[: await self._before_undrained(documents)]
        total_bytes, totals, items = floor.total_bytes, [], []
        for document, appended in zip(documents, times, strict=False):
            following = max(total_bytes, _total(document) or 0)
            items.append(Item(document["_id"], owner_in(document), following - total_bytes, appended < before))
            totals.append(following)
            total_bytes = following
        return Oldest(documents, items, [Place(each["_id"], checksum_in(each)) for each in documents], totals)

    async def _appended_later(self, number: int, head: Head) -> Sequence[int]:
        """Return when some entries behind a number were appended."""
        numbers = [each for power in range(LATER_SAMPLES) if (each := number + 2**power) <= head.number]
        later = self._log.find({"_id": {"$in": numbers}}, {"appended": 1})
        documents = await self._operations.read(partial(later.to_list, LATER_SAMPLES)) if numbers else []
        return [each["appended"] for each in documents if isinstance(each.get("appended"), int)]

    async def _before_undrained(self, documents: Sequence[Document]) -> int:
        """Return how many of the oldest entries are no longer in an outbox."""
        ids = [id_in(each) for each in documents]
        guids = sorted({each["guid"] for each, event_id in zip(documents, ids, strict=True) if event_id is not None})
        outboxes = in_one_reply(self._records.find({"_id": {"$in": guids}, **IS_PENDING}, {"g.out.id": 1}), len(guids))
        found = await self._operations.scan(partial(outboxes.to_list, len(guids))) if guids else []
        undrained = {event_id for each in found for event_id in ids_in(each[OUTBOX])}
        return next((place for place, event_id in enumerate(ids) if event_id in undrained), len(documents))

    async def _raise_floor(self, floor: Floor, cut_off: Sequence[Document]) -> bool:
        """Raise the floor above entries; False if another process has raised it."""
        last = cut_off[-1]
        total_bytes = max((total for each in cut_off if (total := _total(each)) is not None), default=floor.total_bytes)
        raised = {"floor": last["_id"], "checksum": checksum_in(last), "total": total_bytes}
        update = partial(self._bounds.update_one, {"_id": BOUNDS_ID, "floor": floor.number}, {"$set": raised})
        return bool((await self._operations.write(update)).matched_count)

    async def _delete_cut_off(self, floor: Floor, head: Head, limit: int) -> None:
        """Delete entries that were cut off, if no sequencer can append them again."""
        if self._cuts and self._cuts[-1].newest == head.number:
            self._cuts.pop()  # the log has not grown since then: wait again, for all up to this floor
        if floor.number > (self._cuts[-1].floor if self._cuts else self._deletable):
            self._cuts.append(_Cut(floor.number, head.number))
        while self._cuts and head.number > self._cuts[0].newest + BATCH:
            self._deletable = self._cuts.popleft().floor
        if self._deleted >= self._deletable:
            return
        limit *= DELETIONS
        found = self._log.find({"_id": {"$gte": 0, "$lte": self._deletable}}, {"_id": 1}).sort("_id", 1)
        cut_off = in_one_reply(found, limit)
        documents = await self._operations.read(partial(cut_off.to_list, limit))
        if documents:
            below = {"_id": {"$gte": 0, "$lte": documents[-1]["_id"]}}
            await self._operations.write(partial(self._log.delete_many, below))
        if len(documents) < limit:
            self._deleted = self._deletable


def _total(document: Document) -> int | None:
    total = document.get("total")
    return total if isinstance(total, int) else None


def _cut(
    documents: Sequence[Document], later_at: Sequence[int], before: int, floor_bytes: int, excess_bytes: int
) -> int:
    """Return how many of the oldest entries to cut off: those appended before a time, or that make the log too large.

    `later_at` is when some later entries were appended. `excess_bytes` is the size of all entries up to the last that
    must go; `floor_bytes` that of those that have gone.
    """
    times = _latest_appends(documents, later_at)
    total_bytes = floor_bytes
    for place, document in enumerate(documents):
        if times[place] >= before and total_bytes >= excess_bytes:
            return place
        total_bytes = max(total_bytes, _total(document) or 0)
    return len(documents)


def _latest_appends(documents: Sequence[Document], later_at: Sequence[int]) -> list[int]:
    """Return when each entry was appended at the latest: no later than those behind it."""
    latest_at = min(later_at, default=_NEVER)
    times: list[int] = []
    for document in reversed(documents):
        appended = document.get("appended")
        latest_at = min(latest_at, appended) if isinstance(appended, int) else latest_at
        times.append(latest_at)
    return times[::-1]
