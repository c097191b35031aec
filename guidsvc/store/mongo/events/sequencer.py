"""The sequencer: appends the entries in the outboxes of records to the log. It is correct without clock and lease.

Any number of processes may append, also one that was suspended meanwhile:

- An appender inserts at the number after the newest entry only, and numbers are unique. So the log has no gaps.
- The key of an event is unique too. So the log has no duplicates.
- An entry leaves its outbox only once a majority has it in the log. So none is lost.
- An outbox is in the order of the changes, and is appended in its order. So the order per GUID is right.

An appender reads the newest number *before* the outboxes, and inserts once before it reads both again. With that, the
log can be cut off: see `guidsvc.store.mongo.events.retention`. The number of an entry that was appended too late, by a
process that was suspended, is not above the floor of the log. Such an entry does not count.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from pymongo import DeleteOne, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from guidsvc.domain.events.entry import PURGED
from guidsvc.errors import OutcomeUnknown, StoreUnavailable
from guidsvc.store.mongo.documents import NOW, Document
from guidsvc.store.mongo.events.entry_documents import KEY, Key, key_of, log_document
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.outbox import BY_PENDING, IS_DRAINED, IS_PENDING, IS_PURGED, drained
from guidsvc.store.mongo.repository import Collection

BATCH = 200
"""Maximum number of entries that are appended at once."""
BATCH_BYTES = 1024 * 1024
"""A batch ends early once its entries take this many bytes."""
BY_EVENT = "event"
LOG_INDEXES = [IndexModel([(name, 1) for name in KEY], name=BY_EVENT, unique=True)]
BOUNDS_ID = "log"
_DUPLICATE_KEY = 11_000


class Head(NamedTuple):
    """The newest entry: its number, and the size of all entries up to it, also of those that were cut off."""

    number: int
    total_bytes: int


@dataclass(frozen=True)
class _Item:
    """An entry in the outbox of a GUID."""

    id: str
    guid: str
    document: Document = field(compare=False)


class Batch(NamedTuple):
    """Entries in outboxes, oldest outbox first."""

    items: Sequence[_Item]
    pending: int | None
    """The time of the oldest entry in Unix milliseconds; None if there is none."""
    read_at: int
    """When they were read, by the server's clock, in Unix milliseconds; 0 if there are none."""


