"""Reading the log. Every page is read between two looks at the floor, so it has no hole."""

from functools import partial
from typing import Any

from guidsvc.domain.events.cursor import checksum_of
from guidsvc.domain.events.entry import Entry
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsTrimmed
from guidsvc.store.event_log import PAGE_BYTES, SCANNED, LogPage, Numbered
from guidsvc.store.mongo.documents import Document
from guidsvc.store.mongo.events.entry_documents import entry_in, filter_of, numbered
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.retention import Retention
from guidsvc.store.mongo.events.sequencer import BY_EVENT, Sequencer
from guidsvc.store.mongo.repository import Collection

EVENTS_OF_VERSION = 16
"""More entries than one version of a record can have."""
CHUNK = 50
"""Number of entries that are fetched at once."""


class Reading:
    """Reads the log."""

    def __init__(self, log: Collection, operations: Operations, sequencer: Sequencer, retention: Retention) -> None:
        self._log = log
        self._operations = operations
        self._sequencer = sequencer
        self._retention = retention

    async def page(self, after: int, limit: int, selection: EventSelection, queue_name: str | None) -> LogPage:
        """Return a page; see `EventLog.read`."""
        await self._require_untrimmed(after)
        newest = (await self._sequencer.head()).number
        last = min(after + SCANNED, newest)
        read = partial(self._read, after, last, limit, selection)
        entries, is_whole = await self._operations.scan(read, queue_name)
        looked_to = max(after, last) if is_whole else entries[-1].number
        checksum = await self._checksum_at(looked_to, entries)
        await self._require_untrimmed(after)
        return LogPage(entries, looked_to, checksum, newest)

    async def checksum(self, number: int) -> int | None:
        """Return the checksum of the id of an entry; see `EventLog.checksum`."""
        found = await self._operations.read(partial(self._log.find_one, {"_id": number}))
        floor = await self._retention.floor()
        if number == floor.number:
            return floor.checksum
        return None if found is None or number < floor.number else checksum_of(entry_in(found).id)

    async def history(self, guid: str, before: int, limit: int) -> list[Numbered]:
        """Return the newest entries of a GUID; see `EventLog.history`.

        The index has them in the order of their versions, which is that of their numbers, except within a version.
        """
        found = self._log.find({"guid": guid, "_id": {"$lt": before}}).sort("version", -1).hint(BY_EVENT)
        documents = await self._operations.scan(partial(found.limit(limit + EVENTS_OF_VERSION).to_list, None), guid)
        floor = (await self._retention.floor()).number
        entries = (numbered(each) for each in documents if each["_id"] > floor)
        return sorted(entries, key=lambda each: -each.number)[:limit]

    async def _read(self, after: int, last: int, limit: int, selection: EventSelection) -> tuple[list[Numbered], bool]:
        """Return the entries of a selection between two numbers, and whether these are all of them."""
        entries: list[Numbered] = []
        size_bytes = 0
        wanted: dict[str, Any] = {"_id": {"$gt": after, "$lte": last}} | filter_of(selection)
        cursor = self._log.find(wanted).hint("_id_").sort("_id", 1).limit(limit).batch_size(CHUNK)
        async for document in cursor:
            entries.append(numbered(document))
            size_bytes += _text_bytes(document)
            if size_bytes >= PAGE_BYTES or len(entries) == limit:
                await cursor.close()
                return entries, False
        return entries, True

    async def _checksum_at(self, number: int, entries: list[Numbered]) -> int:
        if entries and entries[-1].number == number:
            return checksum_of(entries[-1].entry.id)
        return await self.checksum(number) or 0

    async def _require_untrimmed(self, after: int) -> None:
        """Raise EventsTrimmed if an entry after this number was cut off."""
        floor = (await self._retention.floor()).number
        if after < floor:
            raise EventsTrimmed(f"the entries up to {floor} were cut off, and {after + 1} was to be read")


def _text_bytes(document: Document) -> int:
    entry: Entry = entry_in(document)
    return sum(len(text) for text in (entry.owner, entry.user, entry.metadata) if text)
