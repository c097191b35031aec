"""The sequencer: appends the entries in the outboxes of records to the log. It is correct without clock and lease.

Any number of processes may append, also one that was suspended meanwhile:

- An appender inserts at the number after the newest entry only, and numbers are unique. So the log has no gaps.
- The key of an event is unique too. So the log has no duplicates.
- An entry leaves its outbox only once a majority has it in the log. So none is lost.
- An outbox is in the order of the changes, and is appended in its order. So the order per GUID is right.

An appender reads the newest number *before* the outboxes, and inserts once before it reads both again. With that, the
log can be cut off: see `guidsvc.store.mongo.events.retention`. The number of an entry that was appended too late, by a
process that was suspended, is not above the floor of the log. Such an entry does not count.

An invalid outbox is skipped, and read again after `PASS_SECONDS`, because it may have been corrected. Its valid entries
wait too, because they may not overtake the others.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog
from pymongo import DeleteOne, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from guidsvc.domain.events.entry import KINDS, PURGED, Entry
from guidsvc.errors import CorruptRecord, OutcomeUnknown, StoreUnavailable
from guidsvc.store.mongo.documents import NOW, OUTBOX, Document
from guidsvc.store.mongo.events.entry_documents import KEY, key_of, key_of_entry, log_document
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.outbox import (
    BY_PENDING,
    IS_DRAINED,
    IS_PENDING,
    IS_PURGED,
    InvalidOutboxes,
    Outbox,
    drained,
    outbox_in,
    repaired,
)
from guidsvc.store.mongo.repository import Collection

BATCH = 200
"""Maximum number of entries that are appended at once."""
BATCH_BYTES = 1024 * 1024
"""A batch ends early once its entries take this many bytes."""
GROWTH = BATCH // 10
"""By how many entries a batch may grow after each success, once it was halved because a round failed."""
MIN_REPLY = 50
"""Minimum number of outboxes to ask for at once, even if few have filled the last batch."""
BY_EVENT, BY_OWNER = "event", "owner"
LOG_INDEXES = [
    IndexModel([(name, 1) for name in KEY], name=BY_EVENT, unique=True),
    IndexModel([("owner", 1), ("_id", 1)], name=BY_OWNER, partialFilterExpression={"owner": {"$gt": ""}}),
]
BOUNDS_ID = "log"
IS_NUMBERED: dict[str, Any] = {"_id": {"$gte": 0}}
"""The filter that matches entries, but no documents whose `_id` has another type."""
_DUPLICATE_KEY = 11_000

_log = structlog.get_logger(__name__)


class Head(NamedTuple):
    """The newest entry: its number, and the size of all entries up to it, including removed ones."""

    number: int
    total_bytes: int


class Batch(NamedTuple):
    """Entries in outboxes, oldest outbox first."""

    entries: Sequence[Entry]
    pending: int | None
    """The time of the oldest entry in Unix milliseconds; None if there is none."""
    read_at: int
    """When they were read, by the server's clock, in Unix milliseconds; 0 if there are none."""


