"""guidsvc on a disk that fails: the file `disk` beside the records contains `full` or `read-only`.

The system calls of SQLite are replaced, which SQLite supports; its own error handling is the real one. So the disk is
full for root as well, and has space again when the word is removed. A full disk only rejects writes that extend a file
beyond what the process has freed: SQLite truncates the index of the log (`-shm`) when it opens it, and fills it again.
"""

import _sqlite3
import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

STATE = Path("disk")
_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, use_errno=True)
_WriteAt = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int64, use_errno=True)
_libc.ftruncate.argtypes = [ctypes.c_int, ctypes.c_int64]
_libc.write.restype = _libc.pwrite.restype = ctypes.c_ssize_t


def set_disk(folder: Path, state: str) -> None:
    """Set the state of the disk of the service in this folder, atomically."""
    (folder / "new").write_text(state)
    (folder / "new").replace(folder / STATE)


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`, up to the function that replaces a system call."""

    _fields_ = [
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("path_size", ctypes.c_int),
        ("others", ctypes.c_void_p * 16),
        (
            "set_system_call",
            ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
        ),
    ]


class _Freed:
    """Space that this process has freed on a full disk, and nobody else has taken."""

    bytes = 0


_freed = _Freed()


def _fault(end: int, size: int) -> int:
    """Return the error of a write that ends at `end` in a file of this size; 0 if there is none."""
    state = STATE.read_text() if STATE.exists() else ""
    if state == "full" and end > size:
        if end - size > _freed.bytes:
            return errno.ENOSPC
        _freed.bytes -= end - size
    return errno.EROFS if state == "read-only" else 0


def _failing(fault: int) -> int:
    ctypes.set_errno(fault)
    return -1


def _write_at(file: int, data: int, length: int, offset: int) -> int:
    fault = _fault(offset + length, os.fstat(file).st_size)
    return _failing(fault) if fault else int(_libc.pwrite(file, data, length, offset))


def _write(file: int, data: int, length: int) -> int:
    fault = _fault(os.lseek(file, 0, os.SEEK_CUR) + length, os.fstat(file).st_size)
    return _failing(fault) if fault else int(_libc.write(file, data, length))


def _truncate(file: int, length: int) -> int:
    before = os.fstat(file).st_size
    done = int(_libc.ftruncate(file, length))
    if done == 0 and Path(f"/proc/self/fd/{file}").readlink().name.endswith("-shm"):
        _freed.bytes += max(before - length, 0)
    return done


_CALLS: dict[bytes, Any] = {
    b"write": _Write(_write),
    b"pwrite": _WriteAt(_write_at),
    b"pwrite64": _WriteAt(_write_at),
    b"ftruncate": _Truncate(_truncate),
}


def _install() -> None:
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None)
    for name, call in _CALLS.items():
        assert vfs.contents.set_system_call(vfs, name, ctypes.cast(call, ctypes.c_void_p)) == 0, name


if __name__ == "__main__":
    from guidsvc.cli.main import main

    _install()
    main()
