"""The SQLite file: its owner, schema and migrations, and the claims of processes on it.

A file of another application is never changed; an older file is migrated; a newer one is rejected.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import structlog

from guidsvc.errors import StartError, StoreInUse
from guidsvc.store.sqlite.files import LOCK_SUFFIX, WAL_BYTES, connect
from guidsvc.store.sqlite.parts import begin_creation, end_creation, missing, refuse_incomplete, why_unopenable

_log = structlog.get_logger(__name__)

APPLICATION_ID = 0x67756964
"""Identifies files of guidsvc in SQLite's header: "guid"."""

_LOG_COLUMNS = """
    seq INTEGER PRIMARY KEY NOT NULL, prev INTEGER, total INTEGER NOT NULL, appended INTEGER NOT NULL,
    kind TEXT NOT NULL, guid TEXT NOT NULL, version INTEGER NOT NULL, at INTEGER NOT NULL, owner TEXT NOT NULL,
    user TEXT, expire INTEGER, metadata TEXT, changed TEXT NOT NULL, former_user TEXT,
    caller TEXT NOT NULL, request_id TEXT NOT NULL, lead INTEGER NOT NULL
"""

MIGRATIONS = (
    """
    CREATE TABLE records (
        guid TEXT PRIMARY KEY NOT NULL,
        user TEXT NOT NULL,
        expire INTEGER NOT NULL,
        metadata TEXT,
        owner TEXT NOT NULL,
        version INTEGER NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        purge_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX records_purge_at ON records (purge_at);
    CREATE TABLE identity (name TEXT NOT NULL);
    INSERT INTO identity VALUES (lower(hex(randomblob(8))));
    """,
    """
    CREATE INDEX records_user ON records (user, guid, expire, purge_at);
    CREATE INDEX records_expire ON records (expire, purge_at);
    CREATE TABLE receipts (
        key TEXT PRIMARY KEY NOT NULL,
        fingerprint TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        leased_until INTEGER NOT NULL,
        seed TEXT NOT NULL,
        claimed INTEGER NOT NULL,
        answer TEXT,
        purge_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX receipts_purge_at ON receipts (purge_at);
    """,
    """
    CREATE TABLE fence (mode TEXT NOT NULL, gen INTEGER NOT NULL, boot TEXT NOT NULL);
    INSERT INTO fence VALUES ('off', 0, '');
    """,
    """
    CREATE INDEX records_owner ON records (owner, guid, expire, purge_at);
    CREATE INDEX records_owner_user ON records (owner, user, guid, expire, purge_at);
    CREATE TABLE keys (
        id TEXT PRIMARY KEY NOT NULL,
        owner TEXT NOT NULL,
        scopes TEXT NOT NULL,
        digest TEXT NOT NULL,
        former TEXT,
        former_until INTEGER NOT NULL,
        expire INTEGER,
        revoked INTEGER NOT NULL,
        created INTEGER NOT NULL,
        used INTEGER,
        version INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE ledgers (
        owner TEXT PRIMARY KEY NOT NULL,
        version INTEGER NOT NULL,
        entries TEXT NOT NULL,
        quota INTEGER NOT NULL,
        room INTEGER NOT NULL,
        room_until INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE keys ADD COLUMN note TEXT",
    """
    DROP INDEX records_expire;
    CREATE INDEX records_expire ON records (expire, guid, purge_at);
    """,
    """
    ALTER TABLE keys ADD COLUMN max_ttl INTEGER;
    ALTER TABLE keys ADD COLUMN max_life INTEGER;
    """,
    """
    DROP INDEX records_owner;
    DROP INDEX records_owner_user;
    CREATE INDEX records_owner ON records (owner, guid, expire, purge_at) WHERE owner <> '';
    CREATE INDEX records_owner_user ON records (owner, user, guid, expire, purge_at) WHERE owner <> '';
    """,
    f"""
    ALTER TABLE records ADD COLUMN due INTEGER;
    ALTER TABLE records ADD COLUMN stage INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE records ADD COLUMN last INTEGER;
    DROP INDEX records_purge_at;
    CREATE INDEX records_due ON records (due);
    CREATE TABLE log ({_LOG_COLUMNS});
    CREATE TABLE log_bounds (
        epoch INTEGER NOT NULL, floor INTEGER NOT NULL, floor_checksum INTEGER NOT NULL, floor_total INTEGER NOT NULL,
        secret BLOB NOT NULL, start_at INTEGER, has_gap INTEGER NOT NULL DEFAULT 0
    );
    INSERT INTO log_bounds VALUES (random() & 4294967295, 0, 0, 0, randomblob(32), NULL, 0);
    """,  # noqa: S608  # nosec B608  # our own names
    "CREATE INDEX log_owner ON log (owner) WHERE owner <> ''",
    f"""
    CREATE TABLE log_archive ({_LOG_COLUMNS});
    CREATE INDEX log_archive_owner ON log_archive (owner);
    ALTER TABLE log_bounds ADD COLUMN shares TEXT;
    """,
    "CREATE INDEX records_owner_expire ON records (owner, expire, guid, purge_at) WHERE owner <> ''",
)
"""Step n migrates a file from version n to n + 1. A released step must never change.

Columns are only added at the end of a table, which `salvage` depends on. In `records`, `due` and `stage` are those of
`EventPolicy`, and `last` is the number of the newest log entry of the GUID. In `log`, `prev` is the number of the
previous entry of the GUID, and `total` the size of all entries so far in pages (`total_after`): neither needs an index
or a page of its own. `appended` is the time of the append; `at` may be far older. In `log_bounds`, `start_at` and
`has_gap` are those of `continuity`. The indexes on the owner leave out rows without one: without access control that is
every row, and those of `records` took a third of the time of a creation. `log_owner` is in the order of the numbers
within an owner. `log_archive` has the columns of `log`, but its `total` is the size of the entry alone. `shares` in
`log_bounds` is that of `archive`.
"""

CHECKPOINT_PAGES = 4000
"""A commit that finds this many pages in the log copies them to the file, each once. With SQLite's 1,000, few pages
were in the log twice, and copying took a fifth of the time of a creation. Above 4,062, searching the log takes longer.
"""
BUSY_SECONDS = 2.0
"""Maximum wait of a write for another process that writes the same file."""
SHARE_SECONDS = 5.0
"""Maximum wait of a process to share the file. The first process has it alone while it checks the file."""
SILENT_SECONDS = 0.5  # then it logs that it waits
PROBE_SECONDS = 0.05
"""Maximum wait of a claim for a process that only looks whether there is a claim."""
_READ_BUSY_SECONDS = 0.05  # reads run on the event loop; in WAL mode they wait only for a recovery
MAKE_IDENTITY = "INSERT INTO identity SELECT lower(hex(randomblob(8))) WHERE NOT EXISTS (SELECT 1 FROM identity)"
MAKE_FENCE = "INSERT INTO fence SELECT 'off', 0, '' WHERE NOT EXISTS (SELECT 1 FROM fence)"
MAKE_BOUNDS = """
    INSERT INTO log_bounds (epoch, floor, floor_checksum, floor_total, secret)
    SELECT random() & 4294967295, ifnull((SELECT min(seq) FROM log), 1) - 1, 0,
        ifnull((SELECT total FROM log ORDER BY seq LIMIT 1), 0), randomblob(32)
    WHERE NOT EXISTS (SELECT 1 FROM log_bounds)
"""
"""MAKE_IDENTITY, MAKE_FENCE and MAKE_BOUNDS restore the single row of each table where a damaged file has lost it."""


def open_writer(path: Path, migrations: tuple[str, ...] = MIGRATIONS, *, create: bool = True) -> sqlite3.Connection:
    """Open the file for writing; create, unless `create` is False, or migrate it. StartError if that fails."""
    refuse_incomplete(path)
    if create:
        begin_creation(path)
    connection = _connect(path, timeout=BUSY_SECONDS)
    try:
        if not identify(connection, path, newest=len(migrations)) and not create:
            raise missing(path)
        _prepare(connection, path, migrations)
        end_creation(path)
    except sqlite3.Error as error:
        connection.close()
        raise start_error(path, error) from error
    except StartError:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a file that `open_writer` has prepared, for reading in one thread at a time."""
    connection = connect(path, timeout_seconds=_READ_BUSY_SECONDS)
    connection.execute("PRAGMA query_only = ON")
    return connection


def is_store(path: Path) -> bool:
    """Return whether the file holds a store; StartError if it is another application's, or cannot be read."""
    return path.exists() and _refuse_stranger(path, newest=len(MIGRATIONS))


def claim(path: Path, *, exclusive: bool) -> tuple[sqlite3.Connection, bool]:
    """Claim the file exclusively, or shared with other processes, until the returned connection is closed.

    Also return whether no other process had a claim: then even a shared claim is exclusive until `share` is called. The
    claim is a lock that SQLite holds on an empty file beside the database, so it ends with the process in any case.
    StoreInUse if another process has a conflicting claim; StartError if the file is another application's.
    """
    refuse_incomplete(path)
    if path.exists():
        _refuse_stranger(path, newest=len(MIGRATIONS))
    lock = _connect(path.with_name(path.name + LOCK_SUFFIX), timeout=PROBE_SECONDS)
    try:
        if _locks(lock, "EXCLUSIVE"):
            return lock, True
        if not exclusive and _waits_for_share(lock, path):
            return lock, False
    except sqlite3.Error as error:
        lock.close()
        raise start_error(path, error) from error
    lock.close()
    raise _in_use(path, exclusive=exclusive)


def _waits_for_share(lock: sqlite3.Connection, path: Path) -> bool:
    """Wait until the file can be shared; return whether it is. The first process has it alone for a moment."""
    for seconds in (SILENT_SECONDS, SHARE_SECONDS - SILENT_SECONDS):
        lock.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        if _locks(lock, "DEFERRED"):
            return True
        if seconds == SILENT_SECONDS:
            _log.info("store in use, waiting until it is shared", file=str(path), seconds=SHARE_SECONDS, reason=_ALONE)
    return False


_ALONE = "another guidsvc starts just now, its disk is full, or it caches in its own memory"


def _in_use(path: Path, *, exclusive: bool) -> StoreInUse:
    """Return the error of a claim that conflicts with that of another process."""
    other_store = "start this one with --store-url sqlite:///other.db --port 8889"
    if exclusive:
        return StoreInUse(
            f"another guidsvc uses {path}: stop it, or {other_store} (or the same --cache-url redis://... in both)"
        )
    return StoreInUse(
        f"another guidsvc uses {path} without sharing it: stop it, or start it with the --cache-url of this one, "
        f"or {other_store}"
    )


def share(lock: sqlite3.Connection) -> None:
    """Downgrade an exclusive claim, so that other processes can share the file."""
    lock.execute("ROLLBACK")  # a COMMIT would write the first page
    _locks(lock, "DEFERRED")


def _locks(lock: sqlite3.Connection, kind: str) -> bool:
    """Try to take the lock, without writing a byte: the disk may be full. Return whether that succeeded."""
    try:
        lock.execute("PRAGMA journal_mode = MEMORY")
        lock.execute(f"BEGIN {kind}")
        lock.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if lock.in_transaction:
            lock.execute("ROLLBACK")
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a file. Create a missing one with access for this user only, which SQLite copies to the files beside it."""
    with suppress(OSError):  # SQLite will report it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise start_error(path, error) from error


def _prepare(connection: sqlite3.Connection, path: Path, migrations: tuple[str, ...]) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StartError(
            f"store_url: {path} is on a file system without support for a write-ahead log; use a local disk"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("BEGIN IMMEDIATE")  # one process at a time; an unwritable file fails here
    if _pragma(connection, "user_version") != len(migrations):  # if current, write nothing: the disk may be full
        for step in migrations[_pragma(connection, "user_version") :]:
            for statement in filter(str.strip, step.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
    connection.execute("COMMIT")


def _refuse_stranger(path: Path, newest: int) -> bool:
    """Check a file before anything is created beside it; return True if it is a guidsvc file, False if it is empty."""
    with closing(_connect(path, timeout=BUSY_SECONDS)) as connection:
        try:
            return identify(connection, path, newest)
        except sqlite3.Error as error:
            raise start_error(path, error) from error


def identify(connection: sqlite3.Connection, path: Path, newest: int) -> bool:
    """Return True for a guidsvc file, False for an empty one; StartError for another application's, or a newer one."""
    connection.execute("BEGIN")  # another process may be creating the file: see all of it, or nothing
    owner, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("COMMIT")
    if owner != APPLICATION_ID and (owner or version or tables):
        raise StartError(f"store_url: {path} is a SQLite file of another application; name another file")
    if version > newest:
        raise StartError(
            f"store_url: {path} was written by a newer guidsvc (schema {version}, not {newest}); run that version"
        )
    return bool(owner == APPLICATION_ID)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


_REASONS = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite file; name another file",
    sqlite3.SQLITE_READONLY: "cannot be written: it is read-only to this user; let this user write it",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full; free some space",
    sqlite3.SQLITE_IOERR_SHMSIZE: "has no space for its files -wal and -shm: the disk is full; free some space",
    sqlite3.SQLITE_BUSY: "is locked by another process; stop that, or try again later",
    sqlite3.SQLITE_CORRUPT: "is damaged; see docs/failure-modes.md",
}


def start_error(path: Path, error: sqlite3.Error) -> StartError:
    """Convert a SQLite error to the StartError of a service or a command."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return StartError(f"store_url: {why_unopenable(path)}")
    reason = f"{path} {_REASONS.get(code) or _REASONS.get(code & 0xFF, error)}"
    return StartError(f"store_url: {reason}")
