"""The embedded store: one SQLite file with a write-ahead log.

Point reads run on the event loop: they take microseconds, where a thread would cost tens of them. Writes go to one
thread, which commits all waiting writes in one transaction (group commit), and are answered once the log is synced.
Errors of sqlite3 never leave this file, `writer` and `schema`.
"""

import asyncio
import errno
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import structlog
from pydantic import ValidationError

from guidsvc.domain.api_key import ApiKey
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.receipt import Receipt, ReceiptUsage
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import (
    CorruptRecord,
    GuidsvcError,
    NoStore,
    OutcomeUnknown,
    StartError,
    StoreReplaced,
    StoreUnavailable,
)
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.batching import Batcher, Patience
from guidsvc.runtime.clock import Clock
from guidsvc.store.cache_fence import Fence, FenceReading, Mode
from guidsvc.store.sqlite.files import WAL_BYTES, StoreFiles
from guidsvc.store.sqlite.schema import (
    FORGET,
    LET_GO,
    MAKE_FENCE,
    MAKE_IDENTITY,
    RENAME,
    claim,
    is_store,
    open_reader,
    open_writer,
    share,
    start_error,
)
from guidsvc.store.sqlite.search import Finder
from guidsvc.store.sqlite.tables import (
    FENCE,
    KEYS,
    LEDGERS,
    LIST_KEYS,
    RECEIPTS,
    RECORDS,
    SWAP_FENCE,
    Change,
    Row,
    Table,
)
from guidsvc.store.sqlite.writer import Writer, failure, monotonic_ms
from guidsvc.telemetry.metrics import StoreMetrics

WRITE_SECONDS = 5.0
"""Time limit for a write; after it, the caller gets StoreUnavailable or OutcomeUnknown."""
GROUP = 512
"""Maximum number of writes in one transaction."""
SWEEP_SECONDS = 60.0
"""Pause between two sweeps for records past their retention."""
WATCH_SECONDS = 1.0
"""Pause between two checks of the files."""
SWEEP_CHUNK, SWEEP_PAUSE = 500, 0.05
"""A sweep deletes this many records at a time, and pauses this many seconds in between, so that others can write."""

_log = structlog.get_logger(__name__)
_Done = TypeVar("_Done")


def path_of_url(url: str) -> Path:
    """Return the path in `sqlite:///relative/path` or `sqlite:////absolute/path`; StartError if the URL is invalid."""
    host, _, path = url.removeprefix("sqlite://").partition("/")
    if host or {"?", "#"} & set(path) or "%00" in path or path in {"", ":memory:"}:
        raise StartError("store_url: a SQLite store is sqlite:///relative/path or sqlite:////absolute/path, of a file")
    path = unquote(path)
    try:
        resolved = Path(path).resolve()  # one name per file, or two processes could each claim it
        str(resolved).encode()
        _refuse_special(resolved)
    except UnicodeEncodeError as error:
        raise StartError("store_url: the path of a SQLite store must be UTF-8") from error
    except RuntimeError as error:  # an OSError since Python 3.13
        raise StartError(f"store_url: {path}: {os.strerror(errno.ELOOP)}; name a file") from error
    except FileNotFoundError as error:
        raise StartError(
            "store_url: the working directory no longer exists; start in another, or name an absolute path: "
            "sqlite:////path/guidsvc.db"
        ) from error
    except OSError as error:
        raise StartError(f"store_url: {path}: {error.strerror}; name another file") from error
    return resolved


