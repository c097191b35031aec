"""The embedded store: one SQLite file with a write-ahead log.

This module opens the file and looks after it; `repositories` reads and writes it, through the connections and threads
of `engine`. Errors of sqlite3 never leave this package.
"""

import asyncio
import errno
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import structlog

from guidsvc.domain.events.schedule import DEFAULT_POLICY, EventPolicy
from guidsvc.errors import CorruptRecord, GuidsvcError, NoStore, StartError, StoreReplaced, StoreUnavailable
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock, system_clock
from guidsvc.store.sqlite.engine import SqliteEngine
from guidsvc.store.sqlite.events.continuity import open_log
from guidsvc.store.sqlite.events.log import SqliteEventLog
from guidsvc.store.sqlite.files import JOURNAL_SUFFIX, WAL_BYTES
from guidsvc.store.sqlite.parts import refuse_missing
from guidsvc.store.sqlite.recovery.claim_record import (
    erase_record,
    is_recorded,
    refuse_replaced,
    write_record,
)
from guidsvc.store.sqlite.recovery.cut_log import report_cut_log
from guidsvc.store.sqlite.recovery.key_order import KeyCheck
from guidsvc.store.sqlite.recovery.start_writes import StartWrites
from guidsvc.store.sqlite.repositories import (
    SqliteApiKeys,
    SqliteFence,
    SqliteReceipts,
    SqliteRecords,
    SqliteRepository,
)
from guidsvc.store.sqlite.schema import (
    MIGRATIONS,
    claim,
    is_store,
    open_reader,
    open_writer,
    share,
    start_error,
)
from guidsvc.store.sqlite.search.finder import Finder
from guidsvc.store.sqlite.tables import LEDGERS
from guidsvc.telemetry.metrics import StoreMetrics

WATCH_SECONDS = 1.0
"""Pause between two checks of the files."""
_Claimed = tuple[sqlite3.Connection, bool, sqlite3.Connection, sqlite3.Connection]
"""The claim of a file, whether no other process has one, and the connections that write and read the file."""
_log = structlog.get_logger(__name__)


def path_of_url(url: str) -> Path:
    """Return the path in `sqlite:///relative/path` or `sqlite:////absolute/path`; StartError if the URL is invalid."""
    host, _, path = url.removeprefix("sqlite://").partition("/")
    if host or {"?", "#"} & set(path) or "%00" in path or path in {"", ":memory:"}:
        raise StartError("store_url: name a file as sqlite:///relative/path or sqlite:////absolute/path")
    path = unquote(path)
    try:
        resolved = Path(path).resolve()  # the log and the lock lie beside the file, under its name
        str(resolved).encode()
        _refuse_unsafe(resolved)
        _refuse_long_name(resolved)
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


def _refuse_long_name(path: Path) -> None:
    """Raise OSError if the name leaves no room for the longest suffix of the files beside it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.with_name(path.name + JOURNAL_SUFFIX).stat()


def _refuse_unsafe(path: Path) -> None:
    """Raise StartError if the path leads to a file that must not be opened.

    Opening a pipe, a device or a socket may block for ever. Under each hard link SQLite keeps another write-ahead log:
    two processes that use different names would overwrite each other's writes.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(found.st_mode):  # SQLite reports a folder itself
        return
    if not stat.S_ISREG(found.st_mode):
        raise StartError(f"store_url: {path} is not a regular file; name another")
    if found.st_nlink > 1:
        raise StartError(
            f"store_url: {path} has {found.st_nlink} names (hard links), and writes under different names overwrite "
            "each other: remove the other names, or stop the service and name a copy"
        )


@asynccontextmanager
async def open_sqlite(  # noqa: PLR0913  # its options, by name
    path: Path,
    *,
    clock: Clock = system_clock,
    exclusive: bool,
    events: EventPolicy = DEFAULT_POLICY,
    wal_bytes: int = WAL_BYTES,
    meter: StoreMetrics | None = None,
    create: bool = True,
) -> AsyncIterator["SqliteStore"]:
    """Open the store in a file, keep its log small, and close it once every write has been answered.

    StartError if the file does not exist and `create` is False.
    """
    with _claimed(path, exclusive=exclusive, create=create) as (lock, alone, writer, reader):
        start_writes = StartWrites(path, alone=alone, exclusive=exclusive)
        is_current = start_writes.try_now(writer)
        try:
            open_log(writer, events, clock())
        except sqlite3.Error as error:
            raise start_error(path, error) from error
        finder = Finder(path, wal_bytes=wal_bytes)
        engine = SqliteEngine(writer, reader, finder, meter=meter, events=events, is_claimed=True)
        store = SqliteStore(engine, clock)
        complete_claim = partial(_complete_claim, lock, path, shares=not exclusive) if alone else _nothing
        if is_current:
            complete_claim()
        else:
            store.postpone(start_writes, complete_claim)
        try:
            engine.start()
            async with (
                running_in_background(partial(_watch, store, wal_bytes)),
                running_in_background(KeyCheck(store.files, engine.meter.note_damage).run),
            ):
                yield store
        finally:
            await store.aclose()
            store.save_stray_log()


