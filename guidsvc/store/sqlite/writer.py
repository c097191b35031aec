"""The single writer of the SQLite file: transactions, error conversion, and detection of a failing disk or a long lock.

Everything runs in the store's writer thread, one transaction after the other. It does not know the tables.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import structlog

from guidsvc.errors import CorruptRecord, GuidsvcError, OutcomeUnknown, StoreReadOnly, StoreReplaced, StoreUnavailable
from guidsvc.runtime.clock import CONTINUOUS_CLOCK_ID
from guidsvc.store.sqlite.files import StoreFiles
from guidsvc.store.sqlite.schema import APPLICATION_ID
from guidsvc.store.sqlite.tables import Change

_Done = TypeVar("_Done")

_TRIAL = f"PRAGMA application_id = {APPLICATION_ID}"
"""Writes a page without changing anything."""
TRIAL_BUSY_MS = 100
"""Time for which a trial waits for the lock of the file. Probes wait behind trials, and must be answered in time."""
_log = structlog.get_logger(__name__)
_NOT_UTF_8 = "Could not decode to UTF-8"
"""The message of `sqlite3`, without an error code, for a text column that is not valid UTF-8."""
_QUOTED = " with text "
"""Precedes the text of that column in the message."""
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}


def monotonic_ms() -> int:
    """Return milliseconds of a clock that all processes of this host share and that is never set.

    Where the system has such a clock, it runs on while the host sleeps.
    """
    return time.clock_gettime_ns(CONTINUOUS_CLOCK_ID) // 1_000_000


class Write(Protocol):
    """A change of one item in the file."""

    @property
    def not_after(self) -> int | None:
        """By when it must take effect, by `monotonic_ms`; None for any time."""

    def apply(self, connection: sqlite3.Connection, /) -> bool:
        """Change the item inside a transaction; return False, and change nothing, if it is not as expected."""


class SwapChain:
    """Changes of one row that follow each other: none is applied unless all before it were."""

    not_after = None

    def __init__(self, changes: Sequence[Write]) -> None:
        self._changes = changes
        self.applied = 0
        """The number of changes that the last transaction has applied."""

    def apply(self, connection: sqlite3.Connection) -> bool:
        """Apply the changes inside a transaction up to the first that fails; return whether any was applied."""
        self.applied = 0
        for change in self._changes:
            is_late = change.not_after is not None and monotonic_ms() > change.not_after
            if is_late or not change.apply(connection):
                break
            self.applied += 1
        return self.applied > 0


def apply_each(connection: sqlite3.Connection, changes: Iterable[Write]) -> list[bool]:
    """Apply changes inside a transaction; return for each whether it changed anything, False if it is too late."""
    return [
        (change.not_after is None or monotonic_ms() <= change.not_after) and change.apply(connection)
        for change in changes
    ]


class TogetherFailed(Exception):
    """Changes that can only be applied together cannot be: one of them does not find what it expects."""


class Writer:
    """Writes with one connection.

    `is_failing` means that the disk rejected the last write, or that it did not get the lock. Perhaps another program
    holds the lock for too long; or other processes of the service write all the time, which is no fault.
    """

    def __init__(self, connection: sqlite3.Connection, files: StoreFiles) -> None:
        self.connection = connection
        self.on_begin: Callable[[], None] = _nothing
        """Called at the beginning of each transaction."""
        self.on_commit: Callable[[], None] = _nothing
        """Called after each transaction that was committed."""
        self.apply_together: Callable[[Sequence[Write]], list[bool]] = self._apply
        """Applies changes in order, as `apply` of each does, in fewer statements. May raise TogetherFailed."""
        self._files = files
        self._file = str(files.path)
        self.is_failing = False
        self._locked_version = 0
        """SQLite's version of the data when a transaction last failed to get the lock."""

    def swaps(self, changes: Sequence[Write]) -> list[bool | GuidsvcError]:
        """Apply these changes in one transaction; return for each whether it changed a row, or its error.

        A damaged page fails only the changes that need it: a failing group is halved until they are isolated.
        """
        try:
            try:
                return [*self.transaction(lambda: self.apply_together(changes))]
            except TogetherFailed:
                return [*self.transaction(lambda: self._apply(changes))]
        except CorruptRecord as error:
            if len(changes) == 1:
                return [error]
            half = len(changes) // 2
            return self.swaps(changes[:half]) + self.swaps(changes[half:])
        except GuidsvcError as error:
            return [error] * len(changes)

    def swaps_of_groups(self, groups: Sequence[Sequence[Write]]) -> list[Sequence[bool | GuidsvcError]]:
        """Apply groups of changes in one transaction; return the results of each group."""
        results = iter(self.swaps([change for group in groups for change in group]))
        return [[next(results) for _ in group] for group in groups]

    def _apply(self, changes: Sequence[Write]) -> list[bool]:
        """Apply changes inside a transaction; return for each whether it changed anything, False if it is too late."""
        return apply_each(self.connection, changes)

    def execute(self, change: Change) -> int:
        """Execute a statement inside a transaction; return the number of changed rows."""
        return self.connection.execute(change.statement, change.values).rowcount

    def execute_returning(self, change: Change) -> list[tuple[Any, ...]]:
        """Execute a statement inside a transaction, and return its RETURNING rows."""
        return self.connection.execute(change.statement, change.values).fetchall()

    def rows(self, select: str, keys: Sequence[str]) -> list[tuple[object, ...] | GuidsvcError | None]:
        """Read rows under the writers' lock, which an unfinished write holds even if its process is suspended.

        A damaged row is returned as its error.
        """
        return self.transaction(lambda: [self._row(select, key) for key in keys])

    def _row(self, select: str, key: str) -> tuple[object, ...] | GuidsvcError | None:
        try:
            found: tuple[object, ...] | None = self.connection.execute(select, (key,)).fetchone()
        except sqlite3.Error as error:
            fault = failure(error, self._file)
            if not isinstance(fault, CorruptRecord):
                raise
            return fault
        return found

    def transaction(self, work: Callable[[], _Done]) -> _Done:
        """Run the work in a transaction, and return its result.

        After a failure of the disk or the lock, a trial write must succeed first. While it fails, nothing is changed
        for certain.
        """
        if self.is_failing:
            self.check()
        return self._transaction(work)

    def check(self) -> None:
        """Return if a trial write succeeds, or others commit while it waits for the lock; StoreReadOnly otherwise."""
        locked_version = self._locked_version
        try:
            with self._busy_timeout(TRIAL_BUSY_MS):
                self._transaction(lambda: self.connection.execute(_TRIAL))
        except StoreReplaced:
            raise
        except (StoreUnavailable, OutcomeUnknown) as error:
            if self._locked_version == locked_version:
                raise StoreReadOnly(str(error)) from error
            self.is_failing = False

    @contextmanager
    def _busy_timeout(self, milliseconds: int) -> Iterator[None]:
        """Wait for the lock of the file for so long only, within the block."""
        (usual,) = self.connection.execute("PRAGMA busy_timeout").fetchone()
        self.connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
        try:
            yield
        finally:
            self.connection.execute(f"PRAGMA busy_timeout = {usual}")

    def save_log(self) -> bool:
        """Checkpoint and truncate the log; return whether that succeeded.

        A database that is separated from its log would lose the changes that only the log holds. A log beside another
        database would damage that database at the next start.
        """
        try:
            busy, _, _ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            _log.warning("write-ahead log cannot be checkpointed", file=self._file, error=str(error))
            return False
        return not busy

    def _transaction(self, work: Callable[[], _Done]) -> _Done:
        committing = False
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self._files.check()  # not before: a process that claims the store meanwhile writes before it reads
            self.on_begin()
            done = work()
            committing = True
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if not committing:
                self._files.check()  # it may be the cause
            is_locked = code_of(error) == sqlite3.SQLITE_BUSY
            if is_locked:
                with suppress(sqlite3.Error):  # its own error would hide the first
                    (self._locked_version,) = self.connection.execute("PRAGMA data_version").fetchone()
            self.is_failing = self.is_failing or is_disk_fault(error) or is_locked
            raise failure(error, self._file, committing=committing) from error
        except BaseException:  # an open transaction would make every later one fail
            self._roll_back()
            raise
        self.is_failing = False
        self.on_commit()
        try:
            self._files.check()
        except StoreReplaced as error:
            raise OutcomeUnknown(str(error)) from error
        return done

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # its own error would hide the first
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")


