"""A write-ahead log with a damaged frame: SQLite drops this frame, and all committed transactions behind it.

It takes the frames up to the first wrong checksum, as if a crash had torn the end of the log, and overwrites the rest.
So before a store is used, the number of frames that SQLite takes is compared with the commits that the log holds. If
there are some behind them, the log is copied aside, and begun anew. The name of the copy is that of the log, by its
salts. So of several processes that start, one copies and reports the log.

After a power failure, the unfinished last write can look the same. Two faults show nothing: a damaged commit frame at
the very end, and a damaged salt in the header of the log.
"""

import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from guidsvc.files.partial_file import partial_file
from guidsvc.store.sqlite.files import connect
from guidsvc.store.sqlite.parts import refuse_incomplete
from guidsvc.store.sqlite.schema import BUSY_SECONDS, MIGRATIONS, identify

TRIES, PAUSE_SECONDS = 5, 0.1
"""A commit of another process is in the log for a moment before it counts, so the comparison is repeated."""
_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
"""See "The WAL File Format" and "The WAL-Index File Format", https://www.sqlite.org/walformat.html."""
_PAGE_SIZES = {512 << power for power in range(8)}
_NO_SALTS = bytes(8)

_log = structlog.get_logger(__name__)


class CutLog(NamedTuple):
    """How many transactions SQLite drops, and where the copy of the log is, or why there is none."""

    transactions: int
    copy: str


def save_cut_log(path: Path) -> CutLog | None:
    """Copy the log of a store aside if SQLite will drop transactions from it.

    Return None if it will not, or if that log was copied before: then another process has reported it.
    This must come before SQLite opens the file: it may remove the log when it closes it. StartError if there is a log,
    but the file is not a whole store.
    """
    log = path.with_name(f"{path.name}-wal")
    if not (path.exists() and log.exists()):
        return None
    refuse_incomplete(path)
    try:
        with closing(connect(path, timeout_seconds=BUSY_SECONDS)) as connection:
            identify(connection, path, newest=len(MIGRATIONS))  # makes SQLite read the log, if no other process has
            lost = _lost_transactions(path, log)
            if not lost:
                return None
            target = _name_of_copy(log)
            try:
                _copy(log, target)  # here, because the log stays while a connection is open
            except FileExistsError:
                return None
            except OSError as error:
                return CutLog(lost, f"none: {target} cannot be written: {error.strerror}")
            with suppress(sqlite3.Error):  # what was dropped is in the log until it begins anew, but is reported once
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return CutLog(lost, str(target))
    except (OSError, sqlite3.Error):
        return None  # whoever opens the store next meets the same fault, and reports it


def report_cut_log(path: Path) -> None:
    """Do as `save_cut_log` does, and log what is lost."""
    cut = save_cut_log(path)
    if cut is not None:
        _log.error(
            "write-ahead log damaged, writes are lost", file=str(path), transactions=cut.transactions, copy=cut.copy
        )


def _lost_transactions(path: Path, log: Path) -> int:
    """Return how many transactions of the log are behind the frames that SQLite takes."""
    lost = 0
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        salts, commits = _commits(log)
        index_salts, used = _index(path)
        is_same_log = index_salts in {salts, _NO_SALTS}  # none if SQLite finds the header of the log invalid
        lost = sum(commit > used for commit in commits) if is_same_log else 0
        if not lost:
            break
    return lost


def _commits(log: Path) -> tuple[bytes, list[int]]:
    """Return the salts of the log, and the numbers of the frames that end a transaction, from 1.

    Frames from before the last restart of the log have other salts.
    """
    with log.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        page_bytes, salts = int.from_bytes(header[8:12], "big"), header[16:24]
        if page_bytes not in _PAGE_SIZES:
            return salts, []
        frame_bytes = _FRAME_HEADER_BYTES + page_bytes
        count = (os.fstat(file.fileno()).st_size - _HEADER_BYTES) // frame_bytes
        found = []
        for number in range(count):
            file.seek(_HEADER_BYTES + number * frame_bytes)
            frame = file.read(_FRAME_HEADER_BYTES)
            if frame[8:16] == salts and any(frame[4:8]):
                found.append(number + 1)
    return salts, found


def _index(path: Path) -> tuple[bytes, int]:
    """Return the salts of the log that SQLite has read, and the number of frames that it takes."""
    with path.with_name(f"{path.name}-shm").open("rb") as file:
        header = file.read(48)
    return header[32:40], int.from_bytes(header[16:20], sys.byteorder)


def _copy(log: Path, target: Path) -> None:
    """Copy the log, for its owner only. FileExistsError if there is a copy."""
    if target.exists():
        raise FileExistsError
    with partial_file(target) as unfinished:
        with log.open("rb") as source, open(unfinished, "xb", opener=_private) as copy:
            shutil.copyfileobj(source, copy)
        os.link(unfinished, target)  # unlike a renaming, it fails if there is a copy


def _name_of_copy(log: Path) -> Path:
    salts, _ = _commits(log)
    return log.with_name(f"{log.name}.damaged-{salts.hex()}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
