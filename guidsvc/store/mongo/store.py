"""The MongoDB store: a collection for each repository, accessed through motor.

Only this package imports motor, so that PyMongo's own asynchronous client can replace it. Errors of the driver never
leave it. Every operation on one record carries its `_id`, so a cluster sharded by the hash of `_id` sends it to one
shard. Writes are acknowledged by a majority, with journal; reads return only majority-committed data.
"""

import math
import re
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import IndexModel
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from guidsvc.connection_urls import connect_with_redacted_errors, redact
from guidsvc.domain.events.schedule import DEFAULT_POLICY, EventPolicy
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.errors import CorruptRecord, NoStore, StartError
from guidsvc.runtime.background import running_in_background
from guidsvc.store.cache_fence import NEW
from guidsvc.store.mongo.bulkhead import TIMEOUT_MS, Bulkheads, reserve_threads
from guidsvc.store.mongo.documents import LEASED
from guidsvc.store.mongo.error_reason import reason_of
from guidsvc.store.mongo.events.archive.collection import ARCHIVE_INDEXES
from guidsvc.store.mongo.events.log import LogCollections, MongoEventLog
from guidsvc.store.mongo.events.retention import close_gap, with_bounds
from guidsvc.store.mongo.events.sequencer import BOUNDS_ID, LOG_INDEXES
from guidsvc.store.mongo.failures import read_failures
from guidsvc.store.mongo.fence import FENCE_ID, MongoFence, fence_document
from guidsvc.store.mongo.records import FEW, INDEXES, PROOF_SECONDS, MongoRecords
from guidsvc.store.mongo.repository import Collection, MongoApiKeys, MongoReceipts, MongoRepository, in_one_reply
from guidsvc.system_errors import in_plain_words
from guidsvc.telemetry.metrics import StoreMetrics

DATABASE, COLLECTION, RECEIPTS, IDENTITY, FENCE = "guidsvc", "records", "receipts", "identity", "fence"
KEYS, LEDGERS = "keys", "ledgers"
"""Names of the collections: records, receipts, store id, fence, API keys, ledgers; and of the default database."""
LOG, BOUNDS, LEASES, ARCHIVE = "log", "log_bounds", "leases", "log_archive"
"""Names of the collections of the event log: its entries, bounds, leases, and archive."""
_FORMER_INDEX = "purge_at_ttl"
"""An index by which MongoDB deleted records after their retention: also those whose events are not in the log."""
_NO_INDEX, _NO_COLLECTION = 27, 26
_BY_LEASE = "open_leased_until"
RECEIPT_INDEXES = [
    IndexModel("purge_at", name="purge_at_ttl", expireAfterSeconds=0),
    IndexModel("leased_until", name=_BY_LEASE, partialFilterExpression={"answer": {"$type": "null"}}),
]
INDEX_SECONDS = 600.0
"""Time limit for the creation of missing indexes of a large collection."""
RELEASES = 1_000
"""Maximum number of leases that are released in one step."""
_REMEDIES = {
    18: "; correct the user, the password or authSource",
    13: "; give user and password, and grant the user readWrite on the database",
}
"""Remedies for errors, by code: AuthenticationFailed, Unauthorized."""
_UNREACHABLE = "; start MongoDB, or correct host, port and tls"
_SILENT = re.compile("No servers found yet|.+: (?:The [a-z]+ operation )?timed out")
"""Reasons of the driver if a server refuses nothing, but does not answer in time."""
_BUSY = "see what keeps it busy or stopped: a full disk, a paused process or host; or correct host, port and tls"
_Client = TypeVar("_Client")
_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
_MAJORITY = ReadConcern("majority")


@asynccontextmanager
async def open_mongo(
    url: str,
    *,
    exclusive: bool = False,
    timeout_ms: int = TIMEOUT_MS,
    few: int = FEW,
    meter: StoreMetrics | None = None,
    events: EventPolicy = DEFAULT_POLICY,
) -> AsyncIterator["MongoStore"]:
    """Open the store, create missing indexes, and close the connections at the end."""
    reserve_threads()
    client = _client(url, timeout_ms)
    try:
        collection = client.get_default_database(DATABASE).get_collection(
            COLLECTION, codec_options=_CODEC, read_concern=_MAJORITY
        )
        is_sharded = await _prepare(collection, events, exclusive=exclusive)
        proof_seconds = math.inf if exclusive else 0.0 if is_sharded else PROOF_SECONDS
        store = MongoStore(
            collection,
            few=few,
            timeout_ms=timeout_ms,
            proof_seconds=proof_seconds,
            meter=meter,
            events=events,
        )
        try:
            async with running_in_background(store.events.run_sequencer):
                yield store
            await store.events.release_leases()
        finally:
            await store.drain()
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
        raise unusable(error) from error
    finally:
        client.close()


def validate_mongo_url(url: str) -> None:
    """Raise StartError if the URL is invalid. One of mongodb+srv:// is validated when it is opened: it needs DNS."""
    if not url.startswith("mongodb+srv:"):
        _connect(url, TIMEOUT_MS, partial(pymongo.MongoClient[dict[str, Any]], connect=False)).close()


def inspecting_client(url: str, timeout_ms: int) -> pymongo.MongoClient[dict[str, Any]]:
    """Return a client of the driver itself, connected as the store is, for a program that only looks at MongoDB."""
    return _connect(url, timeout_ms, pymongo.MongoClient[dict[str, Any]])


