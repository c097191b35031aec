"""Reading the log. Every page is read between two looks at the floor, so it has no hole.

A page ends before an invalid document. Who stands right before it has lost that event, as if it was cut off.
"""

from functools import partial
from typing import Any

import structlog

from guidsvc.domain.events.cursor import checksum_of
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import CorruptRecord, EventsTrimmed
from guidsvc.store.event_log import PAGE_BYTES, SCANNED, LogPage, Numbered
from guidsvc.store.mongo.documents import Document
from guidsvc.store.mongo.events.entry_documents import filter_of, numbered
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.retention import Retention, checksum_in
from guidsvc.store.mongo.events.sequencer import BY_EVENT, BY_OWNER, Sequencer
from guidsvc.store.mongo.repository import Collection
from guidsvc.telemetry.outage import FirstTimes

EVENTS_OF_VERSION = 16
"""More entries than one version of a record can have."""
CHUNK = 50
"""Number of entries that are fetched at once."""
MAX_LOGGED = 1000
"""How many invalid documents are logged, each once."""

_log = structlog.get_logger(__name__)


class Reading:
    """Reads the log."""

    def __init__(self, log: Collection, operations: Operations, sequencer: Sequencer, retention: Retention) -> None:
        self._log = log
        self._operations = operations
        self._sequencer = sequencer
        self._retention = retention
        self._logged = FirstTimes(MAX_LOGGED)

    async def page(self, after: int, limit: int, selection: EventSelection, queue_name: str | None) -> LogPage:
        """Return a page; see `EventLog.read`."""
        await self._require_untrimmed(after)
        newest = (await self._sequencer.head()).number
        last = await self._end_of_search(after, newest, selection, queue_name)
        read = partial(self._read, after, last, limit, selection)
        entries, looked_to = await self._operations.scan(read, queue_name)
        checksum = await self._checksum_at(looked_to, entries)
        await self._require_untrimmed(after)
        return LogPage(entries, looked_to, checksum, newest)

    async def checksum(self, number: int) -> int | None:
        """Return the checksum of the id of an entry; see `EventLog.checksum`."""
        found = await self._operations.read(partial(self._log.find_one, {"_id": number}))
        floor = await self._retention.floor()
        if number == floor.number:
            return floor.checksum
        return None if found is None or number < floor.number else checksum_in(found)

    async def history(self, guid: str, before: int, limit: int) -> list[Numbered]:
        """Return the newest entries of a GUID; see `EventLog.history`.

        The index has them in the order of their versions, which is that of their numbers, except within a version.
        """
        newest = partial(self._newest_of, guid, before, limit + EVENTS_OF_VERSION)
        entries = await self._operations.scan(newest, guid)
        floor = (await self._retention.floor()).number
        return sorted((each for each in entries if each.number > floor), key=lambda each: -each.number)[:limit]

    async def _newest_of(self, guid: str, before: int, count: int) -> list[Numbered]:
        """Return the newest valid entries of a GUID, by their versions."""
        found = self._log.find({"guid": guid, "_id": {"$lt": before}}).sort("version", -1).hint(BY_EVENT)
        cursor = found.limit(SCANNED).batch_size(count)
        entries: list[Numbered] = []
        async for document in cursor:
            entry = self._valid(document)
            if entry is not None:
                entries.append(entry)
                if len(entries) == count:
                    await cursor.close()
                    break
        return entries

    async def _end_of_search(self, after: int, newest: int, selection: EventSelection, queue_name: str | None) -> int:
        """Return up to which number to look: at SCANNED entries, of the owner only if the selection has one."""
        if not selection.owner:
            return min(after + SCANNED, newest)
        if selection.is_owner_only:  # all that is looked at is in the page, so its limit bounds the search
            return newest
        own = self._log.find({"owner": selection.owner, "_id": {"$gt": after, "$lte": newest}}, {"_id": 1})
        following = own.hint(BY_OWNER).sort("_id", 1).skip(SCANNED - 1).limit(2)
        found = await self._operations.scan(partial(following.to_list, 2), queue_name)
        return int(found[0]["_id"]) if len(found) > 1 else newest

    async def _read(self, after: int, last: int, limit: int, selection: EventSelection) -> tuple[list[Numbered], int]:
        """Return the entries of a selection between two numbers, and up to which number these are all of them."""
        entries: list[Numbered] = []
        size_bytes = 0
        wanted: dict[str, Any] = {"_id": {"$gt": after, "$lte": last}} | filter_of(selection)
        index = BY_OWNER if selection.owner else "_id_"
        cursor = self._log.find(wanted).hint(index).sort("_id", 1).limit(limit).batch_size(CHUNK)
        async for document in cursor:
            entry = self._valid(document)
            if entry is None:
                await cursor.close()
                return entries, self._end_before(document["_id"], after)
            if size_bytes >= PAGE_BYTES:  # only now is it known that another entry follows
                await cursor.close()
                return entries, entries[-1].number
            entries.append(entry)
            size_bytes += entry.entry.text_bytes
        return entries, entries[-1].number if len(entries) == limit else max(after, last)

    def _end_before(self, number: int, after: int) -> int:
        """Return where a page ends before an invalid document; EventsTrimmed if that is where it begins."""
        if number > after + 1:
            return number - 1
        self._retention.begin_behind(number)
        raise EventsTrimmed(f"entry {number} is not valid")

    def _valid(self, document: Document) -> Numbered | None:
        """Return the entry in a document of the log; None, and a line in the log, if it is invalid."""
        try:
            return numbered(document)
        except CorruptRecord as error:
            number = document["_id"]
            if self._logged.is_first(number):
                _log.error("event invalid, it cannot be read", number=number, error=str(error))
            return None

    async def _checksum_at(self, number: int, entries: list[Numbered]) -> int:
        if entries and entries[-1].number == number:
            return checksum_of(entries[-1].entry.id)
        return await self.checksum(number) or 0

    async def _require_untrimmed(self, after: int) -> None:
        """Raise EventsTrimmed if an entry after this number was cut off."""
        floor = (await self._retention.floor()).number
        if after < floor:
            raise EventsTrimmed(f"the entries up to {floor} were cut off, and {after + 1} was to be read")
