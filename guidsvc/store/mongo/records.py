"""The records in MongoDB, one document each.

A deposed primary that does not know it yet answers a read with stale data. The read of the fence is linearizable, so
its answer proves the primary. A read that ends within `PROOF_SECONDS` of it is valid, because no other primary is
elected that soon; any other read is repeated, linearizably.
"""

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pymongo
from pymongo import IndexModel
from pymongo.errors import BulkWriteError

from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.batching import Batcher, Patience
from guidsvc.runtime.fairness.decoding_turns import FREE_BYTES, VALIDATED_BYTES, DecodingTurns
from guidsvc.store.contract import WOULD_BLOCK, WithoutGroups, WouldBlock
from guidsvc.store.mongo.bulkhead import QUERIES, TIMEOUT_MS, UNANSWERED, Queued
from guidsvc.store.mongo.documents import (
    LATE,
    WITHOUT_OUTBOX,
    Creation,
    Document,
    creation_of,
    expiring,
    filter_of,
    indexed_owner,
    model_of,
    no_later_than,
    same_as,
)
from guidsvc.store.mongo.events import outbox
from guidsvc.store.mongo.events.log import MongoEventLog
from guidsvc.store.mongo.expiry_search import NEAR, ExpiryCount, ExpirySearch, portions_of
from guidsvc.store.mongo.failures import read_failures, write_failures
from guidsvc.store.mongo.fence import MongoFence
from guidsvc.store.mongo.repository import Collection, in_one_reply, linearizable
from guidsvc.telemetry.metrics import StoreMetrics

CLOCK_SECONDS = 10.0
"""Time for which a reading of the server's clock is accurate enough to split a deadline."""
PROOF_SECONDS = 2.0
"""Time for which a fence read proves that its primary is the only one: far less than `electionTimeoutMillis` (10 s)."""
QUERY = 256
"""Maximum number of GUIDs in one query."""
DRAINS = 3
"""Number of times that a write drains a full outbox before it fails."""
SETTLED = 100
"""Maximum number of GUIDs in one linearizable query, so that one reply holds all and no `getMore` is needed."""

FEW = 5_000
"""Below this number of matches, sorting them is faster than a scan in key order; see `store.sqlite.search.finder`."""

_REFUSALS = {11000, *LATE}
"""Codes that reject a creation: the GUID already exists (DuplicateKey), or it is too late."""
_BY_KEY, _BY_USER, _BY_OWNER, _BY_BOTH, _BY_EXPIRE = "_id_", "user_key", "owner_key", "owner_user_key", "expire_key"
_BY = {(False, False): _BY_KEY, (False, True): _BY_USER, (True, False): _BY_OWNER, (True, True): _BY_BOTH}
"""The index with the keys in order, by whether the selection names an owner, and a user."""
_BY_OWNER_EXPIRE = "owner_expire_key"
"""The index on the expiry without the records that have no owner: without access control, it costs a write nothing."""
INDEXES = [
    IndexModel([("user", 1), ("_id", 1), ("expire", 1), ("purge_at", 1)], name=_BY_USER),
    IndexModel([("owner", 1), ("_id", 1), ("expire", 1), ("purge_at", 1)], name=_BY_OWNER),
    IndexModel([("owner", 1), ("user", 1), ("_id", 1), ("expire", 1), ("purge_at", 1)], name=_BY_BOTH),
    IndexModel([("expire", 1), ("_id", 1), ("purge_at", 1)], name=_BY_EXPIRE),
    IndexModel(
        [("owner", 1), ("expire", 1), ("_id", 1), ("purge_at", 1)],
        name=_BY_OWNER_EXPIRE,
        partialFilterExpression={"owner": {"$gt": ""}},
    ),
    *outbox.INDEXES,
]


class _QueuedCreation(Queued):
    __slots__ = ("creation",)

    def __init__(self, creation: Creation, deadline: float) -> None:
        super().__init__(deadline)
        self.creation = creation


