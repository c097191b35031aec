"""Executes due steps: adds warnings and expiries to the outboxes of records, and purges records.

Each step is one update that matches only the version, the stage and the due time for which it was decided. So each is
done once, however many processes do this, and never for a version that a write has replaced.

An invalid document is left alone for `INVALID_SECONDS`: it must not hold up the others.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import structlog
from pymongo import DeleteOne, UpdateOne

from guidsvc.domain.events.schedule import EXPIRED_STAGE, MARGIN_SECONDS, PURGED_STAGE, EventPolicy
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.store.mongo.documents import OUTBOX, Document, model_of
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.outbox import BY_DUE, INTEGERS, IS_DRAINED, advanced
from guidsvc.store.mongo.events.sequencer import BOUNDS_ID
from guidsvc.store.mongo.repository import Collection, in_one_reply
from guidsvc.telemetry.metrics import StoreMetrics
from guidsvc.telemetry.outage import FirstTimes

PURGE_SECONDS = 10
"""Time for the sequencer to delete a purged record, before the deletion is repeated."""
INVALID_SECONDS = 3600
"""Time for which an invalid document is skipped."""
MAX_LOGGED = 1000
"""Maximum number of invalid documents that are logged, each once."""
BACKFILL_SHARE = 8
"""This fraction of each step is for records without a due time, while there are any."""
_Operation = UpdateOne | DeleteOne

_log = structlog.get_logger(__name__)


class _Scheduled(NamedTuple):
    """A record, and its schedule."""

    record: Record
    stage: int
    due: int
    is_drained: bool


class Steps:
    """Executes the due steps."""

    def __init__(
        self,
        records: Collection,
        bounds: Collection,
        operations: Operations,
        policy: EventPolicy,
        meter: StoreMetrics,
        note_gap: Callable[[], Awaitable[None]],
    ) -> None:
        self._records = records
        self._bounds = bounds
        self._operations = operations
        self._policy = policy
        self._meter = meter
        self._note_gap = note_gap
        self._logged = FirstTimes(MAX_LOGGED)
        self._is_complete = False
        """Whether every record has a due time. Those from before there was a log have none."""

    async def advance(self, now: int, limit: int) -> int:
        """Do what has become due by `now`, by the server's clock, for at most `limit` records; return for how many."""
        share = 0 if self._is_complete else limit // BACKFILL_SHARE
        done = await self._advance(now - MARGIN_SECONDS * 1000, limit - share)
        if not self._is_complete and done < limit:
            done += await self._complete(limit - done)
        return done

    async def _advance(self, now: int, limit: int) -> int:
        found = self._records.find({"g.due": {"$lte": now // 1000}}).sort("g.due", 1).hint(BY_DUE)
        due = in_one_reply(found, limit)
        documents = await self._operations.read(partial(due.to_list, limit))
        operations = [self._step(document, now) for document in documents]
        if not operations:
            return 0
        await self._note_gap()
        done = await self._operations.write(partial(self._records.bulk_write, operations, ordered=False))
        return int(done.matched_count + done.deleted_count)

    async def lag(self, now: int) -> float:
        """Return for how many seconds the oldest step that is due has been waiting."""
        latest = now / 1000 - MARGIN_SECONDS
        due = self._records.find({"g.due": {"$lte": int(latest)}}, {"g.due": 1}).sort("g.due", 1).hint(BY_DUE).limit(1)
        found = await self._operations.read(partial(due.to_list, 1))
        return latest - found[0]["g"]["due"] if found else 0.0

    async def _complete(self, limit: int) -> int:
        """Give a due time to records that have none; return their number."""
        found = in_one_reply(self._records.find({"g.due": None}).hint(BY_DUE), limit)
        documents = await self._operations.read(partial(found.to_list, limit))
        opened = await self._opened() if documents else 0
        operations = [self._completed(document, opened) for document in documents]
        if operations:
            await self._operations.write(partial(self._records.bulk_write, operations, ordered=False))
        self._is_complete = not operations
        return len(operations)

    async def _opened(self) -> int:
        """Return when the store was first opened with a log, in Unix milliseconds. Later expiries are logged."""
        bounds = await self._operations.read(partial(self._bounds.find_one, {"_id": BOUNDS_ID}))
        opened = None if bounds is None else bounds.get("opened")
        return opened if isinstance(opened, int) else 0

    def _completed(self, document: Document, opened: int) -> UpdateOne:
        record = self._parse(document)
        if record is None:
            return _postponed(document, 0)
        stage, due = self._policy.first(record)
        if record.expire * 1000 <= opened:
            stage, due = EXPIRED_STAGE, record.purge_at
        if not isinstance(document.get(OUTBOX, {}), Mapping):
            return UpdateOne(_as_read(document), {"$set": {OUTBOX: {"stage": stage, "due": due}}})
        return UpdateOne(_same_as(document) | {"g.due": None}, {"$set": {"g.stage": stage, "g.due": due}})

    def _step(self, document: Document, now: int) -> _Operation:
        scheduled = self._scheduled(document)
        if scheduled is None:
            return _postponed(document, now // 1000 + INVALID_SECONDS)
        record, stage, due, is_drained = scheduled
        same = _same_as(document) | {"g.stage": stage, "g.due": due}
        step = self._policy.step(record, stage, due, now)
        if step.due is not None:
            return UpdateOne(same, advanced(step.stage, step.due, step.entries))
        if stage < PURGED_STAGE:
            self._meter.lateness.observe(max(0.0, now / 1000 - record.purge_at))
        if not step.entries and is_drained:
            return DeleteOne(same | IS_DRAINED)
        return UpdateOne(same, advanced(PURGED_STAGE, now // 1000 + PURGE_SECONDS, step.entries))

    def _scheduled(self, document: Document) -> _Scheduled | None:
        """Return the record in a document and its schedule; None if one of them is invalid."""
        outbox = document[OUTBOX]
        if not isinstance(outbox, Mapping) or not {type(outbox.get("stage")), type(outbox.get("due"))} <= INTEGERS:
            self._warn(document, "its stage or its due time is no whole number")
            return None
        record = self._parse(document)
        return None if record is None else _Scheduled(record, outbox["stage"], outbox["due"], "pending" not in outbox)

    def _parse(self, document: Document) -> Record | None:
        """Return the record in a document; None if it is invalid."""
        try:
            return model_of(Record, document)
        except CorruptRecord as error:
            self._warn(document, str(error))
            return None

    def _warn(self, document: Document, reason: str) -> None:
        guid = str(document["_id"])
        if self._logged.is_first(guid):
            _log.warning("corrupt record, its expiry is not logged", guid=guid, error=reason)


def _postponed(document: Document, due: int) -> UpdateOne:
    """Return the update of an invalid document that sets its due time."""
    outbox = document.get(OUTBOX, {})
    schedule = {"g.due": due} if isinstance(outbox, Mapping) else {OUTBOX: {"due": due}}
    return UpdateOne(_as_read(document), {"$set": schedule})


def _as_read(document: Document) -> dict[str, Any]:
    outbox = {"$eq": document[OUTBOX]} if OUTBOX in document else {"$exists": False}
    return {"_id": {"$eq": document["_id"]}, OUTBOX: outbox}


def _same_as(document: Document) -> dict[str, Any]:
    return {"_id": document["_id"], "version": document.get("version")}
