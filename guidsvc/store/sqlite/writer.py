"""The one that writes the SQLite file: its transactions, what their errors mean, and whether the disk takes any.

All of it runs in the store's thread for writes, one transaction after the other. It knows no table.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from guidsvc.errors import CorruptRecord, GuidsvcError, OutcomeUnknown, StoreReadOnly, StoreReplaced, StoreUnavailable
from guidsvc.store.sqlite.files import StoreFiles
from guidsvc.store.sqlite.schema import APPLICATION_ID
from guidsvc.store.sqlite.tables import Change

_Done = TypeVar("_Done")

_TRIAL = f"PRAGMA application_id = {APPLICATION_ID}"
"""Writes a page, and changes nothing."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_log = structlog.get_logger(__name__)
_NOT_UTF_8 = "Could not decode to UTF-8"
"""What `sqlite3` says, without a code, of a column that holds no text though it should."""
_QUOTED = " with text "
"""What stands before the text of that column."""
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}


def monotonic_ms() -> int:
    """Return the time in milliseconds by a clock that all processes of this host share, and that is never set.

    Where there is such a clock, it goes on while the host sleeps.
    """
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class Writer:
    """Writes with a connection. `is_failing` says that the disk did not take the last that was written."""

    def __init__(self, connection: sqlite3.Connection, files: StoreFiles) -> None:
        self._connection = connection
        self._files = files
        self._file = str(files.path)
        self.is_failing = False

    def swaps(self, changes: Sequence[Change]) -> list[bool | GuidsvcError]:
        """Make these changes in one transaction; return of each whether it changed anything, or what stopped it.

        A page that is damaged stops only those changes that need it: a group is halved until they are alone.
        """
        try:
            return self.transaction(lambda: [self.execute(change) == 1 for change in changes])
        except CorruptRecord as error:
            if len(changes) == 1:
                return [error]
            half = len(changes) // 2
            return self.swaps(changes[:half]) + self.swaps(changes[half:])
        except GuidsvcError as error:
            return [error] * len(changes)

    def execute(self, change: Change) -> int:
        """Execute a statement, within a transaction; return how many rows it changed: none, if it is too late."""
        if change.not_after is not None and monotonic_ms() > change.not_after:
            return 0
        return self._connection.execute(change.statement, change.values).rowcount

    def returned(self, change: Change) -> list[tuple[Any, ...]]:
        """Execute a statement, within a transaction; return what it returns of the rows that it changed."""
        return self._connection.execute(change.statement, change.values).fetchall()

    def rows(self, select: str, keys: Sequence[str]) -> list[tuple[object, ...] | GuidsvcError | None]:
        """Read rows under the lock of writers, which one that is half done holds, though its process stands still.

        Of a row that is damaged what is wrong with it is returned.
        """
        return self.transaction(lambda: [self._row(select, key) for key in keys])

    def _row(self, select: str, key: str) -> tuple[object, ...] | GuidsvcError | None:
        try:
            found: tuple[object, ...] | None = self._connection.execute(select, (key,)).fetchone()
        except sqlite3.Error as error:
            fault = failure(error, self._file)
            if not isinstance(fault, CorruptRecord):
                raise
            return fault
        return found

    def transaction(self, work: Callable[[], _Done]) -> _Done:
        """Do the work in a transaction, and return what it does.

        After a disk has failed one, it first has to take a page that changes nothing: as long as it does not, it is
        sure that nothing was changed.
        """
        if self.is_failing:
            self.check()
        return self._transaction(work)

    def check(self) -> None:
        """Return if the disk takes a page; StoreReadOnly if it does not."""
        try:
            self._transaction(lambda: self._connection.execute(_TRIAL))
        except StoreReplaced:
            raise
        except (StoreUnavailable, OutcomeUnknown) as error:
            raise StoreReadOnly(str(error)) from error

    def save_log(self) -> bool:
        """Write the log into the database file, and empty it; return whether that was done.

        A database that is no longer beside its log would lose what is in there alone; and a log that is left beside
        another database would damage that at the next start.
        """
        try:
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            _log.warning("write-ahead log cannot be saved", file=self._file, error=str(error))
            return False
        return not busy

    def _transaction(self, work: Callable[[], _Done]) -> _Done:
        self._files.check()
        committing = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._files.check()  # again: who claims the store meanwhile, writes to it before it reads
            done = work()
            committing = True
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            self.is_failing = self.is_failing or code_of(error) in _DISK
            raise failure(error, self._file, committing=committing) from error
        except BaseException:  # an open transaction would fail every later one
            self._roll_back()
            raise
        self.is_failing = False
        try:
            self._files.check()
        except StoreReplaced as error:
            raise OutcomeUnknown(str(error)) from error
        return done

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # whose own fault would hide the first
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def failure(error: sqlite3.Error, file: str, *, committing: bool = False) -> GuidsvcError:
    """Say what an error of SQLite means to the caller.

    A commit whose sync or write failed is rolled back here, yet its frames may be in the log, and would count
    after a crash: its outcome is unknown. A full disk (SQLITE_FULL) is no such case: the last frame is not there.
    """
    code = code_of(error)
    if str(error).startswith(_NOT_UTF_8):
        error.args = (str(error).partition(_QUOTED)[0],)  # here, as the traceback of a fault shows the cause too
        return CorruptRecord(f"SQLite: {file}: {error}")
    if committing and code == sqlite3.SQLITE_IOERR:
        return OutcomeUnknown(f"SQLite: {file}: {error}")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return CorruptRecord(f"SQLite: {file}: {error}")
    return StoreUnavailable(f"SQLite: {file}: {error}")


def code_of(error: sqlite3.Error) -> int:
    """Return the primary code of an error of SQLite; 0 for one that the module `sqlite3` makes itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
