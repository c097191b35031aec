"""Reading the log. Every page is read between two reads of the floor, so it has no gap.

A page ends before an invalid document. For a reader right before it, that event is lost, as if it had been removed.
"""

from functools import partial
from typing import Any

import structlog

from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.events.shares import Place
from guidsvc.errors import CorruptRecord, EventsTrimmed
from guidsvc.store.event_log import PAGE_BYTES, SCANNED, LogPage, Numbered
from guidsvc.store.mongo.documents import Document
from guidsvc.store.mongo.events.archive.collection import BY_OWNER as ARCHIVE_BY_OWNER
from guidsvc.store.mongo.events.archive.collection import Archive
from guidsvc.store.mongo.events.entry_documents import checksum_in, filter_of, numbered
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.retention import Retention
from guidsvc.store.mongo.events.sequencer import BY_EVENT, BY_OWNER, Sequencer
from guidsvc.store.mongo.repository import Collection, in_one_reply
from guidsvc.telemetry.outage import FirstTimes

EVENTS_OF_VERSION = 16
"""More entries than one version of a record can have."""
CHUNK = 50
"""Number of entries that are read first for a page. The next chunks depend on the size of these."""
MAX_LOGGED = 1000
"""Maximum number of invalid documents that are logged, each once."""

_log = structlog.get_logger(__name__)


