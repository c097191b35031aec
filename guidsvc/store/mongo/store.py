"""The MongoDB store: one collection for the records, accessed through motor.

This is the only file that imports motor, so that PyMongo's own asynchronous client can replace it. Errors of the driver
never leave this file. Every operation on one record carries its `_id`, so a cluster sharded by the hash of `_id` sends
it to one shard. Writes are acknowledged by a majority, with journal; reads return only majority-committed data.

A deposed primary that does not know it yet answers such a read with stale data. The read of the fence is linearizable,
so its answer proves the primary. A read that ends within `PROOF_SECONDS` of it is valid, because no other primary is
elected that soon; any other read is repeated, linearizably.
"""

import math
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from secrets import token_hex
from typing import Any

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import IndexModel
from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern

from guidsvc.connection_urls import connect_with_redacted_errors, redact
from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import CorruptRecord, GuidsvcError, NoStore, OutcomeUnknown, StartError, StoreUnavailable
from guidsvc.runtime.batching import Batcher
from guidsvc.store.cache_fence import NEW, Fence, FenceReading, Mode
from guidsvc.store.contract import WOULD_BLOCK, WouldBlock
from guidsvc.store.mongo.deadline import Deadline, StoreClock
from guidsvc.store.mongo.documents import (
    LATE,
    NOW,
    Creation,
    Document,
    Model,
    creation_of,
    document_of,
    expiring,
    filter_of,
    model_of,
    no_later_than,
    same_as,
    usage_of,
)
from guidsvc.store.mongo.error_reason import reason_of
from guidsvc.telemetry.metrics import StoreMetrics

DATABASE, COLLECTION, RECEIPTS, IDENTITY, FENCE = "guidsvc", "records", "receipts", "identity", "fence"
KEYS, LEDGERS = "keys", "ledgers"
"""Names of the collections: records, receipts, store id, fence, API keys, ledgers; and of the default database."""
TIMEOUT_MS = 2_000
"""Time limit for an operation, all retries included."""
CLOCK_SECONDS = 10.0
"""How long a reading of the server's clock is accurate enough to split a deadline."""
PROOF_SECONDS = 2.0
"""How long a fence read proves that its primary is the only one: far less than `electionTimeoutMillis` (10 s)."""
QUERY, QUERIES = 256, 16
"""Maximum number of GUIDs in one query, and of concurrent queries."""
SETTLED = 100
"""Maximum number of GUIDs in one linearizable query, so that one reply holds all and no `getMore` is needed."""

FEW = 5_000
"""Below this number of matches, sorting them is faster than a scan in key order; see `guidsvc.store.sqlite.search`."""

_REFUSALS = {11000, *LATE}
"""Codes that reject a creation: the GUID already exists (DuplicateKey), or it is too late."""
_BY_KEY, _BY_USER, _BY_OWNER, _BY_BOTH, _BY_EXPIRE = "_id_", "user_key", "owner_key", "owner_user_key", "expire"
_BY = {(False, False): _BY_KEY, (False, True): _BY_USER, (True, False): _BY_OWNER, (True, True): _BY_BOTH}
"""The index with the keys in order, by whether the selection names an owner, and a user."""
_INDEXES = [
    IndexModel("purge_at", name="purge_at_ttl", expireAfterSeconds=0),
    IndexModel([("user", 1), ("_id", 1), ("expire", 1), ("purge_at", 1)], name=_BY_USER),
    IndexModel([("owner", 1), ("_id", 1), ("expire", 1), ("purge_at", 1)], name=_BY_OWNER),
    IndexModel([("owner", 1), ("user", 1), ("_id", 1), ("expire", 1), ("purge_at", 1)], name=_BY_BOTH),
    IndexModel([("expire", 1), ("purge_at", 1)], name=_BY_EXPIRE),
]
_RECEIPT_INDEXES = [IndexModel("purge_at", name="purge_at_ttl", expireAfterSeconds=0)]
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
_MAJORITY = ReadConcern("majority")
_Collection = AsyncIOMotorCollection[dict[str, Any]]


@asynccontextmanager
async def open_mongo(
    url: str,
    *,
    exclusive: bool = False,
    timeout_ms: int = TIMEOUT_MS,
    few: int = FEW,
    meter: StoreMetrics | None = None,
) -> AsyncIterator["MongoStore"]:
    """Open the store, create missing indexes, and close the connections at the end."""
    client = _client(url, timeout_ms)
    try:
        collection = client.get_default_database(DATABASE).get_collection(
            COLLECTION, codec_options=_CODEC, read_concern=_MAJORITY
        )
        is_sharded = await _prepare(collection, exclusive=exclusive)
        proof_seconds = math.inf if exclusive else 0.0 if is_sharded else PROOF_SECONDS
        yield MongoStore(collection, few=few, timeout_ms=timeout_ms, proof_seconds=proof_seconds, meter=meter)
    finally:
        client.close()


