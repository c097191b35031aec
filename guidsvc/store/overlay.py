"""Dry run of writes: reads through to the real records and keeps writes in a temporary SQLite overlay.

The overlay database has no name, spills to disk when it grows, and disappears when it is closed. Its pages count
against the temporary space of the request, which bounds its size. The first write opens it, after reserving its
space, so the temporary space also bounds the number of overlays.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.record import RENDERED, Record
from guidsvc.errors import TemporaryFileUnavailable
from guidsvc.runtime.temporary_space import MEMORY_BYTES, Share, TemporarySpace
from guidsvc.store.contract import WOULD_BLOCK, RecordRepository, WouldBlock
from guidsvc.store.delegating import DelegatingRecords

_SCHEMA = """
    PRAGMA journal_mode = OFF;
    CREATE TABLE rehearsed (guid TEXT PRIMARY KEY, record TEXT);
"""
# Not WITHOUT ROWID: a row of more than a kilobyte would take pages of its own.

_STEP_BYTES = 256 * 1024
"""Temporary space is reserved in steps of this many bytes."""
_ROW_BYTES, _PER_BYTE = 512, 2
"""Upper bound of a row's size in the file: a fixed part, plus a factor of its own bytes (pages may be half empty)."""


@contextmanager
def open_overlay(records: RecordRepository, share: Share | None = None) -> Iterator["OverlayRecords"]:
    """Yield a dry-run overlay of records, which are never written. Overlay data counts against the request's share."""
    with ExitStack() as opened:
        share = opened.enter_context(TemporarySpace().share()) if share is None else share
        yield opened.enter_context(closing(OverlayRecords(records, share)))


class OverlayRecords(DelegatingRecords):
    """The records as the writes would leave them. Its one service must serialize the swaps of a GUID."""

    def __init__(self, records: RecordRepository, share: Share) -> None:
        super().__init__(records)
        self._written: sqlite3.Connection | None = None
        self._share = share
        self._room = 0  # bytes reserved and not yet written
        self._taken_bytes = 0
        self._has_file = False
        self._fault: str | None = None  # the first SQLite error: without a journal it may have damaged the database
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Discard all writes."""
        if self._written is not None:
            self._written.close()

    async def get(self, guid: str, /) -> Record | None:
        if self._written is None:
            return await self._records.get(guid)
        await self._give_way()
        rows = self._execute("SELECT record FROM rehearsed WHERE guid = ?", guid)
        if not rows:
            return await self._records.get(guid)
        ((text,),) = rows
        return None if text is None else Record.model_validate_json(str(text), context=RENDERED)

    get_for_update = get

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:  # noqa: ARG002  # `get` always answers
        return WOULD_BLOCK

    async def swap(
        self,
        old: Record | None,
        new: Record | None,
        *,
        not_after: int | None = None,  # noqa: ARG002  # no lease covers a rehearsal
        origin: Origin = NO_ORIGIN,  # noqa: ARG002  # a rehearsal leaves no entry in the log
    ) -> bool:
        guid = (old or new).guid  # type: ignore[union-attr]  # the contract: one of them is a record
        stored = await self.get(guid)
        if (stored and stored.version) != (old and old.version):
            return False
        await self._give_way()
        text = new and new.model_dump_json()
        self._take(_ROW_BYTES + _PER_BYTE * len(text.encode() if text else b""))
        self._execute("REPLACE INTO rehearsed VALUES (?, ?)", guid, text)
        return True

    async def _give_way(self) -> None:
        """Let others have the event loop: nothing else in a dry run waits, and one operation is done in a turn."""
        async with self._turn:
            await asyncio.sleep(0)

    def _take(self, size: int) -> None:
        """Reserve space for a row. The space of a replaced row is not released, because SQLite may not reuse it."""
        if size > self._room:
            step = max(size, min(_STEP_BYTES, self._share.free_bytes))
            self._take_file(step)
            self._share.take(step)
            self._room += step
            self._taken_bytes += step
        self._room -= size

    def _take_file(self, step: int) -> None:
        """Reserve a file descriptor before SQLite needs a file, which is at twice MEMORY_BYTES."""
        if not self._has_file and self._taken_bytes + step > MEMORY_BYTES:
            self._share.take_file()
            self._has_file = True

    def _execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        try:
            if self._fault is not None:
                raise TemporaryFileUnavailable(self._fault)
            if self._written is None:
                self._written = _open_database()
            return self._written.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._fault = f"the temporary database of the validation failed: {error}"
            raise TemporaryFileUnavailable(self._fault) from error


def _open_database() -> sqlite3.Connection:
    opened = sqlite3.connect("", isolation_level=None)
    opened.executescript(_SCHEMA)
    return opened
