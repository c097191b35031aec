"""Leases in MongoDB: documents that prevent that several processes do the same work.

They are measured by the server's clock, and last for seconds, even if that clock was ahead for a moment. They only save
work: the log is correct, whichever process appends to it.
"""

from functools import partial
from secrets import token_hex
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from guidsvc.runtime.clock import ContinuousClock, continuous_clock
from guidsvc.store.mongo.documents import NOW, Document
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.server_clock import ServerClock
from guidsvc.store.mongo.repository import Collection

LEASE_SECONDS = 6.0
"""Duration of a lease without a renewal. After the death of its holder, the work stops for this time."""
RENEW_SECONDS = 2.0
"""Interval of renewals of a lease, or of requests if another process holds it."""
MAX_SECONDS = 2 * LEASE_SECONDS
"""A lease that ends later than this from now has ended: its holder got it while the server's clock was ahead.

Twice a lease, because the clock of a new primary may be behind, and another version may have longer leases.
"""


class Lease:
    """A lease by name. `hold` obtains and renews it."""

    def __init__(
        self,
        collection: Collection,
        name: str,
        operations: Operations,
        clock: ServerClock,
        *,
        timer: ContinuousClock = continuous_clock,
    ) -> None:
        self._collection = collection
        self._name = name
        self._operations = operations
        self._clock = clock
        self._timer = timer
        self._holder = token_hex(8)
        self._is_held = False
        self._next_request = -1.0

    async def hold(self) -> bool:
        """Return whether this process holds the lease. Request it if that is due."""
        if self._timer() >= self._next_request:
            requested_at = self._timer()
            self._is_held = False
            self._is_held = await self._request(LEASE_SECONDS)
            self._next_request = requested_at + RENEW_SECONDS
        return self._is_held

    async def release(self) -> None:
        """Give the lease up, if this process holds it."""
        if self._is_held:
            self._is_held, self._next_request = False, -1.0
            await self._request(0)

    async def _request(self, seconds: float) -> bool:
        """Set the end of the lease if it is ours or has ended; return whether it is ours."""
        end = {"$ifNull": ["$until", 0]}
        has_ended = {"$lte": [end, NOW]}
        is_wrong = {"$gt": [end, {"$add": [NOW, int(MAX_SECONDS * 1000)]}]}
        may = {"$or": [{"$eq": ["$holder", self._holder]}, has_ended, is_wrong]}
        until = {"$add": [NOW, int(seconds * 1000)]}
        update = {"now": NOW, "holder": _if(may, self._holder, "$holder"), "until": _if(may, until, "$until")}
        started = self._clock.start()
        document = await self._operations.write(partial(self._update, [{"$set": update}]))
        if document is None:
            return False
        self._clock.note(started, document["now"])
        return bool(document["holder"] == self._holder)

    async def _update(self, pipeline: list[Document]) -> dict[str, Any] | None:
        try:
            updated: dict[str, Any] = await self._collection.find_one_and_update(
                {"_id": self._name}, pipeline, upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:  # another process created the document just now
            return None
        return updated


def _if(condition: Document, value: object, otherwise: object) -> Document:
    return {"$cond": [condition, value, otherwise]}