class Reading:
    """Reads the log."""

    def __init__(
        self,
        log: Collection,
        operations: Operations,
        sequencer: Sequencer,
        retention: Retention,
        archive: Archive,
    ) -> None:
        self._log = log
        self._archive = archive
        self._operations = operations
        self._sequencer = sequencer
        self._retention = retention
        self._logged = FirstTimes(MAX_LOGGED)

    async def page(self, after: int, limit: int, selection: EventSelection, queue_name: str | None) -> LogPage:
        """Return a page; see `EventLog.read`."""
        try:
            return await self._page_of_log(after, limit, selection, queue_name)
        except EventsTrimmed:
            if selection.owner is None or after >= (await self._retention.floor()).number:
                raise
        return await self._page_of_archive(after, limit, selection, queue_name)

    async def _page_of_log(self, after: int, limit: int, selection: EventSelection, queue_name: str | None) -> LogPage:
        await self._require_untrimmed(after)
        newest = (await self._sequencer.head()).number
        last = await self._end_of_search(self._log, (after, newest), selection, queue_name)
        entries, looked_to = await self._read(self._log, (after, last), limit, selection, queue_name)
        checksum = await self._checksum_at(looked_to, entries)
        await self._require_untrimmed(after)
        return LogPage(entries, looked_to, checksum, newest)

    async def _page_of_archive(
        self, after: int, limit: int, selection: EventSelection, queue_name: str | None
    ) -> LogPage:
        """Return a page of one owner that begins before the floor of the log."""
        owner = selection.owner or ""
        floor = await self._retention.floor()
        await self._require_untrimmed(after, owner)
        archive = self._archive.documents
        last = await self._end_of_search(archive, (after, floor.number), selection, queue_name)
        entries, looked_to = await self._read(archive, (after, last), limit, selection, queue_name)
        await self._require_untrimmed(after, owner)
        if looked_to < floor.number or len(entries) == limit:
            newest = (await self._sequencer.head()).number
            return LogPage(entries, looked_to, await self._checksum_at(looked_to, entries), newest)
        try:
            rest = await self._page_of_log(floor.number, limit - len(entries), selection, queue_name)
        except EventsTrimmed:  # the floor was raised meanwhile, or the next entry is invalid
            newest = (await self._sequencer.head()).number
            return LogPage(entries, floor.number, floor.checksum, newest)
        return rest._replace(entries=[*entries, *rest.entries])

    async def newest_of(self, owner: str, number: int, since: int) -> Place | None:
        """Return the newest entry of an owner up to a number, if it was appended since a time."""
        floor = (await self._retention.floor()).number
        for collection, index in (self._log, BY_OWNER), (self._archive.documents, ARCHIVE_BY_OWNER):
            own = collection.find({"owner": owner, "_id": {"$lte": number}}).hint(index).sort("_id", -1).limit(1)
            found = await self._operations.read(partial(own.to_list, 1))
            if found and found[0]["_id"] > floor:
                return _recent(found[0], since)
            floor = (await self._retention.floor_of(owner)).number
        return None

    async def checksum(self, number: int) -> int | None:
        """Return the checksum of an entry; see `EventLog.checksum`."""
        found = await self._operations.read(partial(self._log.find_one, {"_id": number}))
        floor = await self._retention.floor()
        if number == floor.number:
            return floor.checksum
        if number < floor.number:
            archived = await self._archive.find(number)
            return None if archived is None else checksum_in(archived)
        return None if found is None else checksum_in(found)

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

    async def _end_of_search(
        self, collection: Collection, between: tuple[int, int], selection: EventSelection, queue_name: str | None
    ) -> int:
        """Return up to which number to look: at SCANNED entries, of the owner only if the selection has one."""
        after, newest = between
        if not selection.owner:
            return min(after + SCANNED, newest)
        if selection.is_owner_only:  # all scanned entries are in the page, so its limit bounds the search
            return newest
        own = collection.find({"owner": selection.owner, "_id": {"$gt": after, "$lte": newest}}, {"_id": 1})
        following = own.hint(BY_OWNER).sort("_id", 1).skip(SCANNED - 1).limit(2)
        found = await self._operations.scan(partial(following.to_list, 2), queue_name)
        return int(found[0]["_id"]) if len(found) > 1 else newest

    async def _read(
        self,
        collection: Collection,
        between: tuple[int, int],
        limit: int,
        selection: EventSelection,
        queue_name: str | None,
    ) -> tuple[list[Numbered], int]:
        """Return the entries of a selection between two numbers, and up to which number these are all of them.

        Each chunk is an operation with its own time limit, so a slow server delays a page, but does not prevent it.
        """
        (after, last), count = between, min(CHUNK, limit)
        entries: list[Numbered] = []
        size_bytes, looked_to = 0, after
        while len(entries) < limit:
            wanted: dict[str, Any] = {"_id": {"$gt": looked_to, "$lte": last}} | filter_of(selection)
            found = collection.find(wanted).hint(BY_OWNER if selection.owner else "_id_").sort("_id", 1)
            chunk = await self._operations.scan(partial(in_one_reply(found, count).to_list, count), queue_name)
            for document in chunk:
                entry = self._valid(document)
                if entry is None:
                    return entries, self._end_before(document["_id"], after)
                if size_bytes >= PAGE_BYTES:  # only now is it known that another entry follows
                    return entries, entries[-1].number
                entries.append(entry)
                size_bytes += entry.entry.text_bytes
            if len(chunk) < count:
                return entries, max(after, last)
            looked_to = entries[-1].number
            count = min(_next_count(len(entries), size_bytes), limit - len(entries))
        return entries, looked_to

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
            return entries[-1].checksum
        return await self.checksum(number) or 0

    async def _require_untrimmed(self, after: int, owner: str | None = None) -> None:
        """Raise EventsTrimmed if an entry after this number was cut off; of this owner, if there is one."""
        floor = (await (self._retention.floor() if owner is None else self._retention.floor_of(owner))).number
        if after < floor:
            raise EventsTrimmed(f"the entries up to {floor} were cut off, and {after + 1} was to be read")


def _next_count(count: int, size_bytes: int) -> int:
    """Return how many entries to read after this many of this size: as many as fit the page, but no more than these."""
    room_bytes = max(0, PAGE_BYTES - size_bytes)
    return min(count, 1 + room_bytes * count // max(1, size_bytes))


def _recent(document: Document, since: int) -> Place | None:
    appended = document.get("appended")
    is_recent = isinstance(appended, int) and appended >= since
    return Place(document["_id"], checksum_in(document)) if is_recent else None