def _refuse_special(path: Path) -> None:
    """Raise StartError if the path leads to a pipe, a device or a socket: opening one may block for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # SQLite reports a folder itself
        raise StartError(f"store_url: {path} is no regular file; name another")


@asynccontextmanager
async def open_sqlite(
    path: Path,
    *,
    clock: Clock,
    exclusive: bool,
    sweep_seconds: float = SWEEP_SECONDS,
    wal_bytes: int = WAL_BYTES,
    meter: StoreMetrics | None = None,
) -> AsyncIterator["SqliteStore"]:
    """Open the store in a file, sweep it regularly, and close it once every write has been answered."""
    lock, alone = claim(path, exclusive=exclusive)
    with closing(lock), closing(open_writer(path)) as writer, closing(open_reader(path)) as reader:
        try:
            if alone:
                writer.execute(MAKE_IDENTITY)
                writer.execute(MAKE_FENCE)
                writer.execute(FORGET)
            if exclusive:
                writer.execute(RENAME)
                writer.execute(LET_GO)
        except sqlite3.Error as error:
            raise start_error(path, error) from error
        if alone and not exclusive:
            share(lock)
        store = SqliteStore(writer, reader, Finder(path), meter=meter, is_claimed=True)
        try:
            sweep, watch = partial(_sweep, store, clock, sweep_seconds), partial(_watch, store, wal_bytes)
            async with running_in_background(sweep), running_in_background(watch):
                yield store
        finally:
            await store.aclose()
            store.save_stray_log()


@asynccontextmanager
async def open_keys_of(path: Path, *, create: bool = True) -> AsyncIterator["SqliteStore"]:
    """Open the store in a file for its API keys only. No cache holds them, so this needs no claim on the file.

    NoStore if the file holds no store and `create` is False.
    """
    if not create and not is_store(path):
        raise NoStore(str(path))
    with closing(open_writer(path)) as writer, closing(open_reader(path)) as reader:
        store = SqliteStore(writer, reader, Finder(path))
        try:
            yield store
        finally:
            await store.aclose()


@dataclass
class _Swap:
    change: Change
    droppable: bool  # together with the cancel scope of its caller
    taken: bool = False  # by the thread: the caller can no longer withdraw it


class SqliteStore:
    """Records in SQLite: a reader connection for the event loop, and a writer connection with its own thread."""

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
        self._writer = Writer(writer, self.files)
        self._reader = reader
        self._finder = finder
        self._write_seconds = write_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-writer")
        patience = Patience(write_seconds, self._overdue)
        self._meter = StoreMetrics() if meter is None else meter
        self._meter.wal_bytes = self.files.wal_bytes
        self._swaps: Batcher[_Swap, bool] = Batcher(
            self._commit,
            limit=GROUP,
            in_flight=1,
            patience=patience,
            droppable=lambda swap: swap.droppable,
            meter=self._meter.batch("commit"),
        )
        self._settled: Batcher[str, tuple[object, ...] | None] = Batcher(
            self._settle, limit=GROUP, in_flight=1, meter=self._meter.batch("settle")
        )

    async def get(self, guid: str) -> Record | None:
        return self._read(RECORDS, guid)

    def get_nowait(self, guid: str) -> Record | None:
        return self._read(RECORDS, guid)

    async def get_for_update(self, guid: str) -> Record | None:
        return self._read(RECORDS, guid)

    async def swap(self, old: Record | None, new: Record | None, *, not_after: int | None = None) -> bool:
        change = RECORDS.change(old, new)
        return await self._swaps.ask(_Swap(change._replace(not_after=not_after), droppable=True))

    async def get_linearizable(self, guid: str) -> Record | None:
        found = await self._settled.ask(guid)
        return None if found is None else _row(RECORDS, guid, found)

    async def fence(self) -> FenceReading:
        with self._failures():
            found = self._reader.execute(FENCE).fetchone()
        return FenceReading(_fence_of(found), monotonic_ms())

    async def swap_fence(self, old: Fence, new: Fence) -> bool:
        swap = partial(self._writer.execute, Change(SWAP_FENCE, (*new, *old)))
        return await self._in_thread(partial(self._writer.transaction, swap)) == 1

    async def receipt(self, key: str) -> Receipt | None:
        return self._read(RECEIPTS, key)

    async def swap_receipt(self, old: Receipt | None, new: Receipt | None) -> bool:
        return await self._swaps.ask(_Swap(RECEIPTS.change(old, new), droppable=False))

    async def key(self, key_id: str) -> ApiKey | None:
        return self._read(KEYS, key_id)

    async def keys(self, after: str, limit: int) -> list[ApiKey]:
        with self._failures():
            rows = self._reader.execute(LIST_KEYS, (after, limit)).fetchall()
        return [_row(KEYS, str(row[0]), row) for row in rows]

    async def swap_key(self, old: ApiKey | None, new: ApiKey | None) -> bool:
        return await self._swaps.ask(_Swap(KEYS.change(old, new), droppable=False))

    async def ledger(self, owner: str) -> QuotaLedger | None:
        return self._read(LEDGERS, owner)

    async def swap_ledger(self, old: QuotaLedger | None, new: QuotaLedger) -> bool:
        return await self._swaps.ask(_Swap(LEDGERS.change(old, new), droppable=False))

    async def find(self, selection: Selection, after: str, limit: int) -> list[Record]:
        with self._failures():
            return await self._finder.find(selection, after, limit, lambda row: _row(RECORDS, str(row[0]), row))

    async def count(self, selection: Selection) -> int:
        with self._failures():
            return await self._finder.count(selection)

    async def count_linearizable(self, selection: Selection) -> int:
        await self.get_linearizable("")  # then no swap is half done: each is counted, or too late
        return await self.count(selection)

    async def receipt_usage(self, prefix: str) -> ReceiptUsage:
        with self._failures():
            return await self._finder.receipt_usage(prefix)

    async def purge(self, before: int, limit: int) -> int:
        purged = await self._purge(RECORDS.purge, before, limit)
        for due in purged:
            self._meter.lateness.observe(before - due)
        return len(purged)

    async def purge_receipts(self, before: int, limit: int) -> int:
        return len(await self._purge(RECEIPTS.purge, before, limit))

    async def store_id(self) -> str:
        with self._failures():
            found = self._reader.execute("SELECT name FROM identity").fetchone()
        if found is None:
            raise CorruptRecord("the store has no identity; restart all processes that use it")
        return str(found[0])

    async def shrink_wal(self, limit_bytes: int) -> None:
        """Truncate the write-ahead log if it exceeds the limit and no reader needs it."""
        with self._failures():
            await asyncio.to_thread(self.files.shrink_wal, limit_bytes)

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        self.files.on_claim = changed

    def save_stray_log(self) -> bool:
        """Checkpoint the log if the next process would not find it beside its database; return whether it was saved."""
        return self.files.is_log_astray() and self._writer.save_log()

    async def save_stray_log_in_thread(self) -> bool:
        """Run `save_stray_log` in the writer thread."""
        return await self._in_thread(self.save_stray_log)

    async def regain_claim(self) -> None:
        """Regain a lost claim, if every file is back in its place."""
        if self.files.is_claim_lost:
            await self._in_thread(partial(self._writer.transaction, lambda: None))
            self.files.regain_claim()

    async def ping(self) -> None:
        self.files.check()
        with self._failures():
            self._reader.execute("SELECT 1 FROM records LIMIT 1").fetchone()
        if self._writer.is_failing:
            await self._in_thread(self._writer.check)

    async def aclose(self) -> None:
        """Wait until every write has been answered and the threads have ended. The caller closes the connections."""
        await self._swaps.drain()
        await self._settled.drain()
        await self._finder.aclose()
        await asyncio.to_thread(self._thread.shutdown)

    def _read(self, table: Table[Row], key: str) -> Row | None:
        with self._failures():
            values = self._reader.execute(table.select, (key,)).fetchone()
        return None if values is None else _row(table, key, values)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Convert SQLite errors raised in the block to errors of the store."""
        try:
            yield
        except sqlite3.Error as error:
            raise failure(error, self._file) from error

    def _overdue(self, swap: _Swap) -> GuidsvcError:
        return (OutcomeUnknown if swap.taken else StoreUnavailable)(
            f"the disk took longer than {self._write_seconds} s"
        )

    async def _purge(self, statement: str, before: int, limit: int) -> list[int]:
        """Purge, and return the `purge_at` of each deleted row."""
        purge = partial(self._writer.returned, Change(statement, (before, limit)))
        return [int(due) for (due,) in await self._in_thread(partial(self._writer.transaction, purge))]

    def _commit(self, swaps: list[_Swap]) -> asyncio.Future[list[bool | GuidsvcError]]:
        for swap in swaps:
            swap.taken = True
        return self._in_thread(partial(self._writer.swaps, [swap.change for swap in swaps]))

    def _settle(self, guids: list[str]) -> asyncio.Future[list[tuple[object, ...] | GuidsvcError | None]]:
        return self._in_thread(partial(self._writer.rows, RECORDS.select, guids))

    def _in_thread(self, work: Callable[[], _Done]) -> asyncio.Future[_Done]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


