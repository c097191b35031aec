"""The record of a claim: which database, log and index the processes of a SQLite store have open.

After `mv other.db guidsvc.db` under running processes, the log of the first database stays at its path. A process that
opens both would share the log with them, but not the database. Its acknowledged writes would be lost, because the
others copy them to a file without a name. So the first process of a store records its files, and each later one, and
each command, compares them with those at the paths.

The record is the user version of the lock file, so that older versions still lock it. It ends with the claim, although
it stays in the file: it says nothing if no process has a claim. The lock file of an older version has no record.
"""

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from zlib import crc32

from guidsvc.errors import StartError
from guidsvc.store.sqlite.files import DATA_SUFFIXES, LOCK_SUFFIX, connect

WAIT_SECONDS = 2.0
"""Time for a process to record its files, or to end: the last one removes the log before it gives up its claim."""
_NO_RECORD = 0
_PAUSE_SECONDS = 0.05


def write_record(lock: sqlite3.Connection, path: Path) -> bool:
    """Record the files of an open store, by an exclusive claim; return False if the disk takes no writes."""
    return _write(lock, _files_at(path))


def erase_record(lock: sqlite3.Connection) -> None:
    """Erase the record of earlier processes, by an exclusive claim, if the disk takes writes."""
    if _recorded(lock) != _NO_RECORD:
        _write(lock, _NO_RECORD)


def is_recorded(lock: sqlite3.Connection, path: Path) -> bool:
    """Return whether the files at the path are those of the record, or there is no record."""
    return _recorded(lock) in {_NO_RECORD, _files_at(path)}


def refuse_replaced(path: Path) -> None:
    """Raise StartError if processes use the store, but a file of it is not the one that they have open.

    Call this before SQLite opens the store: it would mix the files.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while is_replaced(path):
        if time.monotonic() >= deadline:
            raise StartError(f"store_url: {why_replaced(path)}")
        time.sleep(_PAUSE_SECONDS)


def is_replaced(path: Path) -> bool:
    """Return whether the files at the path are not those of the processes that have a claim at this moment."""
    lock_path = path.with_name(path.name + LOCK_SUFFIX)
    url = f"{lock_path.absolute().as_uri()}?mode=ro&immutable=1"  # immutable: read beside an exclusive lock
    try:
        with closing(sqlite3.connect(url, uri=True)) as lock:
            if is_recorded(lock, path):
                return False
        return _is_claimed(lock_path)
    except sqlite3.Error:  # it is missing, or the claim will report it
        return False


def why_replaced(path: Path) -> str:
    """Return the fault of files that are not those of the running processes, and the remedy."""
    if not path.exists():
        return (
            f"{path} was removed while processes use it; do not stop them, because only they may have its data: "
            "put it back, or see docs/failure-modes.md, The file was deleted"
        )
    return (
        f"{path}, or its -wal or -shm, was removed or replaced while processes use the store; "
        "stop all processes that use it, then start them again (docs/failure-modes.md)"
    )


def _is_claimed(lock_path: Path) -> bool:
    """Return whether a process has a claim. This locks the file for so short a time that a start waits for it."""
    with closing(connect(lock_path, timeout_seconds=0)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    return False


def _write(lock: sqlite3.Connection, record: int) -> bool:
    """Write the record without giving up the exclusive claim, which is a transaction; return whether that succeeded."""
    is_written = False
    lock.execute("PRAGMA locking_mode = EXCLUSIVE")  # keeps the lock after the commit
    with suppress(sqlite3.Error):
        lock.execute(f"PRAGMA user_version = {record}")
        lock.execute("COMMIT")
        is_written = True
    if lock.in_transaction:
        lock.execute("ROLLBACK")
    lock.execute("BEGIN EXCLUSIVE")
    lock.execute("PRAGMA locking_mode = NORMAL")
    return is_written


def _recorded(lock: sqlite3.Connection) -> int:
    (record,) = lock.execute("PRAGMA user_version").fetchone()
    return int(record)


def _files_at(path: Path) -> int:
    """Return a number for the files at the path, which fits into a user version.

    A folder is on one device, whose number may differ between containers. So only the inodes count.
    """
    inodes = [_inode(f"{path}{suffix}") for suffix in DATA_SUFFIXES]
    return crc32(repr(inodes).encode()) >> 1 or 1


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116  # a text, like the paths of SQLite
    except OSError:
        return None