class Sequencer:
    """Appends entries. `records` are the documents with the outboxes."""

    def __init__(self, records: Collection, log: Collection, bounds: Collection, operations: Operations) -> None:
        self._records = records
        self._log = log
        self._bounds = bounds
        self._operations = operations
        self._limit = BATCH
        self.pending: int | None = None
        """The time of the oldest entry that was not in the log at the begin of the last round, in Unix milliseconds."""

    async def run_round(self, guid: str | None = None) -> int:
        """Append what is in the outboxes, or in that of one GUID, up to a batch; return how many entries were moved."""
        try:
            moved = await self._move(guid)
        except (OutcomeUnknown, StoreUnavailable):  # a slow server may not do as much within the time limit
            self._limit = max(1, self._limit // 2)
            raise
        if moved:
            self._limit = min(2 * self._limit, BATCH)
        return moved

    async def _move(self, guid: str | None) -> int:
        head = await self.head()
        batch = await self._operations.read(partial(self._read_outboxes, {} if guid is None else {"_id": guid}))
        if guid is None:
            self.pending = batch.pending
        if not batch.items:
            return 0
        moved = await self._append(head, batch)
        if moved:
            await self._operations.write(partial(self._remove, moved))
        return len(moved)

    async def head(self) -> Head:
        """Return the newest entry that a majority has."""
        newest = self._log.find({}, {"total": 1}).sort("_id", -1).limit(1)
        found = await self._operations.read(partial(newest.to_list, 1))
        return Head(found[0]["_id"], found[0]["total"]) if found else Head(0, 0)

    async def _read_outboxes(self, whose: Document) -> Batch:
        items: list[_Item] = []
        pending, size_bytes, read_at = None, 0, 0
        pipeline: list[Document] = [
            {"$match": {**IS_PENDING, **whose}},
            {"$sort": {"g.pending": 1}},
            {"$limit": self._limit},
            {"$project": {"g": 1, "now": NOW}},
        ]
        hint = {} if whose else {"hint": BY_PENDING}
        cursor = self._records.aggregate(pipeline, batchSize=50, **hint)
        async for document in cursor:
            if pending is None:
                pending, read_at = document["g"]["pending"], document["now"]
            for each in document["g"]["out"]:
                items.append(_Item(each["id"], document["_id"], each))
                size_bytes += len(each.get("metadata", ""))
            if len(items) >= self._limit or size_bytes >= BATCH_BYTES:
                await cursor.close()
                break
        return Batch(items[: self._limit], pending, read_at)

    async def _append(self, head: Head, batch: Batch) -> Sequence[_Item]:
        """Insert the entries after the head. Return those that a majority has in the log."""
        items, documents = batch.items, _log_documents(head, batch)
        inserted = await self._operations.write(partial(self._insert, documents))
        in_log = dict(zip(items[:inserted], (each["_id"] for each in documents), strict=False))
        if inserted < len(items):
            in_log |= await self._find_in_log(items[inserted:])
        return await self._above_floor(in_log, documents[:inserted])

    async def _insert(self, documents: Sequence[dict[str, Any]]) -> int:
        """Insert the documents in order, up to the first whose number or event exists; return how many."""
        try:
            await self._log.insert_many(documents, ordered=True)
        except BulkWriteError as error:
            faults = error.details["writeErrors"]
            if error.details["writeConcernErrors"] or not faults or faults[0]["code"] != _DUPLICATE_KEY:
                raise
            return int(faults[0]["index"])
        return len(documents)

    async def _find_in_log(self, items: Sequence[_Item]) -> dict[_Item, int]:
        """Return the numbers of those entries that a majority has in the log, from another process."""
        numbers = await self.numbers_of(map(_key_of, items))
        return {item: numbers[_key_of(item)] for item in items if _key_of(item) in numbers}

    async def numbers_of(self, keys: Iterable[Key]) -> Mapping[Key, int]:
        """Return the numbers of those events that a majority has in the log."""
        asked = set(keys)
        members = (sorted(set(values)) for values in zip(*asked, strict=True))
        wanted = {name: {"$in": values} for name, values in zip(KEY, members, strict=True)}
        found = self._log.find(wanted, dict.fromkeys(KEY, 1))
        documents = await self._operations.read(partial(found.to_list, None))
        numbers = {key_of(document): document["_id"] for document in documents}
        return {key: number for key, number in numbers.items() if key in asked}

    async def _above_floor(self, in_log: Mapping[_Item, int], inserted: Sequence[Document]) -> list[_Item]:
        """Return the entries whose numbers are above the floor of the log, and delete others that do not count."""
        floor = await self.floor()
        void = [each for each in inserted if each["_id"] <= floor]
        if void:  # this process was suspended, and the log was cut off meanwhile
            await self._operations.write(partial(self._delete, void))
        own = {each["_id"] for each in inserted}
        for item, number in in_log.items():
            if number <= floor and number not in own and await self._operations.read(partial(self._holds, item)):
                await self._operations.write(partial(self._delete, [{"_id": number, "guid": item.guid}]))
        return [item for item, number in in_log.items() if number > floor]

    async def floor(self) -> int:
        """Return the number of the last entry that was cut off."""
        bounds = await self._operations.read(partial(self._bounds.find_one, {"_id": BOUNDS_ID}))
        return 0 if bounds is None else int(bounds["floor"])

    async def _holds(self, item: _Item) -> bool:
        """Whether the entry is in its outbox. If it is, nobody has appended it with a number that counts."""
        found = await self._records.find_one({"_id": item.guid, "g.out.id": item.id}, {"_id": 1})
        return found is not None

    async def _delete(self, documents: Iterable[Document]) -> None:
        await self._log.bulk_write([DeleteOne({"_id": each["_id"], "guid": each["guid"]}) for each in documents])

    async def _remove(self, moved: Iterable[_Item]) -> None:
        """Take entries out of their outboxes, and delete the documents of records whose purge is in the log."""
        ids: dict[str, list[str]] = defaultdict(list)
        for item in moved:
            ids[item.guid].append(item.id)
        purged = {item.guid for item in moved if item.document["kind"] == PURGED}
        updates = [UpdateOne({"_id": guid}, drained(each)) for guid, each in ids.items()]
        deletions = [DeleteOne({"_id": guid, **IS_PURGED, **IS_DRAINED}) for guid in sorted(purged)]
        await self._records.bulk_write([*updates, *deletions])


def _log_documents(head: Head, batch: Batch) -> list[dict[str, Any]]:
    """Return the documents of the log that hold a batch after the head."""
    documents: list[dict[str, Any]] = []
    total_bytes = head.total_bytes
    for number, item in enumerate(batch.items, head.number + 1):
        documents.append(log_document(item.guid, item.document, number, total_bytes, batch.read_at))
        total_bytes = documents[-1]["total"]
    return documents


def _key_of(item: _Item) -> Key:
    return key_of({**item.document, "guid": item.guid})
