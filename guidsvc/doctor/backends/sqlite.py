"""Checks of a SQLite store. Its file is opened for reading only. The probe is a separate file, which is removed."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from guidsvc.config import Size
from guidsvc.doctor.backends.deleted_file import open_copies
from guidsvc.doctor.checks import Check, Closed
from guidsvc.doctor.findings import Finding, fail, fault, ok, warn
from guidsvc.errors import GuidsvcError, StartError
from guidsvc.errors.plurals import counted
from guidsvc.files.partial_file import partial_file
from guidsvc.program import runnable
from guidsvc.store.sqlite.files import LOCK_SUFFIX, SUFFIXES, WAL_BYTES
from guidsvc.store.sqlite.parts import (
    GIVE_FILE,
    is_denied,
    mode_of,
    owner_of,
    refuse_incomplete,
    why_denied,
    why_unopenable,
)
from guidsvc.store.sqlite.recovery.claim_record import refuse_replaced
from guidsvc.store.sqlite.recovery.key_order import find_disorder
from guidsvc.store.sqlite.schema import MIGRATIONS, identify, start_error
from guidsvc.store.sqlite.writer import code_of

QUICK_SECONDS, DEEP_SECONDS = 20.0, 3600.0
"""Time limits of the check of the pages, and with --deep of the check of the whole file."""
MOUNTS, LOCKS = Path("/proc/self/mountinfo"), Path("/proc/locks")
LOW_BYTES = 16 * 1024 * 1024
"""With less free space than this, writes are about to fail."""
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "lustre", "afs"}
)
"""File systems with locks that other hosts may not see."""
MAX_COUNT = 1_000_000
_COUNT = f"SELECT count(*) FROM (SELECT 1 FROM records WHERE expire >= 0 LIMIT {MAX_COUNT})"  # noqa: S608  # nosec B608  # a number of this file
_STEPS = 100_000
"""SQLite instructions between two reads of the clock."""
_SLACK_SECONDS = 5.0
_WRITER_BYTE = 120
"""The byte of the index that SQLite locks while a process writes: see "WAL Locks", https://www.sqlite.org/walformat.html."""
LOCK_SECONDS = 1.0
"""A program that holds the lock of writers for so long is reported."""
_PAUSE_SECONDS = 0.05
_LOOKS = 3
"""Maximum number of times that a file is read as one that nobody uses."""

_Found = TypeVar("_Found")


def checks(path: Path, *, is_deep: bool) -> Sequence[Check]:
    """Return the checks of the store in a file."""
    seconds = DEEP_SECONDS if is_deep else QUICK_SECONDS
    return (
        Check("store.folder", partial(_folder, path), is_gate=True),
        Check("store.space", partial(_space, path)),
        Check("store.writable", partial(_writable, path)),
        Check("store.file", partial(_file, path), 10.0, is_gate=True),
        Check("store.user", partial(_user, path)),
        Check("store.log", partial(_log, path)),
        Check("store.pages", partial(_pages, path, seconds, is_deep=is_deep), seconds + _SLACK_SECONDS),
    )


def _folder(path: Path) -> Finding:
    folder = path.parent
    if not folder.is_dir():
        raise StartError(f"store_url: {why_unopenable(path)}")
    kind = _file_system(folder)
    if kind in _NETWORK:
        return warn(
            f"{folder} is on a network file system ({kind}), whose locks SQLite cannot trust",
            "move the store to a local disk, or use MongoDB",
        )
    return ok(f"{folder} is on {kind or 'a file system of unknown type'}")


def _file_system(folder: Path) -> str | None:
    """Return the type of the file system of a folder: that of the longest mount point above it."""
    best, kind = -1, None
    with suppress(OSError):
        for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = before.split(" ")[4].encode().decode("unicode_escape")
            if folder.is_relative_to(point) and len(point) >= best:
                best, kind = len(point), after.split(" ")[0]
    return kind


def _space(path: Path) -> Finding:
    free = shutil.disk_usage(path.parent).free
    size = path.stat().st_size if path.exists() else 0
    if free < LOW_BYTES:
        return fail(
            f"the disk of {path.parent} has only {Size(free)} free", "free some space: writes are about to fail"
        )
    if free < size + WAL_BYTES:
        return warn(
            f"the disk of {path.parent} has {Size(free)} free, the store has {Size(size)}",
            f"free some space: a backup beside the store needs {Size(size)}, its log up to {Size(WAL_BYTES)}",
        )
    return ok(f"{Size(free)} free, the store has {Size(size)}")