class Sequencer:
    """Appends entries. `records` are the documents with the outboxes; `counts` has the number appended of each kind."""

    def __init__(
        self, records: Collection, log: Collection, bounds: Collection, operations: Operations, counts: Counter[str]
    ) -> None:
        self._records = records
        self._log = log
        self._bounds = bounds
        self._operations = operations
        self._limit = BATCH
        self._reply_size = BATCH + 1
        """Number of outboxes to ask for at once: one more than a batch has, unless fewer have filled the last one."""
        self._invalid = InvalidOutboxes()
        self._counts = counts
        counts.update(dict.fromkeys(KINDS, 0))
        self.pending: int | None = None
        """The time of the oldest entry that was not in the log at the begin of the last round, in Unix milliseconds."""

    async def run_round(self, guid: str | None = None) -> int:
        """Append the entries in the outboxes, or in that of one GUID, up to a batch; return the number moved."""
        try:
            moved = await self._move(guid)
        except (OutcomeUnknown, StoreUnavailable):  # a slow server may not do as much within the time limit
            self._limit = max(1, self._limit // 2)
            raise
        if moved:
            self._limit = min(self._limit + GROWTH, BATCH)
        return moved

    async def _move(self, guid: str | None) -> int:
        head = await self.head()
        batch = await self._operations.read(partial(self._read_outboxes, guid))
        if guid is None:
            self.pending = batch.pending
        if not batch.entries:
            return 0
        moved = await self._append(head, batch)
        if moved:
            await self._operations.write(partial(self._remove, moved))
        return len(moved)

    async def look(self) -> None:
        """Record the time of the oldest entry that is not in the log."""
        self.pending = (await self._operations.read(partial(self._read_outboxes, None))).pending

    async def head(self) -> Head:
        """Return the newest entry that a majority has."""
        newest = self._log.find(IS_NUMBERED, {"total": 1}).sort("_id", -1).limit(1)
        found = await self._operations.read(partial(newest.to_list, 1))
        if not found:
            return Head(0, 0)
        total = found[0].get("total")
        return Head(found[0]["_id"], total if isinstance(total, int) else await self._last_total())

    async def _last_total(self) -> int:
        """Return the size up to the newest entry that has one."""
        newest = self._log.find({"total": {"$gte": 0}}, {"total": 1}).sort("_id", -1).hint("_id_").limit(1)
        found = await self._operations.read(partial(newest.to_list, 1))
        return int(found[0]["total"]) if found else 0

    async def repair(self, guid: str) -> None:
        """Remove the invalid items from the outbox of a GUID, because they leave no room for valid entries."""
        found = await self._operations.read(partial(self._records.find_one, {"_id": guid}, {OUTBOX: 1}))
        if found is None or OUTBOX not in found:
            return
        try:
            outbox_in(guid, found[OUTBOX])
        except CorruptRecord as error:
            same = {"_id": guid, OUTBOX: {"$eq": found[OUTBOX]}}
            update = repaired(guid, found[OUTBOX])
            await self._operations.write(partial(self._records.update_one, same, update))
            _log.error("invalid events removed from outbox", guid=guid, error=str(error))
        self._invalid.forget(guid)

    async def _read_outboxes(self, guid: str | None) -> Batch:
        """Read outboxes up to a batch. If all that were read are invalid, read those behind them."""
        while True:
            batch, invalid = await self._read_valid({"_id": guid} if guid is not None else self._invalid.filter())
            if batch.entries or not invalid or guid is not None:
                return batch

    async def _read_valid(self, whose: Document) -> tuple[Batch, int]:
        """Return the valid outboxes among the oldest ones, and how many of these are invalid."""
        entries: list[Entry] = []
        pending, size_bytes, read_at, count, invalid = None, 0, 0, 0, 0
        pipeline: list[Document] = [
            {"$match": {**IS_PENDING, **whose}},
            {"$sort": {"g.pending": 1}},
            {"$limit": self._limit},
            {"$project": {"g": 1, "now": NOW}},
        ]
        hint = {} if isinstance(whose.get("_id"), str) else {"hint": BY_PENDING}
        cursor = self._records.aggregate(pipeline, batchSize=min(self._limit + 1, self._reply_size), **hint)
        async for document in cursor:
            count += 1
            read_at = read_at or document["now"]
            outbox = self._outbox_in(document)
            if outbox is None:
                invalid += 1
                continue
            pending = outbox.pending if pending is None else pending
            entries += outbox.entries
            size_bytes += sum(each.text_bytes for each in outbox.entries)
            if len(entries) >= self._limit or size_bytes >= BATCH_BYTES:
                await cursor.close()
                break
        is_full = size_bytes >= BATCH_BYTES
        self._reply_size = max(MIN_REPLY, count + 1) if is_full else min(2 * self._reply_size, BATCH + 1)
        return Batch(entries[: self._limit], pending, read_at), invalid

    def _outbox_in(self, document: Document) -> Outbox | None:
        """Return the outbox in a document; None if it is invalid, and is skipped from now on."""
        try:
            return outbox_in(document["_id"], document[OUTBOX])
        except CorruptRecord as error:
            self._invalid.add(document["_id"], error)
            return None

    async def _append(self, head: Head, batch: Batch) -> Sequence[Entry]:
        """Insert the entries after the head. Return those that a majority has in the log."""
        entries, documents = batch.entries, _log_documents(head, batch)
        inserted = await self._operations.write(partial(self._insert, documents))
        self._counts.update(entry.kind for entry in entries[:inserted])
        in_log = dict(zip(entries[:inserted], (each["_id"] for each in documents), strict=False))
        if inserted < len(entries):
            in_log |= await self._find_in_log(entries[inserted:])
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

    async def _find_in_log(self, entries: Sequence[Entry]) -> dict[Entry, int]:
        """Return the numbers of those entries that a majority has in the log, from another process."""
        keys = {key_of_entry(entry) for entry in entries}
        members = (sorted(set(values)) for values in zip(*keys, strict=True))
        wanted = {name: {"$in": values} for name, values in zip(KEY, members, strict=True)}
        found = self._log.find(wanted, dict.fromkeys(KEY, 1)).batch_size(BATCH + 1)
        documents = await self._operations.read(partial(found.to_list, None))
        numbers = {key_of(document): document["_id"] for document in documents}  # of other events, too
        return {entry: numbers[key] for entry in entries if (key := key_of_entry(entry)) in numbers}

    async def _above_floor(self, in_log: Mapping[Entry, int], inserted: Sequence[Document]) -> list[Entry]:
        """Return the entries whose numbers are above the floor of the log, and delete others that do not count."""
        floor = await self.floor()
        void = [each for each in inserted if each["_id"] <= floor]
        if void:  # this process was suspended, and the log was trimmed meanwhile
            await self._operations.write(partial(self._delete, void))
        own = {each["_id"] for each in inserted}
        for entry, number in in_log.items():
            if number <= floor and number not in own and await self._operations.read(partial(self._holds, entry)):
                await self._operations.write(partial(self._delete, [{"_id": number, "guid": entry.guid}]))
        return [entry for entry, number in in_log.items() if number > floor]

    async def floor(self) -> int:
        """Return the number of the newest removed entry."""
        bounds = await self._operations.read(partial(self._bounds.find_one, {"_id": BOUNDS_ID}))
        return 0 if bounds is None else int(bounds["floor"])

    async def _holds(self, entry: Entry) -> bool:
        """Whether the entry is in its outbox. If it is, nobody has appended it with a number that counts."""
        found = await self._records.find_one({"_id": entry.guid, "g.out.id": entry.id}, {"_id": 1})
        return found is not None

    async def _delete(self, documents: Iterable[Document]) -> None:
        await self._log.bulk_write([DeleteOne({"_id": each["_id"], "guid": each["guid"]}) for each in documents])

    async def _remove(self, moved: Iterable[Entry]) -> None:
        """Take entries out of their outboxes, and delete the documents of records whose purge is in the log."""
        ids: dict[str, list[str]] = defaultdict(list)
        for entry in moved:
            ids[entry.guid].append(entry.id)
        purged = {entry.guid for entry in moved if entry.kind == PURGED}
        updates = [UpdateOne({"_id": guid}, drained(each)) for guid, each in ids.items()]
        deletions = [DeleteOne({"_id": guid, **IS_PURGED, **IS_DRAINED}) for guid in sorted(purged)]
        await self._records.bulk_write([*updates, *deletions])


def _log_documents(head: Head, batch: Batch) -> list[dict[str, Any]]:
    """Return the documents of the log that hold a batch after the head."""
    documents: list[dict[str, Any]] = []
    total_bytes = head.total_bytes
    for number, entry in enumerate(batch.entries, head.number + 1):
        documents.append(log_document(entry, number, total_bytes, batch.read_at))
        total_bytes = documents[-1]["total"]
    return documents
