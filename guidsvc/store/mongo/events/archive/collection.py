"""The collection of the archive: documents of the log, each with its size.

What is in it counts only as far as the shares say so; see `trim`. So a document that a process could not delete, or
that it has added before another process decided otherwise, does no harm.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pymongo import IndexModel, ReplaceOne

from guidsvc.domain.events.shares import Item
from guidsvc.store.mongo.documents import Document
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.repository import Collection, in_one_reply

BY_OWNER = "owner"
ARCHIVE_INDEXES = [IndexModel([("owner", 1), ("_id", 1)], name=BY_OWNER)]
_MEASURES = {"owner": 1, "size": 1, "appended": 1}


class Archive:
    """The documents of the archive."""

    def __init__(self, documents: Collection, operations: Operations) -> None:
        self.documents = documents
        self._operations = operations

    async def oldest(self, after: int, before: int, limit: int) -> list[Item]:
        """Return the oldest entries after a number. Those that were appended before a time are old."""
        found = in_one_reply(self.documents.find({"_id": {"$gt": after}}, _MEASURES).sort("_id", 1), limit)
        return [_item(each, before) for each in await self._operations.scan(partial(found.to_list, limit))]

    async def oldest_of(self, owner: str, after: int, limit: int) -> list[Item]:
        """Return the oldest entries of an owner after a number."""
        found = self.documents.find({"owner": owner, "_id": {"$gt": after}}, _MEASURES).hint(BY_OWNER)
        oldest = in_one_reply(found.sort("_id", 1), limit)
        return [_item(each, 0) for each in await self._operations.scan(partial(oldest.to_list, limit))]

    async def find(self, number: int) -> Document | None:
        """Return the document of an entry; None if it is not in the archive."""
        found: Document | None = await self._operations.read(partial(self.documents.find_one, {"_id": number}))
        return found

    async def add(self, documents: Sequence[Document], sizes: Sequence[int]) -> None:
        """Add documents of the log, each with its size."""
        if documents:
            added = [
                ReplaceOne({"_id": each["_id"]}, {**each, "size": size}, upsert=True)
                for each, size in zip(documents, sizes, strict=True)
            ]
            await self._operations.write(partial(self.documents.bulk_write, added, ordered=False))

    async def delete(self, up_to: int, owner: str | None = None) -> None:
        """Delete the entries of the archive up to a number, of all owners or of one."""
        wanted: dict[str, Any] = {"_id": {"$lte": up_to}} | ({} if owner is None else {"owner": owner})
        await self._operations.write(partial(self.documents.delete_many, wanted))


def owner_in(document: Document) -> str:
    """Return the owner of an entry in the log; none if its document is invalid."""
    owner = document.get("owner")
    return owner if isinstance(owner, str) else ""


def _item(document: Document, before: int) -> Item:
    size, appended = document.get("size"), document.get("appended")
    is_old = not isinstance(appended, int) or appended < before
    return Item(document["_id"], owner_in(document), size if isinstance(size, int) else 0, is_old)