def _writable(path: Path) -> Finding:
    """Write a small SQLite file next to the store, and remove it."""
    files = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    denied = next(filter(is_denied, files), None)
    if denied is not None:
        return fail(why_denied(denied), f"{GIVE_FILE}, or run the doctor as that user")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        return fail(f"{path.parent} is not writable to this user", "change its mode or owner, or run as its owner")
    with partial_file(path) as probe:
        try:
            _write(probe)
        except sqlite3.Error as error:
            return _unwritable(probe, error)
    return _foreign_file(files) or ok(f"a probe could be written to {path.parent}")


def _foreign_file(files: Sequence[Path]) -> Finding | None:
    """Return the finding about a file that belongs to another user than its folder, as after a restore by root.

    A folder of root may be open to the user of the service, which then owns the files.
    """
    folder = files[0].parent
    for each in files:
        with suppress(FileNotFoundError):  # SQLite removes its own files
            if _user_id(folder) not in {0, _user_id(each)}:
                return warn(
                    f"{each} belongs to {owner_of(each)} ({mode_of(each)}), and its folder to {owner_of(folder)}",
                    f"if the service runs as {owner_of(folder)}: chown --reference={folder} {each}",
                )
    return None


def _user_id(path: Path) -> int:
    return path.stat().st_uid


def _unwritable(probe: Path, error: sqlite3.Error) -> Finding:
    """Return the finding about a probe that could not be written."""
    if code_of(error) == sqlite3.SQLITE_IOERR:
        return fail(
            f"the disk of {probe.parent} rejects writes: {error}",
            "see whether the file system is read-only, and what the kernel says (dmesg)",
        )
    return fault(str(start_error(probe, error)).removeprefix("store_url: "))


def _write(probe: Path) -> None:
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(probe, isolation_level=None, timeout=0)) as connection:
        connection.execute("PRAGMA journal_mode = MEMORY")  # no further file
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE probe (x)")


def _file(path: Path) -> Finding:
    if not path.exists() and (deleted := _deleted(path)) is not None:
        return deleted
    refuse_replaced(path)
    if not path.exists():
        raise Closed(ok(f"there is no store at {path} yet; the service creates it at its first start"))
    refuse_incomplete(path)
    version, records = read(path, partial(_version_and_records, path))
    if version < len(MIGRATIONS):
        return warn(
            f"{path} has the schema {version}; the next start brings it to {len(MIGRATIONS)}, and there is no way back",
            f"make a backup before: `{runnable('backup')} TARGET`",
        )
    number = f"{records} or more records" if records == MAX_COUNT else counted(records, "record")
    return ok(f"{path} is a store with {number}")


def _deleted(path: Path) -> Finding | None:
    """Return the finding about a store that was deleted while a process has it open."""
    pid, copy = next(open_copies(path), (None, None))
    if pid is None:
        return None
    return fail(
        f"{path} was deleted, and only {_process(pid)} still has it",
        f"do not stop or restart the service: `cp {copy} rescued.db`, then go on as in docs/failure-modes.md, "
        "The file was deleted",
    )


def _version_and_records(path: Path, connection: sqlite3.Connection) -> tuple[int, int]:
    if not identify(connection, path, newest=len(MIGRATIONS)):
        raise Closed(ok(f"{path} is empty; the service creates the store at its first start"))
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (records,) = connection.execute(_COUNT).fetchone()
    return version, records


def _user(path: Path) -> Finding:
    if lockers := _lasting_lockers(path):
        return warn(
            f"{_process(lockers[0])} locks the file, so the service cannot write",
            "end this program, or its transaction, such as one of a sqlite3 shell",
        )
    names = users(path)
    return ok(f"used by {', '.join(names)}" if names else "no process uses it")


def users(path: Path) -> list[str]:
    """Return the processes that have claimed the store, by the locks of the kernel."""
    lock = path.with_name(path.name + LOCK_SUFFIX)
    return [_process(pid) for pid in _holders(lock)]


def _lasting_lockers(path: Path) -> list[int]:
    """Return the other programs that keep the lock of writers, which the service itself holds for a moment only."""
    index, services = path.with_name(f"{path.name}-shm"), _holders(path.with_name(path.name + LOCK_SUFFIX))
    lockers = set(_holders(index, first_byte=_WRITER_BYTE)) - set(services)
    end = time.monotonic() + LOCK_SECONDS
    while lockers and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)
        lockers &= set(_holders(index, first_byte=_WRITER_BYTE))
    return sorted(lockers)


