"""Does what has become due: adds warnings and expiries to the outboxes of records, and purges records.

Each step is one update that matches only the version, the stage and the due time for which it was decided. So each is
done once, however many processes do this, and never for a version that a write has replaced.
"""

from functools import partial
from typing import Any

import structlog
from pymongo import DeleteOne, UpdateOne

from guidsvc.domain.events.schedule import MARGIN_SECONDS, PURGED_STAGE, EventPolicy
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.store.mongo.documents import Document, model_of
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.outbox import BY_DUE, IS_DRAINED, advanced
from guidsvc.store.mongo.repository import Collection
from guidsvc.telemetry.metrics import StoreMetrics

PURGE_SECONDS = 10
"""How long the sequencer may take to delete a purged record, before its deletion is tried again."""
CORRUPT_SECONDS = 3600
"""How long a record that cannot be parsed is left alone."""
_Operation = UpdateOne | DeleteOne

_log = structlog.get_logger(__name__)


class Steps:
    """Does the steps that are due."""

    def __init__(self, records: Collection, operations: Operations, policy: EventPolicy, meter: StoreMetrics) -> None:
        self._records = records
        self._operations = operations
        self._policy = policy
        self._meter = meter
        self._is_complete = False
        """Whether every record has a due time. Those from before there was a log have none."""

    async def advance(self, now: int, limit: int) -> int:
        """Do what has become due by `now`, by the server's clock, for at most `limit` records; return for how many."""
        if not self._is_complete and (completed := await self._complete(limit)):
            return completed
        now -= MARGIN_SECONDS * 1000
        due = self._records.find({"g.due": {"$lte": now // 1000}}).sort("g.due", 1).hint(BY_DUE).limit(limit)
        documents = await self._operations.read(partial(due.to_list, limit))
        operations = [self._step(document, now) for document in documents]
        if not operations:
            return 0
        done = await self._operations.write(partial(self._records.bulk_write, operations, ordered=False))
        return int(done.matched_count + done.deleted_count)

    async def lag(self, now: int) -> float:
        """Return for how many seconds the oldest step that is due has been waiting."""
        latest = now / 1000 - MARGIN_SECONDS
        due = self._records.find({"g.due": {"$lte": int(latest)}}, {"g.due": 1}).sort("g.due", 1).hint(BY_DUE).limit(1)
        found = await self._operations.read(partial(due.to_list, 1))
        return latest - found[0]["g"]["due"] if found else 0.0

    async def _complete(self, limit: int) -> int:
        """Give a due time to records that have none; return to how many."""
        found = self._records.find({"g.due": None}).hint(BY_DUE).limit(limit)
        documents = await self._operations.read(partial(found.to_list, limit))
        operations = [self._completed(document) for document in documents]
        if operations:
            await self._operations.write(partial(self._records.bulk_write, operations, ordered=False))
        self._is_complete = not operations
        return len(operations)

    def _completed(self, document: Document) -> UpdateOne:
        record = _parse(document)
        stage, due = (0, 0) if record is None else self._policy.first(record)
        return UpdateOne(_same_as(document) | {"g.due": None}, {"$set": {"g.stage": stage, "g.due": due}})

    def _step(self, document: Document, now: int) -> _Operation:
        record, stage, due = _parse(document), document["g"]["stage"], document["g"]["due"]
        same = _same_as(document) | {"g.stage": stage, "g.due": due}
        if record is None:
            return UpdateOne(same, {"$set": {"g.due": now // 1000 + CORRUPT_SECONDS}})
        step = self._policy.step(record, stage, due, now)
        if step.due is not None:
            return UpdateOne(same, advanced(step.stage, step.due, step.entries, self._policy))
        if stage < PURGED_STAGE:
            self._meter.lateness.observe(max(0.0, now / 1000 - record.purge_at))
        if not step.entries and "pending" not in document["g"]:
            return DeleteOne(same | IS_DRAINED)
        return UpdateOne(same, advanced(PURGED_STAGE, now // 1000 + PURGE_SECONDS, step.entries, self._policy))


def _same_as(document: Document) -> dict[str, Any]:
    return {"_id": document["_id"], "version": document.get("version")}


def _parse(document: Document) -> Record | None:
    """Return the record in a document; None, and a line in the log, if it is corrupt."""
    try:
        return model_of(Record, document)
    except CorruptRecord as error:
        _log.warning("corrupt record, its expiry is not logged", guid=str(document["_id"]), error=str(error))
        return None
