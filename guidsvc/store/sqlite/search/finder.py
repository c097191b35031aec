"""Searches of the SQLite file, and the threads that run them. Their statements are in `statements`.

A search may scan many rows, so it never runs on the event loop. A page in key order can be found in three ways. Which
is fastest depends on how many rows match the bounds on the expiry. Counting those takes longer than most pages, so the
first way is tried before counting:

    near    scan a limited number of rows in key order: most selections match most rows
    few     read the keys of all matches from an index on the expiry, sort them, and read the rows of the page
    many    scan in key order and skip other rows: by the index on the owner or user if the selection names one,
            else by the primary key

In each case the cost does not depend on the position in the list. The search of an owner reads only entries of the
owner, in indexes on the owner: otherwise its time would reveal how many records others have.

A page in order of expiry is read from an index on the expiry. If the selection names a user, few entries of that index
may match. Then only the next entries are tried (near). After that, the keys of the page are selected from the index on
the user, which is as long as a count.

The indexes on the owner contain no records without an owner, which are created while access control is off. A selection
of those uses the other indexes, or all rows.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Generic, TypeVar

from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.receipt import ReceiptUsage
from guidsvc.domain.record import MetadataCheck, Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import StoreUnavailable
from guidsvc.runtime.background import WorkerThreads, in_thread
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.store.sqlite.files import WAL_BYTES, StoreFiles
from guidsvc.store.sqlite.schema import open_reader
from guidsvc.store.sqlite.search.statements import (
    count_statement,
    end_statement,
    expire_end_statement,
    expire_statement,
    probe_statement,
    statement,
    top_statement,
    values_of,
)
from guidsvc.store.sqlite.tables import AFTER_HEX, RECEIPT_USAGE, metadata_check
from guidsvc.store.sqlite.writer import code_of
from guidsvc.store.work_time import add_work

FIND_SECONDS = 10.0
"""Time limit for a search, including the wait for a thread."""
THREADS = 4
"""Number of concurrent searches. They run in C, and do not block the event loop."""
FEW = 5_000
"""Below this number of matches, sorting them is faster than a scan in key order."""

NEAR = 500
"""Number of rows scanned in key order before the matches are counted."""

Make = Callable[[Sequence[tuple[object, ...]], MetadataCheck], list[Record]]
"""Converts rows to records."""
_Found = TypeVar("_Found")


class Finder:
    """Searches a file with its own connections, each in one thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int = THREADS,
        seconds: float = FIND_SECONDS,
        few: int = FEW,
        near: int = NEAR,
        wal_bytes: int = WAL_BYTES,
    ) -> None:
        self.files: StoreFiles | None = None
        """Checked before another connection opens the file by its name."""
        self.wait_for_pause: Callable[[], Awaitable[None]] | None = None
        """Awaited before each search: returns when it may start."""
        self.wal_bytes = wal_bytes
        """Size of the write-ahead log above which searches pause."""
        self._path = path
        self._seconds = seconds
        self._few = few
        self._near = near
        self._slots = FairSemaphore(threads)
        self.threads = WorkerThreads(threads, "sqlite-finder")
        self._open = ExitStack()
        self._idle: list[sqlite3.Connection] = []
        self._running: set[sqlite3.Connection] = set()
        self._metadata_checks: dict[sqlite3.Connection, MetadataCheck] = {}

    async def find(self, selection: Selection, after: str, limit: int, make: Make) -> list[Record]:
        """Return the records of a page. `make` runs in the thread, too."""
        values = values_of(selection, after) | {"limit": limit, "near": self._near}

        def work(connection: sqlite3.Connection) -> list[Record]:
            try:
                rows = self._page(connection, selection, values)
            except sqlite3.DatabaseError as error:
                if code_of(error) != sqlite3.SQLITE_CORRUPT:
                    raise
                # The damage may affect only an index used as a short cut: in key order the page may be whole.
                rows = connection.execute(statement(selection, few=False), values).fetchall()
            return make(rows, self._metadata_checks[connection])

        return await self.run(work, selection.turn)

    async def find_by_expire(self, selection: Selection, after: Position, limit: int, make: Make) -> list[Record]:
        """Return the records of a page in order of expiry. `make` runs in the thread, too."""
        place = max((after.expire or 0, after.guid), (selection.expire_from, ""))
        values = values_of(selection, place[1]) | {"after_expire": place[0], "limit": limit, "near": self._near}

        def work(connection: sqlite3.Connection) -> list[Record]:
            return make(_page_by_expire(connection, selection, values), self._metadata_checks[connection])

        return await self.run(work, selection.turn)

    async def count(self, selection: Selection) -> int:
        """Count the rows of a selection."""
        values = values_of(selection, "")

        def work(connection: sqlite3.Connection) -> int:
            (count,) = connection.execute(count_statement(selection), values).fetchone()
            return int(count)

        return await self.run(work, selection.turn)

    async def receipt_usage(self, prefix: str) -> ReceiptUsage:
        """Count the receipts whose key starts with this prefix, and the bytes of their answers."""

        def work(connection: sqlite3.Connection) -> ReceiptUsage:
            return ReceiptUsage(*connection.execute(RECEIPT_USAGE, (prefix, prefix + AFTER_HEX)).fetchone())

        return await self.run(work, prefix)

    @property
    def is_idle(self) -> bool:
        """Whether no search runs."""
        return not self._running

    def interrupt(self) -> None:
        """Interrupt the statements that run now. Their searches run again."""
        for connection in self._running:
            connection.interrupt()

    async def aclose(self) -> None:
        """Wait until every search has ended, and close the connections."""
        await in_thread(self.threads.shut_down)
        self._open.close()

    async def run(self, work: Callable[[sqlite3.Connection], _Found], queue_name: str | None = None) -> _Found:
        """Run the work in a thread; waiting callers take turns."""
        try:
            async with asyncio.timeout(self._seconds), self._slots.slot(queue_name):
                return await self._search(work)
        except TimeoutError as error:
            raise StoreUnavailable(f"SQLite: a search took longer than {self._seconds} s") from error

    async def _search(self, work: Callable[[sqlite3.Connection], _Found]) -> _Found:
        """Run the work outside of pauses; run it again if a pause interrupted it."""
        while True:
            if self.wait_for_pause is not None:
                await self.wait_for_pause()
            try:
                return await self._in_thread(work, self._idle.pop() if self._idle else self._connect())
            except sqlite3.OperationalError as error:
                if code_of(error) != sqlite3.SQLITE_INTERRUPT:
                    raise

    async def _in_thread(self, work: Callable[[sqlite3.Connection], _Found], connection: sqlite3.Connection) -> _Found:
        """Run the work in a thread; interrupt it if the caller is cancelled, so that the thread is free again."""
        timed = _TimedWork(work)
        try:
            running = self.threads.run(partial(timed, connection))
        except RuntimeError:  # no thread can be started
            self._idle.append(connection)
            raise
        self._running.add(connection)
        running.add_done_callback(lambda _: self._release(connection))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                connection.interrupt()  # affects only a running statement
                await asyncio.wait([running], timeout=0.01)
            running.exception()
            raise
        finally:
            add_work(timed.seconds)

    def _release(self, connection: sqlite3.Connection) -> None:
        self._running.remove(connection)
        self._idle.append(connection)

    def _page(
        self, connection: sqlite3.Connection, selection: Selection, values: dict[str, object]
    ) -> list[tuple[object, ...]]:
        rows = _near(connection, selection, values) if selection.by_expire else None
        if rows is not None:
            return rows
        few = selection.by_expire and self._are_few(connection, selection)
        return connection.execute(statement(selection, few=few), values).fetchall()

    def _are_few(self, connection: sqlite3.Connection, selection: Selection) -> bool:
        # If an owner's user is named, each match costs a look-up of its row: fewer of them are worth it.
        few = min(self._near, self._few) if selection.owner and selection.user is not None else self._few
        (found,) = connection.execute(probe_statement(selection), values_of(selection, "") | {"few": few}).fetchone()
        return bool(found < few)

    def _connect(self) -> sqlite3.Connection:
        if self.files is not None:
            self.files.check()
        connection = self._open.enter_context(closing(open_reader(self._path)))
        self._metadata_checks[connection] = metadata_check(connection)
        return connection


