"""Repositories of MongoDB collections with a document for each item: receipts, API keys and quota ledgers."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Generic

from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorCollection, AsyncIOMotorCursor
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.errors import StoreUnavailable
from guidsvc.store.mongo.bulkhead import Bulkheads
from guidsvc.store.mongo.documents import Document, Model, document_of, model_of, same_as, usage_of
from guidsvc.store.mongo.failures import read_failures, write_failures

COUNTED = 2_000
"""Maximum number of receipts, of 64 KiB each, that one query counts."""
Collection = AsyncIOMotorCollection[dict[str, Any]]
Cursor = AsyncIOMotorCursor[dict[str, Any]]


class MongoRepository(Generic[Model]):
    """A collection of one kind of model."""

    def __init__(self, collection: Collection, model: type[Model], bulkheads: Bulkheads) -> None:
        self._collection = collection
        self._model: type[Model] = model
        self._bulkheads = bulkheads

    async def get(self, key: str, /) -> Model | None:
        return await self._find_one(self._collection, key)

    async def _find_one(self, collection: Collection, key: str) -> Model | None:
        with read_failures():
            document = await self._bulkheads.reads.run(partial(collection.find_one, {"_id": key}))
        return None if document is None else model_of(self._model, document)

    async def swap(self, old: Model | None, new: Model | None) -> bool:
        with write_failures():
            try:
                return await self._bulkheads.updates.run(partial(swap_one, self._collection, old, new))
            except DuplicateKeyError:
                return False
            except BSONError as error:
                raise StoreUnavailable(f"MongoDB cannot store this record: {type(error).__name__}") from error


class MongoReceipts(MongoRepository[Receipt]):
    """The collection of receipts."""

    def __init__(self, collection: Collection, bulkheads: Bulkheads) -> None:
        super().__init__(collection, Receipt, bulkheads)

    async def usage(self, prefix: str) -> ReceiptUsage:
        """Count in parts, in the order of the keys: each has a time limit of its own, however many receipts there are.

        What is written during the count may be missed.
        """
        number = answer_bytes = 0
        above = {"$gte": prefix}
        while part := await self._part_usage(prefix, above | {"$lt": f"{prefix}g"}):
            number, answer_bytes = number + part["number"], answer_bytes + part["answer_bytes"]
            if part["number"] < COUNTED:
                break
            above = {"$gt": part["last"]}
        return ReceiptUsage(number, answer_bytes)

    async def _part_usage(self, prefix: str, keys: Document) -> Document | None:
        pipeline = usage_of(keys, COUNTED)
        with read_failures():
            parts = await self._bulkheads.counts.run(
                lambda: self._collection.aggregate(pipeline, hint="_id_").to_list(1), group=prefix
            )
        return parts[0] if parts else None

    async def purge(self, before: int, limit: int) -> int:
        due = {"purge_at": {"$lt": DatetimeMS(before * 1000)}}
        with read_failures():
            cursor = in_one_reply(self._collection.find(due, {"_id": 1}), limit)
            found = await self._bulkheads.reads.run(partial(cursor.to_list, limit))
        if not found:
            return 0
        with write_failures():
            gone = {"_id": {"$in": [each["_id"] for each in found]}} | due
            deletion = await self._bulkheads.updates.run(partial(self._collection.delete_many, gone))
        return int(deletion.deleted_count)


class MongoApiKeys(MongoRepository[ApiKey]):
    """The collection of API keys. A key is read linearizably: a deposed primary may have missed its revocation."""

    def __init__(self, collection: Collection, bulkheads: Bulkheads) -> None:
        super().__init__(collection, ApiKey, bulkheads)
        self._linearizable = linearizable(collection)

    async def get(self, key: str, /) -> ApiKey | None:
        return await self._find_one(self._linearizable, key)

    async def list(self, after: str, limit: int) -> Sequence[ApiKey]:
        cursor = in_one_reply(self._collection.find({"_id": {"$gt": after}}).sort("_id", 1), limit)
        with read_failures():
            documents = await self._bulkheads.finds.run(partial(cursor.to_list, limit))
        return [model_of(ApiKey, document) for document in documents]


def in_one_reply(cursor: Cursor, limit: int) -> Cursor:
    """Let a cursor return at most `limit` documents, in one reply unless they take more than 16 MiB.

    Without this, MongoDB sends 101 documents first, and the others with a second command. An operation has one time
    limit, whatever it sends, so it must send little if MongoDB answers slowly.
    """
    cursor.limit(limit)
    cursor.batch_size(limit)
    return cursor


def linearizable(collection: Collection) -> Collection:
    """Return the collection with linearizable reads, which show every earlier write, even before a majority has it."""
    return collection.with_options(read_concern=ReadConcern("linearizable"))


async def swap_one(collection: Collection, old: Model | None, new: Model | None) -> bool:
    """Replace `old` with `new`; None for either means absent. Return False if `old` is not what is stored.

    DuplicateKeyError if `old` is None, and the key exists.
    """
    if old is None and new is not None:
        await collection.insert_one(document_of(new))
        return True
    same = {} if old is None else same_as(old)
    if new is None:
        return (await collection.delete_one(same)).deleted_count == 1
    return (await collection.replace_one(same, document_of(new))).matched_count == 1