def _fence_of(row: tuple[str, int, str] | None) -> Fence:
    if row is None or row[0] not in set(Mode) or not isinstance(row[1], int):
        raise CorruptRecord("the fence of the store is damaged; restart all processes that use it")
    mode, gen, boot = row
    return Fence(Mode(mode), gen, boot)


def _row(table: Table[Row], key: str, values: tuple[object, ...]) -> Row:
    try:
        return table.row(values)
    except ValidationError as error:
        raise CorruptRecord(f"the row of {key} is no {table.model.__name__}: {error}") from error


async def _sweep(store: SqliteStore, clock: Clock, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            for purge in (store.purge, store.purge_receipts):
                purged = SWEEP_CHUNK
                while purged == SWEEP_CHUNK:
                    purged = await purge(clock() // 1000, SWEEP_CHUNK)
                    await asyncio.sleep(SWEEP_PAUSE)
        except GuidsvcError as error:
            _log.warning("sweep failed, to be tried again", error=str(error), seconds=seconds)


async def _watch(store: SqliteStore, wal_bytes: int) -> None:
    """Detect replaced and restored files even without writes, and keep the log small."""
    is_saved = False
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            store.files.check()
            is_saved = False
            await store.regain_claim()
            await store.shrink_wal(wal_bytes)
        except StoreReplaced:
            is_saved = is_saved or await store.save_stray_log_in_thread()
        except GuidsvcError:
            pass  # the next check finds what persists