class _TimedWork(Generic[_Found]):
    """Work in a thread, and its duration."""

    def __init__(self, work: Callable[[sqlite3.Connection], _Found]) -> None:
        self._work = work
        self.seconds = 0.0

    def __call__(self, connection: sqlite3.Connection) -> _Found:
        begun = perf_counter()
        try:
            return self._work(connection)
        finally:
            self.seconds = perf_counter() - begun


def _near(
    connection: sqlite3.Connection, selection: Selection, values: dict[str, object]
) -> list[tuple[object, ...]] | None:
    """Return a page that the next rows in key order complete, because it is full or the last; else None."""
    end = connection.execute(end_statement(selection), values).fetchone()
    if end is None:
        return connection.execute(statement(selection, few=False), values).fetchall()
    rows = connection.execute(statement(selection, few=False, end=True), values | {"end": end[0]}).fetchall()
    return rows if len(rows) == values["limit"] else None


def _page_by_expire(
    connection: sqlite3.Connection, selection: Selection, values: dict[str, object]
) -> list[tuple[object, ...]]:
    if selection.user is None and selection.owner != "":  # all entries of the index match
        return connection.execute(expire_statement(selection), values).fetchall()
    last = connection.execute(expire_end_statement(selection), values).fetchone()
    end_expire, end = last or (selection.expire_before, "")  # no key sorts before "": the expiry is exclusive
    values |= {"end_expire": end_expire, "end": end}
    rows = connection.execute(expire_statement(selection, end=True), values).fetchall()
    if last is None or len(rows) == values["limit"]:
        return rows
    return connection.execute(top_statement(selection), values).fetchall()