async def require_mongo(url: str, *, timeout_ms: int = TIMEOUT_MS) -> None:
    """Return if the database holds a store; NoStore if it does not, StartError if MongoDB cannot be used."""
    client = _client(url, timeout_ms)
    try:
        database = client.get_default_database(DATABASE)
        if await database[IDENTITY].find_one({"_id": COLLECTION}) is None:
            raise NoStore(f"{redact(url)}, in the database {database.name}")
    except PyMongoError as error:
        raise _unusable(error) from error
    finally:
        client.close()


def _client(url: str, timeout_ms: int) -> AsyncIOMotorClient[dict[str, Any]]:
    make: Callable[[str], AsyncIOMotorClient[dict[str, Any]]] = partial(
        _strictly,
        appname="guidsvc",
        w="majority",
        journal=True,
        retryWrites=True,
        retryReads=True,
        readPreference="primary",
        timeoutMS=timeout_ms,
        serverSelectionTimeoutMS=timeout_ms,
        connectTimeoutMS=timeout_ms,
        waitQueueTimeoutMS=timeout_ms,
    )
    return connect_with_redacted_errors("store_url", url, make, PyMongoError, ValueError, OSError, UserWarning)


def _strictly(url: str, **options: Any) -> AsyncIOMotorClient[dict[str, Any]]:
    """Create a client; turn driver warnings, such as that of an unknown option, into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return AsyncIOMotorClient(url, **options)


async def _prepare(collection: _Collection, *, exclusive: bool) -> bool:
    """Create what is missing; return whether the cluster is sharded."""
    try:
        await collection.create_indexes(_INDEXES)
        await collection.database[RECEIPTS].create_indexes(_RECEIPT_INDEXES)
        if exclusive:
            await collection.database[RECEIPTS].update_many({"answer": None}, {"$set": {"leased_until": 0}})
        await collection.database[IDENTITY].update_one(
            {"_id": COLLECTION}, {"$set" if exclusive else "$setOnInsert": {"name": token_hex(8)}}, upsert=True
        )
        await collection.database[FENCE].update_one(
            {"_id": COLLECTION}, {"$setOnInsert": _fence_document(NEW)}, upsert=True
        )
        return bool((await collection.database.command("hello")).get("msg") == "isdbgrid")
    except PyMongoError as error:
        raise _unusable(error) from error


def _unusable(error: PyMongoError) -> StartError:
    """Convert an error to a StartError, without the topology or the reply that it quotes."""
    return StartError(f"store_url: MongoDB cannot be used: {reason_of(error)}")


class MongoStore:
    """Records in MongoDB, one document each.

    `proof_seconds` is how long a fence read proves the primary. It is infinite if only this process writes, because it
    reads from where it wrote. It is 0 on a sharded cluster, because the fence proves only the primary of its own shard.
    """

    def __init__(
        self,
        collection: _Collection,
        *,
        few: int = FEW,
        timeout_ms: int = TIMEOUT_MS,
        proof_seconds: float = PROOF_SECONDS,
        meter: StoreMetrics | None = None,
    ) -> None:
        self._timeout_ms = timeout_ms
        self._proof_seconds = proof_seconds
        meter = StoreMetrics() if meter is None else meter
        self._collection = collection
        self._receipts = collection.database.get_collection(RECEIPTS, codec_options=_CODEC, read_concern=_MAJORITY)
        self._keys = collection.database.get_collection(KEYS, codec_options=_CODEC, read_concern=_MAJORITY)
        self._proven_keys = _linearizable(self._keys)
        self._ledgers = collection.database.get_collection(LEDGERS, codec_options=_CODEC, read_concern=_MAJORITY)
        self._fence = _linearizable(collection.database[FENCE])
        self._few = few
        self._clock = StoreClock()
        find, settle = partial(self._find, collection), partial(self._find, _linearizable(collection))
        queries = meter.batch("query")
        self._gets: Batcher[str, Document | None] = Batcher(find, limit=QUERY, in_flight=QUERIES, meter=queries)
        self._settled: Batcher[str, Document | None] = Batcher(
            settle, limit=SETTLED, in_flight=QUERIES, meter=meter.batch("settle")
        )
        self._creations: Batcher[Creation, bool] = Batcher(
            self._create, limit=QUERY, in_flight=QUERIES, droppable=lambda _: True, meter=meter.batch("insert")
        )

    async def get(self, guid: str) -> Record | None:
        if self._is_primary_proven():
            document = await self._gets.ask(guid)
            if self._is_primary_proven():
                return None if document is None else model_of(Record, document)
        return await self.get_linearizable(guid)

    def _is_primary_proven(self) -> bool:
        return self._proof_seconds == math.inf or self._clock.is_known(self._proof_seconds)

    def get_nowait(self, guid: str) -> Record | WouldBlock | None:  # noqa: ARG002  # whichever it is, it is far away
        return WOULD_BLOCK

    async def get_for_update(self, guid: str) -> Record | None:
        return await self.get(guid)

    async def get_linearizable(self, guid: str) -> Record | None:
        document = await self._settled.ask(guid)
        return None if document is None else model_of(Record, document)

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        try:
            return await self._swap(old, new, not_after)
        except PyMongoError as error:
            raise _write_failure(error) from error

    async def fence(self) -> FenceReading:
        asked = time.monotonic()
        try:
            (found,) = await self._fence.aggregate(
                [{"$match": {"_id": COLLECTION}}, {"$addFields": {"now": NOW}}]
            ).to_list(1)
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error
        except ValueError as error:
            raise CorruptRecord("the store has lost its fence") from error
        self._clock.set(asked, found["now"])
        return FenceReading(Fence(Mode(found["mode"]), found["gen"], found["boot"]), found["now"])

    async def swap_fence(self, old: Fence, new: Fence) -> bool:
        try:
            done = await self._fence.update_one(_fence_document(old), {"$set": _fence_document(new)})
        except PyMongoError as error:
            raise _write_failure(error) from error
        return bool(done.matched_count == 1)

    async def find(self, selection: Selection, after: str, limit: int) -> list[Record]:
        wanted = filter_of(selection)
        wanted["_id"] = {"$gt": after} | wanted.get("_id", {})
        try:
            index = await self.index_for(selection)
            documents = await self._collection.find(wanted).hint(index).sort("_id", 1).limit(limit).to_list(limit)
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error
        return [model_of(Record, document) for document in documents]

    async def count(self, selection: Selection) -> int:
        return await self._count(self._collection, selection)

    async def count_linearizable(self, selection: Selection) -> int:
        return await self._count(_linearizable(self._collection), selection)

    async def _count(self, collection: _Collection, selection: Selection) -> int:
        by_key = _by_key(selection)
        index = _BY_EXPIRE if by_key == _BY_KEY else by_key
        try:
            return int(await collection.count_documents(filter_of(selection), hint=index))
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error

    async def receipt(self, key: str) -> Receipt | None:
        return await _one(self._receipts, Receipt, key)

    async def swap_receipt(self, old: Receipt | None, new: Receipt | None) -> bool:
        return await _swap_one(self._receipts, old, new)

    async def key(self, key_id: str) -> ApiKey | None:
        return await _one(self._proven_keys, ApiKey, key_id)

    async def keys(self, after: str, limit: int) -> list[ApiKey]:
        try:
            documents = await self._keys.find({"_id": {"$gt": after}}).sort("_id", 1).limit(limit).to_list(limit)
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error
        return [model_of(ApiKey, document) for document in documents]

    async def swap_key(self, old: ApiKey | None, new: ApiKey | None) -> bool:
        return await _swap_one(self._keys, old, new)

    async def ledger(self, owner: str) -> QuotaLedger | None:
        return await _one(self._ledgers, QuotaLedger, owner)

    async def swap_ledger(self, old: QuotaLedger | None, new: QuotaLedger) -> bool:
        return await _swap_one(self._ledgers, old, new)

    async def receipt_usage(self, prefix: str) -> ReceiptUsage:
        try:
            found = await self._receipts.aggregate(usage_of(prefix)).to_list(1)
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error
        return ReceiptUsage(found[0]["number"], found[0]["answer_bytes"]) if found else ReceiptUsage(0, 0)

    async def purge(self, before: int, limit: int) -> int:
        return await _purge(self._collection, before, limit)

    async def purge_receipts(self, before: int, limit: int) -> int:
        return await _purge(self._receipts, before, limit)

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        """Do nothing: MongoDB does not enforce claims."""

    async def store_id(self) -> str:
        try:
            found = await self._collection.database[IDENTITY].find_one({"_id": COLLECTION})
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error
        if found is None:
            raise CorruptRecord("the store has lost its identity")
        return str(found["name"])

    async def ping(self) -> None:
        try:
            await self._collection.database.command("ping")
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error

    async def index_for(self, selection: Selection) -> str:
        """Choose the fastest index for a page. MongoDB would reuse its own choice for other bounds."""
        if selection.by_expire:
            few = await self._collection.count_documents(expiring(selection), hint=_BY_EXPIRE, limit=self._few)
            if few < self._few:
                return _BY_EXPIRE
        return _by_key(selection)

    async def _find(self, collection: _Collection, guids: list[str]) -> list[Document | None]:
        unique = list(set(guids))
        try:
            found = await collection.find({"_id": {"$in": unique}}).to_list(len(unique))
        except PyMongoError as error:
            raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error
        documents = {document["_id"]: document for document in found}
        return [documents.get(guid) for guid in guids]

    async def _swap(self, old: Record | None, new: Record | None, not_after: int | None) -> bool:
        if old is None:
            if new is None:
                raise ValueError("a swap of nothing for nothing")
            # A group shares one command and its time limit, so each must begin that long before its deadline.
            begin = None if not_after is None else not_after - TIMEOUT_MS
            return await self._creations.ask(creation_of(new, begin))
        if not_after is None:
            return await self._change(same_as(old), new)
        deadline = await self._deadline(not_after)
        if deadline.run_ms == 0:
            return False
        with pymongo.timeout(deadline.run_ms / 1000):  # sets the maxTimeMS of the command
            return await self._change(same_as(old) | no_later_than(deadline.begin_ms), new)

    async def _change(self, same: dict[str, Any], new: Record | None) -> bool:
        if new is None:
            return (await self._collection.delete_one(same)).deleted_count == 1
        return (await self._collection.replace_one(same, document_of(new))).matched_count == 1

    async def _deadline(self, not_after: int) -> Deadline:
        """Return when a write must begin, and how long it may run, so that it takes effect in time or never."""
        if not self._clock.is_known(CLOCK_SECONDS):
            await self.fence()
        return self._clock.deadline(not_after, self._timeout_ms)

    async def _create(self, creations: list[Creation]) -> list[bool]:
        """Create the records in one bulk write; return which were created, rather than rejected as existing or late."""
        try:
            await self._collection.bulk_write(creations, ordered=False)
        except BulkWriteError as error:
            refused = {fault["index"] for fault in error.details["writeErrors"] if fault["code"] in _REFUSALS}
            if len(refused) < len(error.details["writeErrors"]) or error.details["writeConcernErrors"]:
                raise
            return [place not in refused for place in range(len(creations))]
        return [True] * len(creations)


def _fence_document(fence: Fence) -> Document:
    return {"mode": fence.mode, "gen": fence.gen, "boot": fence.epoch}


async def _one(collection: _Collection, model: type[Model], key: str) -> Model | None:
    """Return the model with this key, or None if it is absent."""
    try:
        document = await collection.find_one({"_id": key})
    except PyMongoError as error:
        raise StoreUnavailable(f"MongoDB: {reason_of(error)}") from error
    return None if document is None else model_of(model, document)


async def _swap_one(collection: _Collection, old: Model | None, new: Model | None) -> bool:
    """Replace `old` with `new`; None for either means absent. Return False if `old` is not what is stored."""
    try:
        if old is None and new is not None:
            await collection.insert_one(document_of(new))
            return True
        same = {} if old is None else same_as(old)
        if new is None:
            return (await collection.delete_one(same)).deleted_count == 1
        return (await collection.replace_one(same, document_of(new))).matched_count == 1
    except DuplicateKeyError:
        return False
    except BSONError as error:
        raise StoreUnavailable(f"MongoDB cannot hold this: {type(error).__name__}") from error
    except PyMongoError as error:
        raise _write_failure(error) from error


def _linearizable(collection: _Collection) -> _Collection:
    """Return the collection with linearizable reads, which show every earlier write, even before a majority has it."""
    return collection.with_options(read_concern=ReadConcern("linearizable"))


async def _purge(collection: _Collection, before: int, limit: int) -> int:
    due = {"purge_at": {"$lt": DatetimeMS(before * 1000)}}
    try:
        found = await collection.find(due, {"_id": 1}).limit(limit).to_list(limit)
        gone = await collection.delete_many({"_id": {"$in": [each["_id"] for each in found]}} | due)
    except PyMongoError as error:
        raise _write_failure(error) from error
    return gone.deleted_count


def _by_key(selection: Selection) -> str:
    return _BY[selection.owner is not None, selection.user is not None]


def _write_failure(error: PyMongoError) -> GuidsvcError:
    """Convert an error of a write: StoreUnavailable only if the write was certainly not done."""
    if isinstance(error, BulkWriteError):  # many writes: distinguishing their outcomes is not worth it
        return OutcomeUnknown(f"MongoDB: {reason_of(error)}")
    never_sent = isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError)
    refused = isinstance(error, OperationFailure) and not isinstance(error, WriteConcernError) and not error.timeout
    if never_sent or (refused and not error.has_error_label("RetryableWriteError")):
        return StoreUnavailable(f"MongoDB: {reason_of(error)}")
    return OutcomeUnknown(f"MongoDB: {reason_of(error)}")
