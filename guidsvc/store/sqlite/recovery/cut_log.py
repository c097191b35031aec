"""A write-ahead log with a damaged frame: SQLite drops this frame, and all committed transactions behind it.

It takes the frames up to the first wrong checksum, as if a crash had torn the end of the log, and overwrites the rest.
So before a store is used, the commits that the log holds are compared with those that SQLite takes. If some are behind
a wrong checksum, the log is copied aside, and begun anew. The name of the copy is that of the log, by its salts. So of
several processes that start, one copies and reports the log.

The log of a store in use changes all the time: the frames of a commit are half written for a moment. So a log is judged
under the lock of writers, and one that looks whole without it is left alone. A process that does not get the lock does
not judge: another one uses the log, and was here before.

An unfinished last write can look the same, after a power failure, or if the disk has rejected its sync. Two faults show
nothing: a damaged commit frame at the very end, and a damaged salt in the header of the log.
"""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import structlog

from guidsvc.store.sqlite.files import WAL_BYTES, connect
from guidsvc.store.sqlite.parts import refuse_incomplete
from guidsvc.store.sqlite.recovery.log_frames import dropped_commits, read_index, salts_of
from guidsvc.store.sqlite.schema import BUSY_SECONDS, MIGRATIONS, identify

MAX_COPIES, MAX_COPY_BYTES = 4, 16 * WAL_BYTES
"""Maximum number of copies beside a store, of which the newest stay, and maximum size of a log that is copied."""

_log = structlog.get_logger(__name__)


class CutLog(NamedTuple):
    """How many transactions SQLite drops, and where the copy of the log is, or why there is none."""

    transactions: int
    copy: str
    is_copied: bool = True


def save_cut_log(path: Path) -> CutLog | None:
    """Copy the log of a store aside if SQLite will drop transactions from it.

    Return None if it will not, if that log was copied before: then another process has reported it; or if another
    process writes the store for longer than BUSY_SECONDS. This must come before SQLite opens the file: it may remove
    the log when it closes it. StartError if there is a log, but the file is not a whole store.
    """
    log = path.with_name(f"{path.name}-wal")
    if not (path.exists() and log.exists()):
        return None
    refuse_incomplete(path)
    try:
        with ExitStack() as files, closing(connect(path, timeout_seconds=BUSY_SECONDS)) as connection:
            identify(connection, path, newest=len(MIGRATIONS))  # makes SQLite read the log, if no other process has
            # Closed after the connection: a process that closes a file loses all its locks of it, also SQLite's.
            index = files.enter_context(path.with_name(f"{path.name}-shm").open("rb"))
            if not (_dropped(log, index) or _copies(log, is_finished=False)):
                return None
            with _without_writers(connection):
                cut = _save(log, index)
            if cut is not None and cut.is_copied:
                with suppress(sqlite3.Error):  # what was dropped is in the log until it begins anew
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return cut
    except (OSError, sqlite3.Error):
        return None  # whoever opens the store next meets the same fault, and reports it


def report_cut_log(path: Path) -> None:
    """Do as `save_cut_log` does, and log what is lost."""
    cut = save_cut_log(path)
    if cut is not None:
        _log.error(
            "write-ahead log damaged, writes are lost", file=str(path), transactions=cut.transactions, copy=cut.copy
        )


@contextmanager
def _without_writers(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all processes from writing the log; sqlite3.Error if one does not let go of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def _dropped(log: Path, index: BinaryIO) -> int:
    """Return how many transactions of the log SQLite drops. Only under the lock of writers, this is certain."""
    with log.open("rb") as file:
        return dropped_commits(file, read_index(index))


def _save(log: Path, index: BinaryIO) -> CutLog | None:
    """Copy the log if SQLite drops transactions. Under the lock of writers, no other process copies it."""
    for unfinished in _copies(log, is_finished=False):  # of a process that was killed
        unfinished.unlink(missing_ok=True)
    transactions = _dropped(log, index)
    if not transactions:
        return None
    target = _name_of_copy(log)
    if target.exists():
        return None
    size = log.stat().st_size
    if size > MAX_COPY_BYTES:
        reason = f"none: the log has {size >> 20} MiB, more than {MAX_COPY_BYTES >> 20} MiB"
        return CutLog(transactions, reason, is_copied=False)
    try:
        _copy(log, target)
        _remove_oldest_copies(log)
    except OSError as error:
        return CutLog(transactions, f"none: {target} cannot be written: {error.strerror}", is_copied=False)
    return CutLog(transactions, str(target))


def _remove_oldest_copies(log: Path) -> None:
    """Remove all but the MAX_COPIES newest copies."""
    newest_first = sorted(_copies(log, is_finished=True), key=lambda copy: copy.stat().st_mtime_ns, reverse=True)
    for copy in newest_first[MAX_COPIES:]:
        with suppress(OSError):
            copy.unlink()


def _copies(log: Path, *, is_finished: bool) -> list[Path]:
    """Return the copies of this log and of earlier ones: the finished, or the unfinished."""
    name = re.compile(rf"{re.escape(log.name)}\.damaged-[0-9a-f]{{16}}{'' if is_finished else '[.][0-9]+'}")
    return [each for each in log.parent.iterdir() if name.fullmatch(each.name)]


def _copy(log: Path, target: Path) -> None:
    """Copy the log, for its owner only."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with log.open("rb") as source, open(unfinished, "xb", opener=_private) as copy:
            shutil.copyfileobj(source, copy)
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _name_of_copy(log: Path) -> Path:
    with log.open("rb") as file:
        return log.with_name(f"{log.name}.damaged-{salts_of(file).hex()}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
