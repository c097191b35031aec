"""Searches by an index on the expiry: pages of records in order of expiry, then `_id`, and counts.

Every query reads a range of an index on the expiry, in two parts: the rest of the records with the expiry of the
position, and those that expire later. With a filter of both parts, joined by `$or`, MongoDB might scan the whole index.

The search of an owner uses an index that begins with the owner: otherwise its time would reveal how many records others
have. If the selection names a user, few entries of the index may match. Then only the next entries are tried. After
that, the entries of the page are selected from the index on the user, which takes as long as a count.
"""

from collections.abc import Sequence
from typing import Any

from bson.datetime_ms import DatetimeMS

from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.selection import Selection
from guidsvc.store.mongo.documents import WITHOUT_OUTBOX, Document, filter_of, indexed_owner
from guidsvc.store.mongo.repository import Collection, in_one_reply

NEAR = 500
"""Number of entries of the index on the expiry that are tried before a user's index is read."""
RANGES = 8
"""Number of ranges whose records are counted in one operation: each has a time limit of its own."""
_ORDER = [("expire", 1), ("_id", 1)]
_ENTRY = {"expire": 1}
"""The projection to what the indexes contain, so that no document is read."""
_Documents = list[dict[str, Any]]


class ExpirySearch:
    """A search for pages of a selection in order of expiry.

    `index` is that on the expiry. `key_index` is that on the keys of the user, or None if all entries of `index` match.
    """

    def __init__(
        self, collection: Collection, selection: Selection, *, index: str, key_index: str | None, near: int = NEAR
    ) -> None:
        self._collection = collection
        self._index = index
        self._key_index = key_index
        self._near = near
        self._before = selection.expire_before
        self._from = selection.expire_from
        self._entries = indexed_owner(selection)
        self._filter = filter_of(selection)
        del self._filter["expire"]

    async def page(self, after: Position, limit: int) -> _Documents:
        """Return the first documents after a position."""
        ranges = self._ranges(after)
        if self._key_index is None:
            return await self._walk(ranges, self._filter, limit)
        entries = await self._walk(ranges, self._entries, self._near, _ENTRY)
        found, are_all_current = await self._documents(entries, limit)
        if len(found) == limit or (len(entries) < self._near and are_all_current):
            return found
        return await self._top(ranges, limit)

    def _ranges(self, after: Position) -> list[dict[str, Any]]:
        """Return the filters for the expiry and `_id` of the two parts, in order; none if all expire too late."""
        expire, guid = max((after.expire or 0, after.guid), (self._from, ""))
        if expire >= self._before:
            return []
        return [{"expire": expire, "_id": {"$gt": guid}}, {"expire": {"$gt": expire, "$lt": self._before}}]

    async def _walk(
        self,
        ranges: list[dict[str, Any]],
        wanted: dict[str, Any],
        limit: int,
        projection: Document = WITHOUT_OUTBOX,
    ) -> _Documents:
        """Return the first documents of the ranges that match a filter."""
        found: _Documents = []
        for part in ranges:
            if (left := limit - len(found)) > 0:
                cursor = self._collection.find({"$and": [part, wanted]}, projection).hint(self._index).sort(_ORDER)
                found += await in_one_reply(cursor, left).to_list(left)
        return found

    async def _documents(self, entries: _Documents, limit: int) -> tuple[_Documents, bool]:
        """Return the first documents of index entries that match, in order, and whether no expiry has changed since.

        Those with a changed expiry are left out: they would be out of order, and the next page, which begins after the
        last record, would skip others.
        """
        expiries = {entry["_id"]: entry["expire"] for entry in entries}
        wanted = {"$and": [{"_id": {"$in": list(expiries)}}, self._filter]}
        cursor = self._collection.find(wanted, WITHOUT_OUTBOX).sort(_ORDER)
        documents = await in_one_reply(cursor, limit).to_list(limit) if entries else []
        found = [document for document in documents if document["expire"] == expiries[document["_id"]]]
        return found, len(found) == len(documents)

    async def _top(self, ranges: list[dict[str, Any]], limit: int) -> _Documents:
        """Select a page from the index on the keys.

        If a record is deleted or changes its expiry before its document is read, search again: a short page would mean
        that there are no more.
        """
        wanted = {"$and": [{"$or": ranges}, self._filter]}
        while True:
            cursor = self._collection.find(wanted, _ENTRY).hint(str(self._key_index)).sort(_ORDER)
            entries = await in_one_reply(cursor, limit).to_list(limit)
            found, _ = await self._documents(entries, limit)
            if len(found) == len(entries):
                return found


class ExpiryCount:
    """Counts of the records that expire in ranges, from the index on the expiry alone."""

    def __init__(self, collection: Collection, kept_at: int, *, index: str) -> None:
        self._collection = collection
        self._kept_at = kept_at
        self._index = index

    async def between(self, bounds: Sequence[int]) -> list[int]:
        """Count the records that expire between each two successive bounds, with one pass over the index."""
        start, *ends = bounds
        wanted = {"expire": {"$gte": start, "$lt": ends[-1]}, "purge_at": {"$gt": DatetimeMS(self._kept_at * 1000)}}
        branches = [{"case": {"$lt": ["$expire", end]}, "then": number} for number, end in enumerate(ends)]
        group = {"_id": {"$switch": {"branches": branches}}, "count": {"$sum": 1}}
        cursor = self._collection.aggregate([{"$match": wanted}, {"$group": group}], hint=self._index)
        counts = {each["_id"]: int(each["count"]) for each in await cursor.to_list(len(ends))}
        return [counts.get(number, 0) for number in range(len(ends))]


def portions_of(bounds: Sequence[int]) -> list[Sequence[int]]:
    """Divide bounds into portions of at most RANGES ranges; each portion begins with the last bound of the previous."""
    return [bounds[first : first + RANGES + 1] for first in range(0, len(bounds) - 1, RANGES)]
