"""The repositories of the SQLite store: records, receipts, API keys, quota ledgers and the cache fence."""

import sqlite3
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any, Generic

from pydantic import ValidationError
from pydantic_core import to_json

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.domain.record import MetadataCheck, Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import CorruptRecord, GuidsvcError
from guidsvc.runtime.fairness.decoding_turns import VALIDATED_BYTES
from guidsvc.store.cache_fence import Fence, FenceReading, Mode
from guidsvc.store.contract import Swap, TakeTurn
from guidsvc.store.sqlite.engine import SqliteEngine, row_of
from guidsvc.store.sqlite.events.appender import RecordSwap
from guidsvc.store.sqlite.tables import (
    COUNT_BY_EXPIRE,
    FENCE,
    KEYS,
    LIST_KEYS,
    RECEIPTS,
    RECORDS,
    SWAP_FENCE,
    Change,
    Row,
    Table,
    records_of,
)
from guidsvc.store.sqlite.writer import SwapChain, Write, monotonic_ms
from guidsvc.utf8 import utf8_bytes

_metadata_of = itemgetter(RECORDS.columns.index("metadata"))


class SqliteRepository(Generic[Row]):
    """A table with a row for each item."""

    def __init__(self, engine: SqliteEngine, table: Table[Row]) -> None:
        self._engine = engine
        self._table = table

    async def get(self, key: str, /) -> Row | None:
        return self._engine.read(self._table, key)

    async def swap(self, old: Row | None, new: Row | None) -> bool:
        change = self._table.change(old, new)
        written_bytes = sum(len(value) for value in change.values if isinstance(value, str | bytes))
        return await self._engine.swap(change, written_bytes)


