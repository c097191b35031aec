"""The files of a SQLite store: detection of replaced files, and the size of the log.

SQLite works on open files, whatever happens to their names. After `mv other.db guidsvc.db` or `rm guidsvc.db-wal` it
continues in files that no process can open any more, so a write would be acknowledged and lost. Two processes could
even share a name but not its locks.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Lock

import structlog

from guidsvc.errors import StoreReplaced

WAL_BYTES = 64 * 1024 * 1024
"""A write-ahead log above this size is truncated as soon as no reader needs it."""
LOCK_SUFFIX = "-lock"
NEW_SUFFIX = "-new"
"""An empty file beside a database that a process is creating."""
DATA_SUFFIXES = ("", "-wal", "-shm")
"""Of the database, its log and its index: the files that SQLite opens together."""
SUFFIXES = (*DATA_SUFFIXES, LOCK_SUFFIX)
JOURNAL_SUFFIX = "-journal"
"""Of a file that SQLite needs only while a database is created or copied. It is the longest suffix."""
_FEW_FRAMES = 1000

_log = structlog.get_logger(__name__)


class StoreFiles:
    """The database, its write-ahead log and shared-memory index, which must be open; and the lock file of a claim."""

    def __init__(self, path: Path, *, is_claimed: bool) -> None:
        self.path = path
        suffixes = SUFFIXES if is_claimed else DATA_SUFFIXES
        # As texts, because `os.stat` would convert each `Path` again.
        self._identities = {each: _identity(each) for each in (f"{path}{suffix}" for suffix in suffixes)}
        self._log_path = f"{path}-wal"
        self._lock_path = f"{path}{LOCK_SUFFIX}"
        self._lock = Lock()
        self.is_replaced = False
        self._missing: set[str] = set()  # the files that were removed or replaced in this outage
        self.is_log_saved = False
        """Whether the log was copied to the database after one of them was removed or replaced."""
        self.is_claim_lost = False
        """Whether the lock file was removed or replaced, so that another process may have claimed the store."""
        self.on_claim: Callable[[bool], None] | None = None
        """Called with False, in any thread, when the claim is lost; with True, on the event loop, when it is back."""

    def check(self) -> None:
        """Return if every file is in its place; StoreReplaced if one was removed or replaced."""
        if not self.is_replaced and self._are_in_place():
            return
        changed = [path for path, opened in self._identities.items() if _identity(path) != opened]
        if self._lock_path in changed and not self.is_claim_lost:
            self._lose_claim()
        if bool(changed) != self.is_replaced:
            self._note(changed)
        if changed:
            self._missing.update(changed)
            raise StoreReplaced(
                f"SQLite: {changed[0]} was removed or replaced while it was open; "
                "put it back, or see docs/failure-modes.md, A file was removed or replaced"
            )

    def _are_in_place(self) -> bool:
        """Return whether no file has changed. It is written out because each transaction calls it twice."""
        try:
            for path, opened in self._identities.items():
                found = os.stat(path)  # noqa: PTH116  # several times as fast as Path.stat
                if (found.st_dev, found.st_ino) != opened:
                    return False
        except OSError:
            return False
        return True

    def is_log_astray(self) -> bool:
        """Return whether the database or its log was moved, so that the next process would not find them together."""
        return any(_identity(path) != opened for path, opened in self._identities.items() if path != self._lock_path)

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        try:
            return os.stat(self._log_path).st_size  # noqa: PTH116  # a text, as above
        except OSError:  # it or its folder was removed
            return 0

    def shrink_wal(self, limit_bytes: int) -> None:
        """Truncate the log if it exceeds the limit and is not in use; call this in a thread.

        The pages are first copied without blocking writers. The truncation needs the writers' lock, but does not wait
        for it, nor for readers.
        """
        if self.wal_bytes() <= limit_bytes:
            return
        self.check()
        with closing(connect(self.path, timeout_seconds=0)) as connection:
            _, frames, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if frames - copied <= _FEW_FRAMES:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def regain_claim(self) -> None:
        """Note that a transaction found the lock file restored: a process with another lock file writes no more."""
        self.is_claim_lost = False
        if self.on_claim is not None:
            self.on_claim(True)

    def _lose_claim(self) -> None:
        self.is_claim_lost = True
        if self.on_claim is not None:
            self.on_claim(False)

    def _note(self, changed: list[str]) -> None:
        with self._lock:
            if bool(changed) == self.is_replaced:
                return  # another thread was first
            self.is_replaced = bool(changed)
            missing, self._missing = sorted(self._missing), set(changed)
            self.is_log_saved = False
        if changed:
            _log.error("store file removed or replaced, rejecting writes", files=changed)
        else:
            _log.warning("store file is back, accepting writes", files=missing)


def is_file_of(store: Path, path: Path) -> bool:
    """Return whether a path is the file of a store, or one of the files that SQLite puts beside it, under any name."""
    there = _identity(path)
    for suffix in (*SUFFIXES, JOURNAL_SUFFIX, NEW_SUFFIX):
        beside = store.with_name(store.name + suffix)
        is_named = path.name == beside.name and _identity(path.parent) == _identity(beside.parent)
        if is_named or (there is not None and there == _identity(beside)):
            return True
    return False


def connect(path: Path, *, timeout_seconds: float) -> sqlite3.Connection:
    """Open an existing file, for one thread at a time; sqlite3.Error if it does not exist."""
    url = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(url, uri=True, timeout=timeout_seconds, isolation_level=None, check_same_thread=False)


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # as above
    except OSError:
        return None
    return found.st_dev, found.st_ino
