"""MongoDB documents: the mapping of models to documents, and of selections to filters."""

from collections.abc import Mapping
from typing import Any, TypeVar

from bson.datetime_ms import DatetimeMS
from pydantic import ValidationError
from pymongo import InsertOne, UpdateOne

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.receipt import PAGE_BYTES, SMALL_ANSWER_BYTES, Receipt
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import CorruptRecord

NOW = {"$toLong": "$$NOW"}
"""The time by MongoDB's clock, in Unix milliseconds."""
LATE = {53, 66}
"""The error codes with which MongoDB rejects a late creation: InvalidIdField, ImmutableField."""
_NO_VERSION = -1
"""A version that no record has."""
OUTBOX = "g"
"""The member of a record's document with its outbox and its schedule. It is not part of the record."""
WITHOUT_OUTBOX = {OUTBOX: 0}
"""The projection without the outbox."""
Document = Mapping[str, Any]
Creation = InsertOne[dict[str, Any]] | UpdateOne
Model = TypeVar("Model", Record, Receipt, ApiKey, QuotaLedger)
_NAMES: Mapping[type, tuple[str, str]] = {
    Record: ("guid", "version"),
    Receipt: ("key", "attempt"),
    ApiKey: ("id", "version"),
    QuotaLedger: ("owner", "version"),
}
"""The key field of each model, and the field that rises with every change."""


def same_as(model: Record | Receipt | ApiKey | QuotaLedger) -> dict[str, Any]:
    """Return the filter that matches the document of a model at its version."""
    key, version = _NAMES[type(model)]
    return {"_id": getattr(model, key), version: getattr(model, version)}


def no_later_than(milliseconds: int) -> dict[str, Any]:
    """Return the filter that matches only until this time, by MongoDB's clock."""
    return {"$expr": {"$lte": [NOW, milliseconds]}}


def creation_of(document: dict[str, Any], not_after: int | None) -> Creation:
    """Return the operation that creates a document unless its `_id` exists or the time is past `not_after`.

    An insert has no condition. An upsert whose filter matches nothing inserts the result of its pipeline. If it is
    late, the result is a document that MongoDB never accepts, with an array as its `_id`.
    """
    if not_after is None:
        return InsertOne(document)
    is_timely = no_later_than(not_after)["$expr"]
    made = {"$cond": [is_timely, {"$literal": document}, {"$literal": {"_id": []}}]}
    return UpdateOne({"_id": document["_id"], "version": _NO_VERSION}, [{"$replaceWith": made}], upsert=True)


_NEW_KEY_FIELDS = {"note", "max_ttl", "max_life"}


def document_of(model: Record | Receipt | ApiKey | QuotaLedger) -> dict[str, Any]:
    """Convert a model to a document: its key becomes `_id`, and `purge_at` a date, which TTL indexes require."""
    fields = model.model_dump()
    if "purge_at" in fields:
        fields["purge_at"] = DatetimeMS(fields["purge_at"] * 1000)
    if isinstance(model, ApiKey):  # version 0.1 rejects a document with an unknown field
        fields = {name: value for name, value in fields.items() if value is not None or name not in _NEW_KEY_FIELDS}
    return {"_id": fields.pop(_NAMES[type(model)][0])} | fields


def filter_of(selection: Selection) -> dict[str, Any]:
    """Convert a selection to a MongoDB filter."""
    kept = {"purge_at": {"$gt": DatetimeMS(selection.kept_at * 1000)}}
    whose = {name: value for name in ("owner", "user") if (value := getattr(selection, name)) is not None}
    others = {"_id": {"$nin": sorted(selection.excluding)}} if selection.excluding else {}
    return whose | others | expiring(selection) | kept


def expiring(selection: Selection) -> dict[str, Any]:
    """Return the filter for the expiry bounds of a selection."""
    return {"expire": {"$gte": selection.expire_from, "$lt": selection.expire_before}}


def indexed_owner(selection: Selection) -> dict[str, Any]:
    """Return the filter for the fields before the expiry in the index on the expiry: the owner, if there is one."""
    return {"owner": selection.owner} if selection.owner else {}


LEASED = {"answer": {"$type": "null"}, "leased_until": {"$gt": 0}}
"""The filter that matches the receipts whose lease was not released."""


def usage_of(keys: Document, limit: int) -> list[Document]:
    """Return the pipeline that counts the first `limit` receipts in a range of keys; `last` is the key of the last."""
    size = {"$strLenBytes": {"$ifNull": ["$answer", ""]}}
    up_to_page = {"$add": [size, PAGE_BYTES - 1]}
    in_pages = {"$subtract": [up_to_page, {"$mod": [up_to_page, PAGE_BYTES]}]}
    stored = {"$cond": [{"$lte": [size, SMALL_ANSWER_BYTES]}, size, in_pages]}
    totals = {"number": {"$sum": 1}, "answer_bytes": {"$sum": stored}, "last": {"$max": "$_id"}}
    return [{"$match": {"_id": keys}}, {"$sort": {"_id": 1}}, {"$limit": limit}, {"$group": {"_id": None} | totals}]


def model_of(model: type[Model], document: Document) -> Model:
    """Convert a document to a model; CorruptRecord if it is invalid."""
    fields = dict(document)
    fields.pop(OUTBOX, None)
    name, purge_at = fields.pop("_id"), fields.get("purge_at")
    if isinstance(purge_at, DatetimeMS):
        fields["purge_at"] = int(purge_at) // 1000
    try:
        return model.model_validate(fields | {_NAMES[model][0]: name})
    except ValidationError as error:
        raise CorruptRecord(f"the document of {name} is not a valid {model.__name__}: {error}") from error