def _client(url: str, timeout_ms: int) -> AsyncIOMotorClient[dict[str, Any]]:
    return _connect(url, timeout_ms, AsyncIOMotorClient)


def _connect(url: str, timeout_ms: int, kind: Callable[..., _Client]) -> _Client:
    make: Callable[[str], _Client] = partial(
        _strictly,
        kind,
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


def _strictly(kind: Callable[..., _Client], url: str, **options: Any) -> _Client:
    """Create a client; turn driver warnings, such as that of an unknown option, into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return kind(url, **options)


async def _prepare(collection: Collection, events: EventPolicy, *, exclusive: bool) -> bool:
    """Create missing collections and indexes; return whether the cluster is sharded."""
    receipts = collection.database[RECEIPTS]
    try:
        hello = await collection.database.command("hello")  # before what may take long: MongoDB answers
        with pymongo.timeout(INDEX_SECONDS):
            await collection.create_indexes(INDEXES)
            await receipts.create_indexes(RECEIPT_INDEXES)
            await collection.database[LOG].create_indexes(LOG_INDEXES)
            await collection.database[ARCHIVE].create_indexes(ARCHIVE_INDEXES)
            await _drop_former_index(collection)
        if exclusive:
            await _release_leases(receipts)
        await collection.database[IDENTITY].update_one(
            {"_id": COLLECTION}, {"$set" if exclusive else "$setOnInsert": {"name": token_hex(8)}}, upsert=True
        )
        await collection.database[FENCE].update_one(
            {"_id": FENCE_ID}, {"$setOnInsert": fence_document(NEW)}, upsert=True
        )
        await collection.database[BOUNDS].update_one({"_id": BOUNDS_ID}, with_bounds(), upsert=True)
        if events.is_on:
            await close_gap(collection.database[BOUNDS], exclusive=exclusive)
        return bool(hello.get("msg") == "isdbgrid")
    except PyMongoError as error:
        raise unusable(error) from error


async def _drop_former_index(collection: Collection) -> None:
    try:
        await collection.drop_index(_FORMER_INDEX)
    except OperationFailure as error:
        if error.code not in {_NO_INDEX, _NO_COLLECTION}:
            raise


async def _release_leases(receipts: Collection) -> None:
    """Release all leases, in steps that each end within the time limit, however many receipts there are.

    The index holds only receipts without a response, so a step reads no others. No process claims a receipt meanwhile.
    """
    leased = in_one_reply(receipts.find(LEASED, {"_id": 1}).hint(_BY_LEASE), RELEASES)
    while found := await leased.clone().to_list(RELEASES):
        keys = [each["_id"] for each in found]
        await receipts.update_many({"_id": {"$in": keys}} | LEASED, {"$set": {"leased_until": 0}})


def unusable(error: PyMongoError) -> StartError:
    """Convert an error to a StartError, without the topology or the reply that it quotes."""
    reason = reason_of(error)
    if isinstance(error, ConnectionFailure) and _SILENT.fullmatch(reason):
        return StartError(f"store_url: MongoDB does not answer in time; {_BUSY}")
    code = error.code if isinstance(error, OperationFailure) else None
    remedy = (
        _REMEDIES.get(code, "") if code is not None else _UNREACHABLE if isinstance(error, ConnectionFailure) else ""
    )
    return StartError(f"store_url: MongoDB cannot be used: {in_plain_words(reason)}{remedy}")


class MongoStore:
    """A MongoDB database: its repositories. `MongoRecords` explains the parameters."""

    def __init__(
        self,
        collection: Collection,
        *,
        few: int = FEW,
        timeout_ms: int = TIMEOUT_MS,
        proof_seconds: float = PROOF_SECONDS,
        meter: StoreMetrics | None = None,
        events: EventPolicy = DEFAULT_POLICY,
    ) -> None:
        meter = StoreMetrics() if meter is None else meter
        self._database = collection.database
        self._bulkheads = bulkheads = Bulkheads(timeout_ms)
        self.fence = MongoFence(self._database[FENCE], bulkheads)
        collections = LogCollections(collection, *(self._majority(name) for name in (LOG, BOUNDS, LEASES, ARCHIVE)))
        self.events = MongoEventLog(collections, bulkheads, policy=events, meter=meter)
        self.records = MongoRecords(
            collection, self.fence, self.events, few=few, proof_seconds=proof_seconds, meter=meter
        )
        self.receipts = MongoReceipts(self._majority(RECEIPTS), bulkheads)
        self.api_keys = MongoApiKeys(self._majority(KEYS), bulkheads)
        self.ledgers = MongoRepository(self._majority(LEDGERS), QuotaLedger, bulkheads)

    def _majority(self, name: str) -> Collection:
        found: Collection = self._database.get_collection(name, codec_options=_CODEC, read_concern=_MAJORITY)
        return found

    async def drain(self) -> None:
        """Wait until every operation has ended: at most its time limit, even if MongoDB does not answer."""
        await self.records.drain()
        await self._bulkheads.drain()

    async def store_id(self) -> str:
        with read_failures():
            found = await self._bulkheads.reads.run(partial(self._database[IDENTITY].find_one, {"_id": COLLECTION}))
        if found is None:
            raise CorruptRecord("the store has no identity; restart all processes that use it")
        return str(found["name"])

    async def ping(self) -> None:
        with read_failures():
            await self._bulkheads.pings.run(partial(self._database.command, "ping"))

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        """Do nothing: MongoDB does not enforce claims."""
