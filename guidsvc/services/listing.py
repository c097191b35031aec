"""Lists of records: pages, walks and counts, read in portions of bounded size to limit memory."""

import sys
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import NamedTuple

from guidsvc.domain.caller import Caller
from guidsvc.domain.commands import ListQuery
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.record import Record, render_bodies
from guidsvc.domain.selection import Selection, selection
from guidsvc.runtime.clock import Clock
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.store.contract import RecordRepository

STRIDE = 250
"""Maximum number of records in one read."""
FRAME_BYTES = 256
"""Bytes of a record in a list beyond its `json_body`: what `view=full` adds, and separators."""
PAGE_BYTES, PAGE_PROBE = 1024 * 1024, 64
"""Approximate maximum size of a page, and number of records in its first read, when their size is unknown."""
PAGES = 16
"""Maximum number of pages read concurrently, to bound memory; further requests wait."""
TOTALS = 4
"""Maximum number of lists with a total, or as costly, in progress. As few as the threads that search SQLite, so that a
list that has begun is not delayed by others that have just begun, and all are answered in order of arrival."""
PART_BYTES, PART_PROBE = 64 * 1024, 16
"""The same for one part of a walk."""

Find = Callable[[Position, int], Awaitable[Sequence[Record]]]
"""Returns the first records after a position, up to a limit; fewer only at the end of the selection."""


class Page(NamedTuple):
    """A page of a list, and the position at which the next page starts; None on the last page."""

    records: Sequence[Record]
    next: Position | None


class RecordListing:
    """Lists of the records that a caller may see.

    Callers take turns by their `queue_name`, by default their owner.
    """

    def __init__(self, records: RecordRepository, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._pages = FairSemaphore(PAGES)
        self._totals = FairSemaphore(TOTALS)

    def slots(self, query: ListQuery, caller: Caller, *, has_total: bool) -> FairSemaphore:
        """Return the slots of which a page, with a total or without, must hold one."""
        is_costly = has_total or (query.sort == "expire" and self.is_restricted(query, caller))
        return self._totals if is_costly else self._pages

    async def find(self, query: ListQuery, caller: Caller, queue_name: str | None = None) -> Page:
        """Return one page of a list; it ends early at PAGE_BYTES. The caller holds one of the `slots`."""
        page: list[Record] = []
        size, most = 0, query.page
        name = _turn(caller, queue_name)
        begun = self._selection(query, caller)
        parts = self._portions(query, caller, name, most + 1, most_bytes=PAGE_BYTES, probe=PAGE_PROBE)
        async with aclosing(parts):
            async for part in parts:
                fitting, fitting_bytes = _fitting(part, PAGE_BYTES, size)
                page += fitting
                size += fitting_bytes
                if len(page) > most or len(fitting) < len(part):
                    page = page[:most]
                    return Page(self._selected(query, caller, page, begun), Position.after(page[-1], query.sort))
        return Page(self._selected(query, caller, page, begun), None)

    async def walk(
        self, query: ListQuery, caller: Caller, queue_name: str | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """Yield the records that a query selects, in parts of PART_BYTES, up to its limit, if any.

        No reference to a part is held while the consumer works on it.
        """
        limit = sys.maxsize if query.limit is None else query.limit
        name = _turn(caller, queue_name)
        begun = self._selection(query, caller)
        parts = self._portions(query, caller, name, limit, most_bytes=PART_BYTES, probe=PART_PROBE)
        async with aclosing(parts):
            while (part := await anext(parts, None)) is not None:
                handover = [self._selected(query, caller, part, begun)]
                begun = self._selection(query, caller)
                del part
                yield handover.pop()

    async def count(self, query: ListQuery, caller: Caller, queue_name: str | None = None) -> int:
        """Count the records that a query selects. The caller holds one of the `slots`."""
        return await self._records.count(self._selection(query, caller, _turn(caller, queue_name)))

    def _portions(  # what a portion depends on
        self, query: ListQuery, caller: Caller, queue_name: str, limit: int, *, most_bytes: int, probe: int
    ) -> AsyncGenerator[Sequence[Record]]:
        """Yield the records that a query selects, in portions."""

        def find(after: Position, count: int) -> Awaitable[Sequence[Record]]:
            wanted = self._selection(query, caller, queue_name)
            if after.expire is None:
                return self._records.find(wanted, after.guid, count)
            return self._records.find_by_expire(wanted, after, count)

        start = query.cursor or Position.start(query.sort)
        return portions(find, start, limit, most_bytes=most_bytes, probe=probe)

    def _selected(
        self, query: ListQuery, caller: Caller, found: Sequence[Record], begun: Selection
    ) -> Sequence[Record]:
        """Return the records that still match: some may have expired since they were read.

        `begun` is the filter from before they were read: all match if it is the same still.
        """
        wanted = self._selection(query, caller)
        return found if wanted == begun else wanted.matching(found)

    def is_restricted(self, query: ListQuery, caller: Caller) -> bool:
        """Whether a list holds the records of one owner or user only: in order of expiry, a page may cost a count."""
        wanted = self._selection(query, caller)
        return wanted.owner is not None or wanted.user is not None

    def _selection(self, query: ListQuery, caller: Caller, queue_name: str | None = None) -> Selection:
        """Return the filter of a query as of now. Admins may select any owner or all; others only their own."""
        owner = query.owner if caller.is_admin else caller.owner
        return selection(query, self._clock(), owner, queue_name)


def _turn(caller: Caller, queue_name: str | None) -> str:
    return caller.owner if queue_name is None else queue_name


async def portions(
    find: Find, after: Position, limit: int, *, most_bytes: int, probe: int
) -> AsyncGenerator[Sequence[Record]]:
    """Yield the records after a position, at most `limit`, in portions of at most about `most_bytes`, or one record.

    The first read has `probe` records; later ones adapt to the size of the previous portion. Records that do not fit
    are read again for the next portion, so that nothing is held while the consumer works on one.
    """
    asked = min(limit, probe)
    while asked:
        found = await find(after, asked)
        part, size = _fitting(found, most_bytes)
        is_last = len(part) == len(found) < asked
        if not part:
            return
        after, limit = Position.after(part[-1], after.order), limit - len(part)
        asked = 0 if is_last else min(limit, STRIDE, max(1, most_bytes * len(part) // size))
        handover = [part]
        del found, part
        yield handover.pop()


def _fitting(records: Sequence[Record], most_bytes: int, taken_bytes: int = 0) -> tuple[Sequence[Record], int]:
    """Return the longest prefix of at most `most_bytes` with those that are taken, and its size.

    If nothing is taken, it has at least one record.
    """
    sizes = [len(body) + FRAME_BYTES for body in render_bodies(records)]
    total = sum(sizes)
    if taken_bytes + total <= most_bytes:
        return records, total
    ends = list(accumulate(sizes))
    count = max(bisect_right(ends, most_bytes - taken_bytes), 0 if taken_bytes else 1)
    return records[:count], ends[count - 1] if count else 0
