"""One step in which a log of several owners shrinks.

Entries move to the archive before the floor of the log is raised above them, and are deleted from it after the shares
say that they are gone. Shares and floor are in one document, which a step replaces only if no other process has changed
it meanwhile. So a reader that finds the same floor of its owner before and after it reads has missed nothing.

A process of a version without shares may raise the floor. Then the shares are of another floor, and the archive is
void.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from guidsvc.domain.events.shares import Cut, Item, LogCut, Place, Shares, decode, set_floors
from guidsvc.store.mongo.documents import Document
from guidsvc.store.mongo.events.archive.collection import Archive, owner_in
from guidsvc.store.mongo.events.entry_documents import checksum_in
from guidsvc.store.mongo.events.operations import Operations
from guidsvc.store.mongo.events.sequencer import BOUNDS_ID, BY_OWNER, Head
from guidsvc.store.mongo.repository import Collection, in_one_reply

COUNTED = 2000
"""Number of entries that are counted in one step."""


class Bounds(NamedTuple):
    """The beginning of the log, from its bounds."""

    floor: Place
    total_bytes: int
    """The size of all entries up to the floor."""
    shares: object
    """The text of the shares, or None."""


class Oldest(NamedTuple):
    """The oldest entries of the log that are no longer in an outbox."""

    documents: Sequence[Document]
    items: Sequence[Item]
    places: Sequence[Place]
    totals: Sequence[int]
    """The size of all entries up to each."""


class SharedTrim:
    """The steps of a process."""

    def __init__(self, log: Collection, bounds: Collection, archive: Archive, operations: Operations) -> None:
        self._log = log
        self._bounds = bounds
        self._archive = archive
        self._operations = operations

    async def is_due(self, bounds: Bounds, *, is_over: bool) -> bool:
        """Whether the log has shares, or must get them because it is over its size and not of one owner."""
        if bounds.shares is not None or not is_over:
            return bounds.shares is not None
        owned = self._log.find({"owner": {"$gt": ""}}, {"_id": 1}).hint(BY_OWNER).limit(1)
        return bool(await self._operations.read(partial(owned.to_list, 1)))

    async def run(
        self,
        bounds: Bounds,
        head: Head,
        oldest: Callable[[int], Awaitable[Oldest]],
        limits: tuple[int, int],
        limit: int,
    ) -> int:
        """Do a step; return how many entries were looked at, `limit` if there may be more to do.

        `limits` are the time before which entries are old, and the size of the log in bytes.
        """
        before, size_bytes = limits
        shares = decode(bounds.shares, bounds.floor.number) or Shares.begin(bounds.floor, bounds.total_bytes)
        excess_bytes = head.total_bytes - bounds.total_bytes + shares.archive_bytes - size_bytes
        if excess_bytes > 0 and not await self._count(shares, head):
            return limit if await self._save(bounds, bounds, shares) else 0
        cut = Cut(shares, excess_bytes, size_bytes)
        done, owners = await self._trim_archive(cut, before, limit)
        raised = bounds
        if done < limit:
            found = await oldest(limit - done)
            raised, count = await self._trim_log(cut, bounds, found)
            done += count
        shares.settle(raised.floor, raised.total_bytes)
        if not await self._save(bounds, raised, shares):
            return 0
        await self._delete(shares, owners)
        return done

    async def _count(self, shares: Shares, head: Head) -> bool:
        """Count entries; return whether all are counted."""
        wanted = {"_id": {"$gt": shares.counted_to, "$lte": head.number}}
        uncounted = in_one_reply(self._log.find(wanted, {"owner": 1, "total": 1}).sort("_id", 1), COUNTED)
        for each in await self._operations.scan(partial(uncounted.to_list, COUNTED)):
            total = each.get("total")
            shares.count(each["_id"], owner_in(each), total if isinstance(total, int) else shares.counted_bytes)
        shares.fold()
        return shares.counted_to >= head.number

    async def _trim_archive(self, cut: Cut, before: int, limit: int) -> tuple[int, list[str]]:
        """Drop entries of the archive; return how many, and of which owners beside the oldest ones of all."""
        shares, owners = cut.shares, []
        items = await self._archive.oldest(shares.start, before, limit)
        done = cut.of_archive(items)
        if done:
            shares.raise_start(await self._place(items[done - 1].number))
        for owner in cut.heavy_owners():
            if done < limit:
                items = await self._archive.oldest_of(owner, shares.floor_of(owner).number, limit - done)
                count = cut.of_owner(items)
                if count:
                    set_floors(shares, {owner: await self._place(items[count - 1].number)})
                    owners.append(owner)
                done += count
        return done, owners

    async def _place(self, number: int) -> Place:
        found = await self._archive.find(number)
        return Place(number, 0 if found is None else checksum_in(found))

    async def _trim_log(self, cut: Cut, bounds: Bounds, oldest: Oldest) -> tuple[Bounds, int]:
        """Return the bounds behind the entries that leave the log, and how many these are. Archive those that stay."""
        found = cut.of_log(oldest.items)
        if not found.amount:
            return bounds, 0
        await self._add(found, oldest)
        places = {place.number: place for place in oldest.places}
        set_floors(cut.shares, {owner: places[number] for owner, number in found.dropped.items()})
        last = found.amount - 1
        return Bounds(oldest.places[last], oldest.totals[last], None), found.amount

    async def _add(self, found: LogCut, oldest: Oldest) -> None:
        archived = set(found.archived)
        kept = [place for place, item in enumerate(oldest.items) if item.number in archived]
        sizes = [oldest.items[place].size_bytes for place in kept]
        await self._archive.add([oldest.documents[place] for place in kept], sizes)

    async def _save(self, bounds: Bounds, raised: Bounds, shares: Shares) -> bool:
        """Replace floor and shares; False if another process has changed them."""
        text = shares.encode()
        if text == bounds.shares and raised.floor == bounds.floor:
            return True
        same = {"_id": BOUNDS_ID, "floor": bounds.floor.number, "shares": bounds.shares}
        floor, checksum = raised.floor
        new: dict[str, Any] = {"floor": floor, "checksum": checksum, "total": raised.total_bytes, "shares": text}
        update = partial(self._bounds.update_one, same, {"$set": new})
        return bool((await self._operations.write(update)).matched_count)

    async def _delete(self, shares: Shares, owners: Sequence[str]) -> None:
        await self._archive.delete(shares.start)
        for owner in owners:
            await self._archive.delete(shares.floor_of(owner).number, owner)