def _holders(file: Path, first_byte: int | None = None) -> list[int]:
    """Return the processes that have a lock of a file, or one that begins at this byte."""
    pids: dict[int, None] = {}
    with suppress(OSError):
        inode = f":{file.stat().st_ino}"
        for line in LOCKS.read_text(encoding="ascii", errors="replace").splitlines():
            fields = line.replace("-> ", "").split()
            is_of_file = len(fields) > 6 and fields[5].endswith(inode) and int(fields[4]) > 0  # noqa: PLR2004  # see proc_locks(5)
            if is_of_file and first_byte in {None, int(fields[6])}:
                pids[int(fields[4])] = None
    return list(pids)


def _process(pid: int) -> str:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        names = [Path(word).name for word in words[:2] if word]
        return f"process {pid} ({' '.join(names)})"
    return f"process {pid}"


def _log(path: Path) -> Finding:
    log = path.with_name(f"{path.name}-wal")
    try:
        size = log.stat().st_size
    except FileNotFoundError:  # the last process that uses the store removes it
        size = 0
    if size > WAL_BYTES:
        return warn(
            f"the write-ahead log has {Size(size)}, more than {Size(WAL_BYTES)}: another program holds a transaction",
            "end other programs that read the store, such as a sqlite3 shell",
        )
    return ok(f"the write-ahead log has {Size(size)}")


def _pages(path: Path, seconds: float, *, is_deep: bool) -> Finding:
    deadline = time.monotonic() + seconds
    pragma = "integrity_check" if is_deep else "quick_check"
    try:
        verdict = read(path, partial(_damage, pragma, deadline, is_deep=is_deep))
    except StartError:
        if time.monotonic() > deadline:
            return warn(f"{pragma} did not end within {seconds:g} s", "run the doctor with --deep when there is time")
        raise
    if verdict is not None:
        return fail(
            f"the store is damaged: {verdict}", "see docs/failure-modes.md: restore a backup, or use `backup --salvage`"
        )
    return ok(
        f"{pragma} finds no damage, and the keys are in order{'' if is_deep else '; --deep compares the indexes'}"
    )


def _damage(pragma: str, deadline: float, connection: sqlite3.Connection, *, is_deep: bool) -> str | None:
    """Return what is damaged, or None. Only the deep check compares the keys with the indexes."""
    connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
    (verdict,) = connection.execute(f"PRAGMA {pragma}(1)").fetchone()
    if verdict != "ok":
        return str(verdict)
    return None if is_deep else find_disorder(connection)


def read(path: Path, look: Callable[[sqlite3.Connection], _Found]) -> _Found:
    """Return what a function finds in the file, which is opened for reading only; StartError if SQLite cannot read it.

    Without a log beside the file nobody writes it, and SQLite must not create one. If a process opens it nevertheless
    while it is read, SQLite does not notice, and takes what it reads for damage. So then the function is called again.
    """
    for _ in range(_LOOKS):
        before = _FileState.of(path)
        if before.has_log:
            break
        try:
            found = _read_once(path, look, is_unused=True)
        except (StartError, GuidsvcError, Closed):
            if _FileState.of(path) == before:
                raise
        else:
            if _FileState.of(path) == before:
                return found
    return _read_once(path, look, is_unused=False)


def _read_once(path: Path, look: Callable[[sqlite3.Connection], _Found], *, is_unused: bool) -> _Found:
    url = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if is_unused else ''}"
    try:
        with closing(sqlite3.connect(url, uri=True, timeout=1.0, isolation_level=None)) as connection:
            return look(connection)
    except sqlite3.Error as error:
        raise start_error(path, error) from error


class _FileState(NamedTuple):
    """Whether there is a log beside a file, and what changes with each write of the file; None if it is missing."""

    has_log: bool
    inode: int | None
    size_bytes: int | None
    modified_ns: int | None

    @classmethod
    def of(cls, path: Path) -> Self:
        has_log = path.with_name(f"{path.name}-wal").exists()
        try:
            found = path.stat()
        except FileNotFoundError:
            return cls(has_log, None, None, None)
        return cls(has_log, found.st_ino, found.st_size, found.st_mtime_ns)