class MongoRecords(WithoutGroups):
    """The collection of records.

    `proof_seconds` is how long a fence read proves the primary. It is infinite if only this process writes, because it
    reads from where it wrote. It is 0 on a sharded cluster, because the fence proves only the primary of its own shard.
    """

    def __init__(
        self,
        collection: Collection,
        fence: MongoFence,
        events: MongoEventLog,
        *,
        few: int = FEW,
        proof_seconds: float = PROOF_SECONDS,
        meter: StoreMetrics | None = None,
    ) -> None:
        self._collection = collection
        self._fence = fence
        self._bulkheads = bulkheads = fence.bulkheads
        self._events = events
        self._few = few
        self._proof_seconds = proof_seconds
        self._decoding_turns = DecodingTurns()
        meter = StoreMetrics() if meter is None else meter
        find, settle = partial(_find, collection), partial(_find, linearizable(collection))
        self._seconds = seconds = bulkheads.timeout_ms / 1000
        reading = Patience[str](seconds, lambda _: StoreUnavailable(UNANSWERED))
        self._gets: Batcher[str, Document | None] = Batcher(
            find, limit=QUERY, in_flight=QUERIES, patience=reading, meter=meter.batch("query")
        )
        self._settled: Batcher[str, Document | None] = Batcher(
            settle, limit=SETTLED, in_flight=QUERIES, patience=reading, meter=meter.batch("settle")
        )
        self._creations: Batcher[_QueuedCreation, bool] = Batcher(
            self._create,
            limit=QUERY,
            in_flight=QUERIES,
            patience=Patience(seconds, lambda queued: queued.overdue(OutcomeUnknown)),
            droppable=lambda _: True,
            meter=meter.batch("insert"),
        )

    async def get(self, guid: str, /) -> Record | None:
        if self._is_primary_proven():
            document = await self._gets.ask(guid)
            if self._is_primary_proven():
                return await self._record_of(document)
        return await self.get_linearizable(guid)

    def _is_primary_proven(self) -> bool:
        return self._proof_seconds == math.inf or self._fence.clock.is_known(self._proof_seconds)

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:  # noqa: ARG002  # every read is a round trip
        return WOULD_BLOCK

    async def get_for_update(self, guid: str, /) -> Record | None:
        return await self.get(guid)

    async def get_linearizable(self, guid: str, /) -> Record | None:
        return await self._record_of(await self._settled.ask(guid))

    async def _record_of(self, document: Document | None) -> Record | None:
        """Convert a document, in a turn if its metadata is large: it is validated, and one query finds many."""
        if document is None:
            return None
        if _metadata_size(document) > FREE_BYTES:
            await self._decoding_turns.take_own_turn()
        return model_of(Record, document)

    async def _records_of(self, documents: Sequence[Document]) -> list[Record]:
        """Convert documents, in a turn for each VALIDATED_BYTES of metadata after the first."""
        records, size_bytes = [], 0
        for document in documents:
            size_bytes += _metadata_size(document)
            if size_bytes > VALIDATED_BYTES:
                await self._decoding_turns.take_own_turn()
                size_bytes = _metadata_size(document)
            records.append(model_of(Record, document))
        return records

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        if new is not old:
            await self._events.note_gap()
        with write_failures():
            swapped = await self._swap(old, new, not_after, origin)
        if swapped:
            self._events.wake()
        return swapped

    async def find(self, selection: Selection, after: str, limit: int) -> list[Record]:
        wanted = filter_of(selection)
        wanted["_id"] = {"$gt": after} | wanted.get("_id", {})

        async def page() -> list[dict[str, Any]]:
            index = await self.index_for(selection)
            found = self._collection.find(wanted, WITHOUT_OUTBOX).hint(index).sort("_id", 1)
            return await in_one_reply(found, limit).to_list(limit)

        with read_failures():
            documents = await self._bulkheads.finds.run(page, group=selection.turn)
        return await self._records_of(documents)

    async def find_by_expire(self, selection: Selection, after: Position, limit: int) -> list[Record]:
        search = ExpirySearch(
            self._collection, selection, index=_by_expire(selection), key_index=_sparse_key_index(selection)
        )
        with read_failures():
            page = partial(search.page, after, limit)
            documents = await self._bulkheads.finds.run(page, group=selection.turn)
        return await self._records_of(documents)

    async def count(self, selection: Selection) -> int:
        return await self._count(self._collection, selection)

    async def count_linearizable(self, selection: Selection) -> int:
        return await self._count(linearizable(self._collection), selection)

    async def count_by_expire(self, bounds: Sequence[int], kept_at: int) -> list[int]:
        count = ExpiryCount(self._collection, kept_at, index=_BY_EXPIRE)
        counts: list[int] = []
        with read_failures():
            for portion in portions_of(bounds):
                counts += await self._bulkheads.counts.run(partial(count.between, portion))
        return counts

    async def drain(self) -> None:
        """Wait until every batched operation has ended."""
        for batcher in (self._gets, self._settled, self._creations):
            await batcher.drain()

    async def index_for(self, selection: Selection) -> str:
        """Choose the fastest index for a page. MongoDB would reuse its own choice for other bounds.

        For an owner, only entries of the owner are counted: the time would reveal how many records others have.
        """
        if selection.by_expire:
            # If an owner's user is named, each match costs a look-up of its document: fewer of them are worth it.
            few = min(NEAR, self._few) if selection.owner and selection.user is not None else self._few
            index, wanted = _by_expire(selection), indexed_owner(selection) | expiring(selection)
            if await self._collection.count_documents(wanted, hint=index, limit=few) < few:
                return index
        return _by_key(selection)

    async def _swap(self, old: Record | None, new: Record | None, not_after: int | None, origin: Origin) -> bool:
        since = time.monotonic()
        if old is None:
            if new is None:
                raise ValueError("a swap of nothing for nothing")
            # A group shares one command and its time limit, so each must begin that long before its deadline.
            begin = None if not_after is None else not_after - TIMEOUT_MS
            creation = creation_of(outbox.created(new, self._events.policy, origin), begin)
            return await self._creations.ask(_QueuedCreation(creation, since + self._seconds))
        if not_after is not None:
            await self._fence.require_clock(CLOCK_SECONDS)
        replace = partial(self._replace, old, new, not_after, origin)
        for _ in range(DRAINS):
            swapped = await self._bulkheads.updates.run(replace, since=since, is_droppable=True)
            if swapped is not None:
                return swapped
            await self._events.drain_outbox(old.guid)
        raise StoreUnavailable("MongoDB: the event log accepts no more events of this record; retry later")

    async def _replace(self, old: Record, new: Record | None, not_after: int | None, origin: Origin) -> bool | None:
        """Replace a record. Called when it can be sent, because the deadline is split by the time that is left.

        None if its outbox must be drained first.
        """
        if not_after is None:
            return await self._change(old, new, origin, {})
        deadline = self._fence.clock.deadline(not_after, self._bulkheads.timeout_ms)
        if deadline.run_ms == 0:
            return False
        with pymongo.timeout(deadline.run_ms / 1000):  # sets the maxTimeMS of the command
            return await self._change(old, new, origin, no_later_than(deadline.begin_ms))

    async def _change(self, old: Record, new: Record | None, origin: Origin, timely: Document) -> bool | None:
        same = {**same_as(old), **timely}
        if new is None:
            done = (await self._collection.delete_one(same | outbox.IS_DRAINED)).deleted_count
        else:
            same |= outbox.is_replaceable(old, new)
            update = outbox.swapped(old, new, self._events.policy, origin)
            done = (await self._collection.update_one(same | outbox.HAS_ROOM, update)).matched_count
        if done:
            return True
        # If the record is there all the same, its outbox was in the way, and may have been drained since.
        return None if await self._collection.find_one(same, {"_id": 1}) else False

    async def _count(self, collection: Collection, selection: Selection) -> int:
        by_key = _by_key(selection)
        index = _BY_EXPIRE if by_key == _BY_KEY else by_key
        count = partial(collection.count_documents, filter_of(selection), hint=index)
        with read_failures():
            return int(await self._bulkheads.counts.run(count, group=selection.turn))

    async def _create(self, queued: list["_QueuedCreation"]) -> list[bool | StoreUnavailable]:
        """Create the records that have time left. Return for each whether it was created, or why it was not sent."""
        answers: list[bool | StoreUnavailable] = []
        creations = []
        for each in queued:
            try:
                each.send()
            except StoreUnavailable as error:
                answers.append(error)
            else:
                answers.append(True)
                creations.append(each.creation)
        created = iter(await self._write(creations) if creations else ())
        return [next(created) if answer is True else answer for answer in answers]

    async def _write(self, creations: list[Creation]) -> list[bool]:
        """Create the records in one bulk write; return which were created, rather than rejected as existing or late."""
        try:
            await self._collection.bulk_write(creations, ordered=False)
        except BulkWriteError as error:
            refused = {fault["index"] for fault in error.details["writeErrors"] if fault["code"] in _REFUSALS}
            if len(refused) < len(error.details["writeErrors"]) or error.details["writeConcernErrors"]:
                raise
            return [place not in refused for place in range(len(creations))]
        return [True] * len(creations)


async def _find(collection: Collection, guids: list[str]) -> list[Document | None]:
    unique = list(set(guids))
    with read_failures():
        found = await collection.find({"_id": {"$in": unique}}, WITHOUT_OUTBOX).to_list(len(unique))
    documents: dict[str, dict[str, Any]] = {document["_id"]: document for document in found}
    return [documents.get(guid) for guid in guids]


def _metadata_size(document: Document) -> int:
    metadata = document.get("metadata")
    return len(metadata) if isinstance(metadata, str) else 0


def _by_expire(selection: Selection) -> str:
    """Return the index on the expiry. That of an owner begins with the owner."""
    return _BY_OWNER_EXPIRE if selection.owner else _BY_EXPIRE


def _sparse_key_index(selection: Selection) -> str | None:
    """Return the index on the keys that leads to the matches, if few entries of the index on the expiry may match."""
    return None if selection.user is None and selection.owner != "" else _by_key(selection)


def _by_key(selection: Selection) -> str:
    return _BY[selection.owner is not None, selection.user is not None]
