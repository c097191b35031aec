"""The engine of the SQLite store: the connections and threads that all repositories of one file share.

Point reads run on the event loop: they take microseconds, where a thread would cost tens of them. Writes go to one
thread, which commits all waiting writes in one transaction (group commit), and are answered once the log is synced.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from guidsvc.errors import CorruptRecord, GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.batching import Batcher, Patience
from guidsvc.store.sqlite.files import StoreFiles
from guidsvc.store.sqlite.search import Finder
from guidsvc.store.sqlite.tables import RECORDS, Change, Row, Table
from guidsvc.store.sqlite.writer import Writer, failure
from guidsvc.telemetry.metrics import StoreMetrics

WRITE_SECONDS = 5.0
"""Time limit for a write; after it, the caller gets StoreUnavailable or OutcomeUnknown."""
GROUP = 512
"""Maximum number of writes in one transaction."""

_Done = TypeVar("_Done")


@dataclass
class _Swap:
    change: Change
    is_droppable: bool  # together with the cancel scope of its caller
    is_taken: bool = False  # by the thread: the caller can no longer withdraw it


class SqliteEngine:
    """A reader connection for the event loop, a writer connection with its own thread, and the threads of searches."""

    def __init__(
        self,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        finder: Finder,
        *,
        write_seconds: float = WRITE_SECONDS,
        meter: StoreMetrics | None = None,
        is_claimed: bool = False,
    ) -> None:
        (_, _, self._file) = writer.execute("PRAGMA database_list").fetchone()
        self.files = finder.files = StoreFiles(Path(self._file), is_claimed=is_claimed)
        self.writer = Writer(writer, self.files)
        self.reader = reader
        self.finder = finder
        self._write_seconds = write_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-writer")
        self.meter = StoreMetrics() if meter is None else meter
        self.meter.wal_bytes = self.files.wal_bytes
        self._swaps: Batcher[_Swap, bool] = Batcher(
            self._commit,
            limit=GROUP,
            in_flight=1,
            patience=Patience(write_seconds, self._overdue),
            droppable=lambda swap: swap.is_droppable,
            meter=self.meter.batch("commit"),
        )
        self._settled: Batcher[str, tuple[object, ...] | None] = Batcher(
            self._settle, limit=GROUP, in_flight=1, meter=self.meter.batch("settle")
        )

    def read(self, table: Table[Row], key: str) -> Row | None:
        """Return the row with this key, or None if it is absent."""
        with self.failures():
            values = self.reader.execute(table.select, (key,)).fetchone()
        return None if values is None else row_of(table, key, values)

    async def read_linearizable(self, guid: str) -> tuple[object, ...] | None:
        """Return the row of a record once no earlier write is half done, in any process."""
        return await self._settled.ask(guid)

    async def swap(self, change: Change, *, is_droppable: bool = False) -> bool:
        """Apply a change together with others that wait; return whether it changed a row.

        A droppable change is dropped if the cancel scope of its caller is cancelled before it is sent.
        """
        return await self._swaps.ask(_Swap(change, is_droppable))

    async def purge(self, statement: str, before: int, limit: int) -> list[int]:
        """Purge, and return the `purge_at` of each deleted row."""
        purge = partial(self.writer.returned, Change(statement, (before, limit)))
        return [int(due) for (due,) in await self.in_thread(partial(self.writer.transaction, purge))]

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Convert SQLite errors raised in the block to errors of the store."""
        try:
            yield
        except sqlite3.Error as error:
            raise failure(error, self._file) from error

    def in_thread(self, work: Callable[[], _Done]) -> asyncio.Future[_Done]:
        """Run the work in the writer's thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def aclose(self) -> None:
        """Wait until every write has been answered and the threads have ended. The caller closes the connections."""
        await self._swaps.drain()
        await self._settled.drain()
        await self.finder.aclose()
        await asyncio.to_thread(self._thread.shutdown)

    def _overdue(self, swap: _Swap) -> GuidsvcError:
        return (OutcomeUnknown if swap.is_taken else StoreUnavailable)(
            f"the disk took longer than {self._write_seconds} s"
        )

    def _commit(self, swaps: list[_Swap]) -> asyncio.Future[list[bool | GuidsvcError]]:
        for swap in swaps:
            swap.is_taken = True
        return self.in_thread(partial(self.writer.swaps, [swap.change for swap in swaps]))

    def _settle(self, guids: list[str]) -> asyncio.Future[list[tuple[object, ...] | GuidsvcError | None]]:
        return self.in_thread(partial(self.writer.rows, RECORDS.select, guids))


def row_of(table: Table[Row], key: str, values: tuple[object, ...]) -> Row:
    """Convert the values of a row to a model; CorruptRecord if they are invalid."""
    try:
        return table.row(values)
    except ValidationError as error:
        raise CorruptRecord(f"the row of {key} is not a valid {table.model.__name__}: {error}") from error
