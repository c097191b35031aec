"""Copies of a SQLite store: an online backup, and the salvage of a damaged store.

Both write to a partial file, and rename it only after checking it.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from guidsvc.errors import StartError, write_fault
from guidsvc.files.partial_file import partial_file
from guidsvc.store.sqlite.files import connect, is_file_of
from guidsvc.store.sqlite.recovery.claim_record import refuse_replaced
from guidsvc.store.sqlite.recovery.cut_log import CutLog, save_cut_log
from guidsvc.store.sqlite.recovery.salvage import copy_readable
from guidsvc.store.sqlite.schema import MIGRATIONS, identify, open_writer, start_error
from guidsvc.store.sqlite.writer import code_of

BUSY_SECONDS = 5.0
"""Maximum wait of a backup for a lock of the file. Writers hold no lock that blocks it."""
_MODE = 0o600
_STEPS = 100_000
"""SQLite instructions between two checks for signals, so that SIGTERM and SIGINT can end a backup."""


class Copied(NamedTuple):
    """A finished copy: its path, number of records and size; and what is lost of a damaged store, or may be."""

    path: Path
    records: int
    size_bytes: int
    losses: tuple[str, ...] = ()


def back_up(source: Path, target: Path, *, overwrite: bool) -> Copied:
    """Copy a store as of one moment; raise StartError, and leave nothing behind, if that fails.

    The copy is one read transaction, so writes continue meanwhile.
    """

    def copy(connection: sqlite3.Connection, made: Path) -> None:
        connection.set_progress_handler(lambda: 0, _STEPS)  # lets Python handle signals
        connection.execute("VACUUM INTO ?", (str(made),))

    return _copy_checked(source, target, copy, overwrite=overwrite)


def salvage(source: Path, target: Path, *, overwrite: bool) -> Copied:
    """Build a whole store from the readable parts of a damaged one; StartError if even its first page is unreadable."""
    losses: list[str] = []

    def copy(connection: sqlite3.Connection, made: Path) -> None:
        with closing(open_writer(made)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            losses.extend(copy_readable(connection, writer))
            writer.execute("COMMIT")
            writer.execute("PRAGMA journal_mode = DELETE")

    copied = _copy_checked(source, target, copy, overwrite=overwrite)
    return copied._replace(losses=(*copied.losses, *losses))


def _copy_checked(
    source: Path, target: Path, copy: Callable[[sqlite3.Connection, Path], None], *, overwrite: bool
) -> Copied:
    if not source.exists():
        raise StartError(f"store_url: there is no store at {source}: name the store of the service with --store-url")
    _refuse_target(source, target, overwrite=overwrite)
    refuse_replaced(source)
    cut = save_cut_log(source)
    with _temporary(target) as made:
        with _converting_errors(source, target), closing(connect(source, timeout_seconds=BUSY_SECONDS)) as connection:
            identify(connection, source, newest=len(MIGRATIONS))
            if not _has_tables(connection):
                raise StartError(f"store_url: {source} contains no guidsvc tables: name the store of the service")
            copy(connection, made)
        records = _checked(made)
        _refuse_target(source, target, overwrite=overwrite)  # again: the copy may have taken long
        _publish(made, target, overwrite=overwrite)
    return Copied(target, records, target.stat().st_size, () if cut is None else (_loss(cut),))


def _loss(cut: CutLog) -> str:
    lost = "last write is" if cut.transactions == 1 else f"last {cut.transactions} writes are"
    return f"the write-ahead log is damaged, its {lost} lost; copy of the log: {cut.copy}"


def _refuse_target(source: Path, target: Path, *, overwrite: bool) -> None:
    """Raise StartError if the target belongs to the store, is no regular file, or exists and must not be replaced."""
    if not _is_utf8(target):
        raise StartError("backup: the path of the copy must be UTF-8; name another file")
    if is_file_of(source, target):
        raise StartError(f"backup: {target} is the store itself, or a file beside it that SQLite uses; name another")
    with _writable(target):
        try:
            mode = target.lstat().st_mode  # lstat: a symbolic link itself would be replaced, not the file it points to
        except FileNotFoundError:
            return
    if stat.S_ISDIR(mode):
        raise StartError(f"backup: {target} is a folder; name a file")
    if not stat.S_ISREG(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise StartError(f"backup: {target} is {kind}, which is never replaced; name another file")
    if not overwrite:
        raise StartError(f"backup: {target} exists; name another file, or add --overwrite")


def _is_utf8(path: Path) -> bool:
    """Return whether SQLite can name a path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _writable(target: Path) -> Iterator[None]:
    """Convert an OSError about the target to a StartError."""
    try:
        yield
    except OSError as error:
        raise StartError(f"backup: {target} cannot be written: {write_fault(error)}") from error


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Create an empty file beside the target that only its owner can read; remove it at the end if it still exists.

    Also remove those in the folder that killed backups have left.
    """
    with ExitStack() as stack:
        with _writable(target):
            made = stack.enter_context(partial_file(target))
            os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE))
        yield made


@contextmanager
def _converting_errors(path: Path, target: Path | None = None) -> Iterator[None]:
    """Convert a SQLite error about a file, or about the target of its copy, to a StartError."""
    try:
        yield
    except sqlite3.Error as error:
        if target is not None and code_of(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            raise StartError(f"backup: {target} cannot be written: {error}") from error
        raise start_error(path, error) from error


def _checked(made: Path) -> int:
    """Return the number of records in a copy; StartError if it is damaged."""
    with _converting_errors(made), closing(connect(made, timeout_seconds=0)) as connection:
        identify(connection, made, newest=len(MIGRATIONS))
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok" or not _has_tables(connection):
            raise StartError(
                f"backup: the copy is damaged, and so may be the store: {verdict}; see docs/failure-modes.md"
            )
        (records,) = connection.execute("SELECT count(*) FROM records WHERE expire >= 0").fetchone()
    return int(records)


def _has_tables(connection: sqlite3.Connection) -> bool:
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {"records", "identity"} <= found


def _publish(made: Path, target: Path, *, overwrite: bool) -> None:
    """Sync the copy, and rename it to its target."""
    with _writable(target):
        _sync(made)
        if overwrite:
            made.replace(target)
        else:
            target.hardlink_to(made)  # fails if another process has created the target meanwhile
        _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