class SqliteRecords:
    """The table of records."""

    commits_chains = True

    def __init__(self, engine: SqliteEngine) -> None:
        self._engine = engine

    async def get(self, guid: str, /) -> Record | None:
        return self._engine.read(RECORDS, guid)

    def get_nowait(self, guid: str, /) -> Record | None:
        return self._engine.read(RECORDS, guid)

    def begin_get(self, guid: str, caller: str, /) -> None:
        """Return None: `get_nowait` never blocks."""

    async def get_for_update(self, guid: str, /) -> Record | None:
        return self._engine.read(RECORDS, guid)

    async def get_many_for_update(self, guids: Sequence[str], take_turn: TakeTurn, /) -> Mapping[str, Record]:
        with self._engine.failures():
            rows = self._engine.reader.execute(RECORDS.select_many, (to_json(guids).decode(),)).fetchall()
        records: dict[str, Record] = {}
        for number, part in enumerate(_parts_of(rows)):
            if number:
                await take_turn()
            records.update((record.guid, record) for record in _records_of(part, self._engine.metadata_check))
        return records

    async def get_linearizable(self, guid: str, /) -> Record | None:
        found = await self._engine.read_linearizable(guid)
        return None if found is None else row_of(RECORDS, guid, found, self._engine.metadata_check)

    def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> Coroutine[Any, Any, bool]:
        written_bytes = 0
        if new is not None and (new.metadata or (old is not None and old.metadata)):  # seldom: saves a call
            written_bytes = _written_bytes(old, new)
        return self._engine.swap(self._write(old, new, not_after, origin), written_bytes, is_droppable=True)

    async def swap_many(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        return await self._engine.swap_many(
            [self._write(old, new, not_after, origin) for old, new, not_after, origin in swaps],
            _all_written_bytes(swaps),
        )

    async def swap_chain(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        chain = SwapChain([self._write(*swap) for swap in swaps])
        try:
            await self._engine.swap(chain, sum(_all_written_bytes(swaps)))
        except GuidsvcError as error:
            return [error] * len(swaps)
        return [place < chain.applied for place in range(len(swaps))]

    def _write(self, old: Record | None, new: Record | None, not_after: int | None, origin: Origin) -> Write:
        """Return the write of a swap. One that leaves nothing, not even a tombstone, is no change that is logged."""
        if new is None:
            return RECORDS.change(old, new, not_after=not_after)
        return RecordSwap(self._engine.appender, old, new, origin, not_after)

    async def find(self, selection: Selection, after: str, limit: int) -> list[Record]:
        with self._engine.failures():
            return await self._engine.finder.find(selection, after, limit, _records_of)

    async def find_by_expire(self, selection: Selection, after: Position, limit: int) -> list[Record]:
        with self._engine.failures():
            return await self._engine.finder.find_by_expire(selection, after, limit, _records_of)

    async def count(self, selection: Selection) -> int:
        with self._engine.failures():
            return await self._engine.finder.count(selection)

    async def count_linearizable(self, selection: Selection) -> int:
        await self.get_linearizable("")  # then no swap is half done: each is counted, or too late
        return await self.count(selection)

    async def count_by_expire(self, bounds: Sequence[int], kept_at: int) -> list[int]:
        values = {"ranges": to_json(list(pairwise(bounds))).decode(), "kept_at": kept_at}
        with self._engine.failures():
            return await self._engine.finder.run(lambda connection: _counts(connection, values))


class SqliteReceipts(SqliteRepository[Receipt]):
    """The table of receipts."""

    def __init__(self, engine: SqliteEngine) -> None:
        super().__init__(engine, RECEIPTS)

    async def usage(self, prefix: str) -> ReceiptUsage:
        with self._engine.failures():
            return await self._engine.finder.receipt_usage(prefix)

    async def purge(self, before: int, limit: int) -> int:
        return len(await self._engine.purge(RECEIPTS.purge, before, limit))


class SqliteApiKeys(SqliteRepository[ApiKey]):
    """The table of API keys."""

    def __init__(self, engine: SqliteEngine) -> None:
        super().__init__(engine, KEYS)

    async def list(self, after: str, limit: int) -> Sequence[ApiKey]:
        with self._engine.failures():
            rows = self._engine.reader.execute(LIST_KEYS, (after, limit)).fetchall()
        return [row_of(KEYS, str(row[0]), row) for row in rows]


class SqliteFence:
    """The one row of the cache fence. The clock of the store is the monotonic clock of the host."""

    def __init__(self, engine: SqliteEngine) -> None:
        self._engine = engine
        self.is_void = False
        """Whether the stored fence is that of an earlier process, because the start could not write."""

    async def read(self) -> FenceReading:
        is_void = self.is_void  # read first: the writer's thread clears it after it has written the fence
        with self._engine.failures():
            found = self._engine.reader.execute(FENCE).fetchone()
        fence = _fence_of(found)
        if is_void:
            fence = Fence(Mode.OFF, fence.gen + 1, "")  # as the start will write it
        return FenceReading(fence, monotonic_ms())

    async def swap(self, old: Fence, new: Fence) -> bool:
        swap = partial(self._engine.writer.execute, Change(SWAP_FENCE, (*new, *old)))
        return await self._engine.in_thread(partial(self._engine.writer.transaction, swap)) == 1


def _written_bytes(old: Record | None, new: Record) -> int:
    """Return how much metadata a change writes at most: into the row of its record, and into entries of the log."""
    size_bytes = 0
    if new.metadata is not None:
        is_revoked = new.expire * 1000 <= new.updated  # then the log gets an entry of the change and one of the expiry
        size_bytes = (3 if is_revoked else 2) * utf8_bytes(new.metadata)
    if old is not None and old.metadata is not None:
        has_expired = old.expire * 1000 <= new.updated  # then the log may still lack the entry of that
        copies = has_expired + new.is_deleted  # the entry of a deletion has the record before it
        size_bytes += copies * utf8_bytes(old.metadata) if copies else 0
    return size_bytes


def _all_written_bytes(swaps: Sequence[Swap]) -> list[int]:
    return [
        _written_bytes(old, new) if new is not None and (new.metadata or (old is not None and old.metadata)) else 0
        for old, new, _, _ in swaps
    ]


def _counts(connection: sqlite3.Connection, values: Mapping[str, object]) -> list[int]:
    return [int(count) for (count,) in connection.execute(COUNT_BY_EXPIRE, values)]


def _parts_of(rows: list[tuple[object, ...]]) -> list[list[tuple[object, ...]]]:
    """Split the rows of records into parts of at most VALIDATED_BYTES of metadata each, or of one row."""
    if sum(map(len, filter(None, map(_metadata_of, rows)))) <= VALIDATED_BYTES:  # without a call for each
        return [rows]
    parts: list[list[tuple[object, ...]]] = [[]]
    part_bytes = 0
    for row in rows:
        row_bytes = len(_metadata_of(row) or "")
        if parts[-1] and part_bytes + row_bytes > VALIDATED_BYTES:
            parts.append([])
            part_bytes = 0
        parts[-1].append(row)
        part_bytes += row_bytes
    return parts


def _records_of(rows: Sequence[tuple[object, ...]], check: MetadataCheck) -> list[Record]:
    """Convert rows to records; CorruptRecord, which names the row, if one is invalid."""
    try:
        return records_of(rows, check)
    except ValidationError:
        return [row_of(RECORDS, str(row[0]), row, check) for row in rows]


def _fence_of(row: tuple[str, int, str] | None) -> Fence:
    if row is None or row[0] not in set(Mode) or not isinstance(row[1], int):
        raise CorruptRecord("the fence of the store is damaged; restart all processes that use it")
    mode, gen, boot = row
    return Fence(Mode(mode), gen, boot)