def failure(error: sqlite3.Error, file: str, *, committing: bool = False) -> GuidsvcError:
    """Convert a SQLite error to an error of the store.

    A commit whose sync or write failed is rolled back here, but its frames may be in the log and take effect after a
    crash: the outcome is unknown. A full disk (SQLITE_FULL) differs: the last frame was not written.
    """
    if is_invalid_text(error):
        error.args = (str(error).partition(_QUOTED)[0],)  # cut here, because a traceback also shows the cause
        return CorruptRecord(f"SQLite: {file}: {error}")
    if committing and code_of(error) == sqlite3.SQLITE_IOERR:
        return OutcomeUnknown(f"SQLite: {file}: {error}")
    if is_damage(error):
        return CorruptRecord(f"SQLite: {file}: {error}")
    return StoreUnavailable(f"SQLite: {file}: {error}")


def _nothing() -> None:
    """Do nothing."""


def is_invalid_text(error: sqlite3.Error) -> bool:
    """Whether a row that was read has a text that is not valid UTF-8."""
    return str(error).startswith(_NOT_UTF_8)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether a row could not be read because it, or its page, is damaged."""
    return is_invalid_text(error) or code_of(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_disk_fault(error: sqlite3.Error) -> bool:
    """Whether the disk has rejected a read or a write, for example because it is full."""
    return code_of(error) in _DISK


def code_of(error: sqlite3.Error) -> int:
    """Return the primary error code of SQLite; 0 for errors that the `sqlite3` module raises itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
