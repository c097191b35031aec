"""Files through which several processes share metrics, in prometheus_client's own format.

Each process writes its own files, named by its process ID. Counters of ended processes are added to common files, so
that no count is lost and files do not accumulate. A lock prevents readers from counting a process twice, or not at
all. Other content of the folder may come from any process, and is never trusted.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from guidsvc.monitoring.value_file import MODE, ValueFile, create

PREFIX = "guidsvc-metrics-"
"""Prefix of the name of a supervisor's folder."""
MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of a file, in bytes; a larger one is not read."""
LOCK_SECONDS = 1.0
"""Maximum wait for the lock of a folder, in seconds."""
DEAD = "dead"
"""Replaces the process ID in the names of the common files of ended processes."""

_ADDED_UP = ("counter", "histogram")
_NAME = re.compile(r"(?:counter|histogram|summary|gauge_[a-z]+)_(?:[0-9]+|dead)")


def open_file(path: Path) -> ValueFile:
    """Open a file of this process; replace it if it is missing or unreadable. Raise OSError if that fails."""
    if not is_readable(path):
        path.unlink(missing_ok=True)
        create(path)
    return ValueFile(path)


def key_of(metric: str, sample: str, labels: Mapping[str, str], meaning: str) -> str:
    """Return the key of a sample in a file."""
    return mmap_key(metric.removesuffix("_total"), sample, list(labels), list(labels.values()), meaning)


def is_readable(path: Path) -> bool:
    """Return whether a file holds metrics."""
    return _may_hold_metrics(path) and _merge([path]) is not None


def read_all(folder: Path) -> tuple[list[Metric], list[str]]:
    """Return the metrics of all files in a folder, and the names of skipped files."""
    files = sorted(folder.glob("*.db"))
    readable = [path for path in files if _may_hold_metrics(path)]
    metrics = _merge(readable)
    if metrics is None:
        readable = [path for path in readable if is_readable(path)]
        metrics = _merge(readable) or []
    return metrics, [path.name for path in files if path not in readable]


def _may_hold_metrics(path: Path) -> bool:
    """Return whether a file has the name, type and size of a metric file; opening a FIFO would block forever."""
    if _NAME.fullmatch(path.stem) is None:
        return False
    with suppress(OSError, struct.error):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            with path.open("rb") as file:
                (used,) = struct.unpack("i", file.read(4))
            return bool(0 <= used <= status.st_size)
    return False


def _merge(files: Sequence[Path]) -> list[Metric] | None:
    """Return the metrics of files, or None if one of them cannot be read."""
    try:
        return list(MultiProcessCollector.merge([str(path) for path in files]))  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  # a file may hold anything, so reading it may fail in any way
        return None


@contextmanager
def locked(folder: Path, *, exclusive: bool) -> Iterator[bool]:
    """Hold the lock of a folder; yield whether it was acquired within LOCK_SECONDS."""
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
    """Add the counts of an ended process to the common files; raise OSError if these cannot be written."""
    with locked(folder, exclusive=True) as is_locked:
        if not is_locked:
            return  # its files stay, and are still read
        for kind in _ADDED_UP:
            path = folder / f"{kind}_{pid}.db"
            if is_readable(path):
                _add(path, folder / f"{kind}_{DEAD}.db")
            path.unlink(missing_ok=True)
            path.with_suffix(".new").unlink(missing_ok=True)


def _add(path: Path, to: Path) -> None:
    """Add the values of a file to those of another, which is replaced atomically."""
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
    """The folder in which workers share metrics, created and maintained by their supervisor.

    Its file `owner` is locked while the supervisor lives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner: int | None = None

    def renew(self) -> None:
        """Create the folder if it is missing, and touch it, so that cleaners of temporary folders do not remove it.

        Raise OSError if the disk is full, or another user has taken its name.
        """
        with suppress(FileExistsError):
            self.path.mkdir(0o700)
        status = self.path.lstat()
        if not (stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()):
            raise FileExistsError(f"{self.path} is not a directory of this user")
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
        new.rename(self.path / "owner")  # already locked when it becomes visible

    def _release(self) -> None:
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None


@contextmanager
def supervised_folder() -> Iterator[SharedFolder]:
    """Yield a folder for the metrics of workers, not created yet; remove those of killed supervisors first."""
    parent = _temporary_folder()
    _remove_stale(parent)
    folder = SharedFolder(parent / f"{PREFIX}{secrets.token_hex(8)}")
    try:
        yield folder
    finally:
        folder.remove()


def _temporary_folder() -> Path:
    """Return the folder for temporary files, even if it is not writable."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # no candidate is writable now
        return Path("/tmp")  # noqa: S108  # nosec B108  # the folder in it has a name that cannot be guessed


def _remove_stale(parent: Path) -> None:
    """Remove this user's folders whose supervisor has ended: their file `owner` is no longer locked."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _is_deserted(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_deserted(folder: Path) -> bool:
    """Return True if the owner of a folder has ended; raise OSError if it still runs, or the folder has none."""
    descriptor = os.open(folder / "owner", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
    return True
