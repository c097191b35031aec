"""The files in which several processes put their metrics together, in prometheus_client's own format.

Each process writes files of its own, named by its number. The counters of a process that has ended are added up in one
file of all the dead, so that nothing which was counted is lost, and no file stays for each death. A lock keeps readers
from seeing both, or neither, of the two. What else is in the folder was written by anybody, and is never trusted.
"""

import fcntl
import os
import re
import secrets
import shutil
import stat
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from guidsvc.monitoring.value_file import MODE, ValueFile, create

PREFIX = "guidsvc-metrics-"
"""With which the name of a supervisor's folder begins."""
MAX_BYTES = 16 * 1024 * 1024
"""A larger file is not read."""
LOCK_SECONDS = 1.0
"""For which the lock of a folder is waited for."""
DEAD = "dead"
"""Stands where the number of the process is, in the names of the files of all that have ended."""

_ADDED_UP = ("counter", "histogram")
_NAME = re.compile(r"(?:counter|histogram|summary|gauge_[a-z]+)_(?:[0-9]+|dead)")


def open_file(path: Path) -> ValueFile:
    """Open a file of this process, made anew if there is none, or none that can be read; OSError if it cannot be."""
    if not is_readable(path):
        path.unlink(missing_ok=True)
        create(path)
    return ValueFile(path)


def is_readable(path: Path) -> bool:
    """Whether a file holds metrics."""
    return _may_hold_metrics(path) and _merged([path]) is not None


def read_all(folder: Path) -> tuple[list[Metric], list[str]]:
    """Return the metrics of all files in a folder, and the names of those files that were left out."""
    files = sorted(folder.glob("*.db"))
    found = [path for path in files if _may_hold_metrics(path)]
    metrics = _merged(found)
    if metrics is None:
        found = [path for path in found if is_readable(path)]
        metrics = _merged(found) or []
    return metrics, [path.name for path in files if path not in found]


def _may_hold_metrics(path: Path) -> bool:
    """Whether a file has the name and the size of one that holds metrics; a FIFO would be waited for without end."""
    if _NAME.fullmatch(path.stem) is None:
        return False
    with suppress(OSError, struct.error):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES:
            with path.open("rb") as file:
                (used,) = struct.unpack("i", file.read(4))
            return bool(0 <= used <= found.st_size)
    return False


def _merged(files: Sequence[Path]) -> list[Metric] | None:
    """Return the metrics of files; None if one of them cannot be read."""
    try:
        return list(MultiProcessCollector.merge([str(path) for path in files]))  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  # a file may hold anything, so reading it may fail in any way
        return None


@contextmanager
def locked(folder: Path, *, exclusive: bool) -> Iterator[bool]:
    """Hold the lock of a folder, inside; yields whether it could be had within LOCK_SECONDS."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def bury(folder: Path, pid: int) -> None:
    """Add up what a process that has ended has counted with the other dead; OSError if that cannot be written."""
    with locked(folder, exclusive=True) as is_locked:
        if not is_locked:
            return  # its files stay, which is right too
        for kind in _ADDED_UP:
            path = folder / f"{kind}_{pid}.db"
            if is_readable(path):
                _add(path, folder / f"{kind}_{DEAD}.db")
            path.unlink(missing_ok=True)
            path.with_suffix(".new").unlink(missing_ok=True)


def _add(path: Path, to: Path) -> None:
    """Add the values of a file to those of another, which is replaced in one step."""
    sums: dict[str, float] = {}
    for each in (to, path):
        if is_readable(each):
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(each)):  # type: ignore[no-untyped-call]
                sums[key] = sums.get(key, 0.0) + value
    new = to.with_suffix(".sum")
    new.unlink(missing_ok=True)
    with closing(open_file(new)) as file:
        for key, value in sums.items():
            file.set_value(key, value)
        file.flush()
    new.replace(to)


class SharedFolder:
    """The folder in which workers put their metrics together, as their supervisor makes it and keeps it.

    A file `owner` in it is locked as long as the supervisor lives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner: int | None = None

    def renew(self) -> None:
        """Make the folder anew if it was removed, and mark it as used for those who clean temporary folders up.

        OSError if there is no room, or another user has taken its name.
        """
        with suppress(FileExistsError):
            self.path.mkdir(0o700)
        found = self.path.lstat()
        if not (stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()):
            raise FileExistsError(f"something else is at {self.path}")
        if not self._is_owned():
            self._own()
        for each in (self.path, self.path / "owner", self.path / "lock"):
            with suppress(FileNotFoundError):
                os.utime(each, follow_symlinks=False)

    def remove(self) -> None:
        """Remove the folder, as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _is_owned(self) -> bool:
        with suppress(FileNotFoundError):
            return self._owner is not None and os.path.samestat((self.path / "owner").lstat(), os.fstat(self._owner))
        return False

    def _own(self) -> None:
        self._release()
        new = self.path / "owner.new"
        new.unlink(missing_ok=True)
        self._owner = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(self.path / "owner")  # locked already when it can be seen

    def _release(self) -> None:
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None


@contextmanager
def supervised_folder() -> Iterator[SharedFolder]:
    """Name a folder for the metrics of workers, inside; and remove those of supervisors that were killed."""
    parent = _temporary()
    _remove_stale(parent)
    folder = SharedFolder(parent / f"{PREFIX}{secrets.token_hex(8)}")
    try:
        yield folder
    finally:
        folder.remove()


def _temporary() -> Path:
    """Return the folder for temporary files, writable or not."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # none that can be written now
        return Path("/tmp")  # noqa: S108  # nosec B108  # the folder in it is made with a name that nobody can guess


def _remove_stale(parent: Path) -> None:
    """Remove the folders of this user whose supervisor has ended: nobody locks their file `owner` any more."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and _is_deserted(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_deserted(folder: Path) -> bool:
    """Whether the owner of a folder has ended; OSError if it has none, or has one still."""
    descriptor = os.open(folder / "owner", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
    return True
