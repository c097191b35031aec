"""Partial files: new content beside its target, until it is complete and renamed.

Their names are random, so that processes with the same target do not disturb each other. A process that is killed
leaves its file. So each process holds a lock while it writes, and removes what it finds unlocked in the folder.

The lock is on a file of its own. SQLite locks its databases itself, and on a network file system the two kinds of locks
may exclude each other.
"""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

_OWNER_SUFFIX = "-owner"
_SUFFIXES = ("", "-journal", "-wal", "-shm", _OWNER_SUFFIX)
"""Of the partial file, of those that SQLite puts beside it, and of the one that is locked, which is removed last."""
_OWNER_NAME = re.compile(rf"\..*\.[0-9a-f]{{16}}\.part{_OWNER_SUFFIX}", re.DOTALL)
_MAX_NAME_BYTES = 100
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """Yield a name beside a target, at which nothing exists yet. At the end, remove what is there.

    First remove the partial files in the folder that killed processes of this user have left there, of any target.
    Raise OSError if the folder is not writable.
    """
    _remove_leftovers(target.parent)
    name = os.fsencode(target.name)[:_MAX_NAME_BYTES].decode(errors="ignore")
    path = target.with_name(f".{name}.{token_hex(8)}.part")
    owner: int | None = None
    try:  # before a file is created: a signal may arrive at any time
        owner = _lock(_beside(path, _OWNER_SUFFIX))
        yield path
    finally:
        _remove(path)
        if owner is not None:
            os.close(owner)


def _lock(owner: Path) -> int:
    """Create a file, and lock it; again if another process has removed it meanwhile, as a leftover."""
    while True:
        descriptor = os.open(owner, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with suppress(OSError):  # without locks on this file system, no process finds anything unlocked
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_file(owner, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove the partial files in a folder whose process has ended, as far as possible."""
    with suppress(OSError), os.scandir(folder) as entries:
        owners = [Path(entry.path) for entry in entries if _OWNER_NAME.fullmatch(entry.name)]
        for owner in owners:
            with suppress(OSError):
                _remove_if_unlocked(owner)


def _remove_if_unlocked(owner: Path) -> None:
    """Remove a partial file of this user; OSError if its process still runs."""
    descriptor = os.open(owner, _FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_file(owner, descriptor):
            _remove(owner.with_name(owner.name.removesuffix(_OWNER_SUFFIX)))
    finally:
        os.close(descriptor)


def _is_file(path: Path, descriptor: int) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        with suppress(OSError):
            _beside(path, suffix).unlink()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