@contextmanager
def _claimed(path: Path, *, exclusive: bool, create: bool) -> Iterator[_Claimed]:
    """Claim and open the file; StartError if the processes that share it have other files open than this one would."""
    while True:
        if not create:
            refuse_missing(path)  # before `claim` creates a file beside it
        refuse_replaced(path)
        report_cut_log(path)
        lock, alone = claim(path, exclusive=exclusive)
        with closing(lock):
            if alone:
                erase_record(lock)
            with closing(open_writer(path, create=create)) as writer, closing(open_reader(path)) as reader:
                if alone or is_recorded(lock, path):
                    yield lock, alone, writer, reader
                    return
        # the last other process has ended meanwhile, and removed its log: then this one is alone


def _complete_claim(lock: sqlite3.Connection, path: Path, *, shares: bool) -> None:
    """Record the files of an exclusive claim, and share it."""
    if not write_record(lock, path):
        _log.warning("lock file cannot be written, a replaced store is not noticed at a start", file=str(path))
    if shares:
        share(lock)


@asynccontextmanager
async def open_keys_of(path: Path, *, create: bool = True) -> AsyncIterator[SqliteApiKeys]:
    """Open the store in a file for its API keys only. No cache holds them, so this needs no claim on the file.

    StartError if the file must first be migrated, which only the start of a service does: an older service may use the
    file; or if running processes have other files open. NoStore if the file holds no store and `create` is False.
    """
    refuse_replaced(path)
    report_cut_log(path)
    if is_store(path):
        _require_current(path)
    elif not create:
        raise NoStore(str(path))
    with closing(open_writer(path)) as writer, closing(open_reader(path)) as reader:
        store = SqliteStore(SqliteEngine(writer, reader, Finder(path)))
        try:
            yield store.api_keys
        finally:
            await store.aclose()


def _require_current(path: Path) -> None:
    """Raise StartError if opening the file for writing would migrate it."""
    with closing(open_reader(path)) as reader:
        (schema,) = reader.execute("PRAGMA user_version").fetchone()
    if schema != len(MIGRATIONS):
        raise StartError(
            f"store_url: {path} has schema {schema}, and this guidsvc uses {len(MIGRATIONS)}: start its service once, "
            "which migrates the file, or use the version that wrote it"
        )


class SqliteStore:
    """A database in one SQLite file: its repositories, and the upkeep of the file."""

    def __init__(self, engine: SqliteEngine, clock: Clock = system_clock) -> None:
        self._engine = engine
        self.files = engine.files
        self.records = SqliteRecords(engine)
        self.receipts = SqliteReceipts(engine)
        self.api_keys = SqliteApiKeys(engine)
        self.ledgers = SqliteRepository(engine, LEDGERS)
        self.events = SqliteEventLog(engine, clock)
        self.fence = SqliteFence(engine)

    def postpone(self, start_writes: StartWrites, share_claim: Callable[[], None]) -> None:
        """Execute the writes of the start with the first transaction that succeeds, and then share the claim."""
        self.fence.is_void = start_writes.alone

        def on_done() -> None:
            self.fence.is_void = False
            share_claim()

        start_writes.postpone(self._engine.writer, on_done)

    async def store_id(self) -> str:
        with self._engine.failures():
            found = self._engine.reader.execute("SELECT name FROM identity").fetchone()
        if found is None:
            raise CorruptRecord("the store has no identity; restart all processes that use it")
        return str(found[0])

    async def ping(self) -> None:
        self.files.check()
        with self._engine.failures():
            # No page of a record or an index: a damaged one makes the requests that need it fail, not the store.
            found = self._engine.reader.execute("SELECT 1 FROM sqlite_schema WHERE name = 'records'").fetchone()
        if found is None:
            raise StoreUnavailable("SQLite: there is no table of records")
        if self._engine.writer.is_failing:
            await self._engine.in_thread(self._engine.writer.check)

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        self.files.on_claim = changed

    async def shrink_wal(self, limit_bytes: int) -> None:
        """Truncate the write-ahead log if it exceeds the limit and no reader needs it."""
        with self._engine.failures():
            await asyncio.to_thread(self.files.shrink_wal, limit_bytes)

    def save_stray_log(self) -> None:
        """Checkpoint the log, once, if the next process would not find it beside its database.

        A second time, the log may be that of a process that has opened the new database, which would lose its writes.
        """
        if self.files.is_log_astray() and not self.files.is_log_saved:
            self.files.is_log_saved = self._engine.writer.save_log()

    async def save_stray_log_in_thread(self) -> None:
        """Run `save_stray_log` in the writer thread."""
        await self._engine.in_thread(self.save_stray_log)

    async def regain_claim(self) -> None:
        """Regain a lost claim, if every file is back in its place."""
        if self.files.is_claim_lost:
            await self._engine.in_thread(partial(self._engine.writer.transaction, lambda: None))
            self.files.regain_claim()

    async def aclose(self) -> None:
        """Wait until every write has been answered and the threads have ended. The caller closes the connections."""
        await self._engine.aclose()


async def _watch(store: SqliteStore, wal_bytes: int) -> None:
    """Detect replaced and restored files even without writes, and keep the log small."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            store.files.check()
            await store.regain_claim()
            await store.shrink_wal(wal_bytes)
        except StoreReplaced:
            await store.save_stray_log_in_thread()
        except GuidsvcError:
            pass  # the next check finds what persists


def _nothing() -> None:
    """Do nothing."""
