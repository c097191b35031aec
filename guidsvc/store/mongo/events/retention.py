"""Where the log begins, and how it is cut off.

To cut the log off raises its floor, which is the number of the last entry that no reader sees any more. The floor never
passes an entry that is still in an outbox, so a sequencer that appends that again finds it in the log.

The entries below the floor are deleted later. A sequencer that was suspended may hold entries that have since been
moved to the log and cut off. It knows a newest number from before, and inserts a batch after it at most. So once the
log has grown by more than a batch since the floor was raised, all those numbers are taken, and the entries can go.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from guidsvc.domain.events.cursor import CursorKey, checksum_of, draw_key
from guidsvc.errors import CorruptRecord
from guidsvc.store.event_log import LogBounds
from guidsvc.store.mongo.documents import NOW, Document
from guidsvc.store.mongo.events.entry_documents import entry_in, key_of_entry
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.outbox import BY_PENDING, IS_PENDING, valid_entries
from guidsvc.store.mongo.events.sequencer import BATCH, BOUNDS_ID, Head, Sequencer
from guidsvc.store.mongo.repository import Collection

UNDRAINED = 200
"""Maximum number of outboxes with entries while the log can be cut off. With more, the sequencer is behind."""


class Floor(NamedTuple):
    """The stored bounds of a log."""

    key: CursorKey
    number: int
    checksum: int
    total_bytes: int
    """The size of all entries up to the floor."""


class _Doomed(NamedTuple):
    """Entries to delete: those up to a floor, once the log has grown enough since then."""

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


class Retention:
    """Cuts the log off."""

    def __init__(
        self, records: Collection, log: Collection, bounds: Collection, operations: Operations, sequencer: Sequencer
    ) -> None:
        self._records = records
        self._log = log
        self._bounds = bounds
        self._operations = operations
        self._sequencer = sequencer
        self._deleted_to = 0
        self._doomed: _Doomed | None = None

    async def floor(self) -> Floor:
        """Return the stored bounds."""
        found = await self._operations.read(partial(self._bounds.find_one, {"_id": BOUNDS_ID}))
        if found is None:
            raise CorruptRecord("the store has no bounds of its log; restart all processes that use it")
        return Floor(CursorKey(found["epoch"], found["secret"]), found["floor"], found["checksum"], found["total"])

    async def bounds(self) -> LogBounds:
        """Return where the log begins and ends."""
        floor = await self.floor()
        newest = self._log.find({}).sort("_id", -1).limit(1)
        found = await self._operations.read(partial(newest.to_list, 1))
        number, checksum = (found[0]["_id"], checksum_of(entry_in(found[0]).id)) if found else (0, 0)
        return LogBounds(floor.key, floor.number, floor.checksum, number, checksum)

    async def size(self) -> tuple[int, int]:
        """Return the size of the log in bytes, and when its oldest entry was appended."""
        floor = await self.floor()
        head = await self._sequencer.head()
        oldest = self._log.find({"_id": {"$gt": floor.number}}, {"appended": 1}).sort("_id", 1).limit(1)
        found = await self._operations.read(partial(oldest.to_list, 1))
        return head.total_bytes - floor.total_bytes, found[0]["appended"] if found else 0

    async def trim(self, before: int, size_bytes: int, limit: int) -> int:
        """Cut off entries that were appended before a time, or are beyond a size; return how many."""
        floor, head = await self.floor(), await self._sequencer.head()
        await self._delete_doomed(floor, head, limit)
        last = await self._last_to_cut(head)
        if last <= floor.number:
            return 0
        oldest = self._log.find({"_id": {"$gt": floor.number, "$lte": last}}).sort("_id", 1).limit(limit)
        documents = await self._operations.scan(partial(oldest.to_list, limit))
        cut = _cut(documents, before, floor.total_bytes, head.total_bytes - size_bytes)
        return cut if cut and await self._raise_floor(floor, documents[cut - 1]) else 0

    async def _last_to_cut(self, head: Head) -> int:
        """Return the highest number up to which no entry is in an outbox; never that of the newest entry."""
        outboxes = self._records.find(IS_PENDING, {"g.out": 1}).hint(BY_PENDING).limit(UNDRAINED)
        found = await self._operations.read(partial(outboxes.to_list, UNDRAINED))
        if len(found) == UNDRAINED:
            return 0
        keys = [key_of_entry(entry) for each in found for entry in valid_entries(each["_id"], each["g"])]
        if not keys:
            return head.number - 1
        numbers = await self._sequencer.numbers_of(keys)
        return min(head.number, *numbers.values()) - 1 if numbers else head.number - 1

    async def _raise_floor(self, floor: Floor, last: Document) -> bool:
        """Raise the floor to an entry; False if another process has raised it."""
        raised = {"floor": last["_id"], "checksum": checksum_of(entry_in(last).id), "total": last["total"]}
        update = partial(self._bounds.update_one, {"_id": BOUNDS_ID, "floor": floor.number}, {"$set": raised})
        return bool((await self._operations.write(update)).matched_count)

    async def _delete_doomed(self, floor: Floor, head: Head, limit: int) -> None:
        """Delete entries that were cut off, at most `limit`, if no sequencer can append them again."""
        if self._doomed is None and floor.number > self._deleted_to:
            self._doomed = _Doomed(floor.number, head.number)
        if self._doomed is None or head.number <= self._doomed.newest + BATCH:
            return
        cut_off = self._log.find({"_id": {"$lte": self._doomed.floor}}, {"_id": 1}).sort("_id", 1).limit(limit)
        documents = await self._operations.read(partial(cut_off.to_list, limit))
        if documents:
            below = {"_id": {"$lte": documents[-1]["_id"]}}
            await self._operations.write(partial(self._log.delete_many, below))
        if len(documents) < limit:
            self._deleted_to, self._doomed = self._doomed.floor, None


def _cut(documents: Sequence[Document], before: int, floor_bytes: int, excess_bytes: int) -> int:
    """Return how many of the oldest entries to cut off: those appended before a time, or that make the log too large.

    `excess_bytes` is the size of all entries up to the last that must go; `floor_bytes` that of those that have gone.
    """
    total_bytes = floor_bytes
    for place, document in enumerate(documents):
        if document["appended"] >= before and total_bytes >= excess_bytes:
            return place
        total_bytes = document["total"]
    return len(documents)
