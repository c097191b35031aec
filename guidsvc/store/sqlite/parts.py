"""Parts of a SQLite store: files that SQLite takes for an empty database, though they are left of a whole one."""

import time
from pathlib import Path

from guidsvc.errors import StartError

WAIT_SECONDS = 5.0
"""How long another process may take to make the file."""


def refuse_incomplete(path: Path) -> None:
    """Return unless the file is a part of a store, which SQLite would take for an empty one; StartError if it is.

    It is looked at without SQLite, which would complete or remove what is beside it. Another process that makes the
    file right now leaves it in such a state for a moment.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while (fault := _incompleteness(path)) is not None:
        if time.monotonic() >= deadline:
            raise StartError(
                f"store_url: {path} {fault}. Put a whole copy in its place (docs/backup.md), or remove it, with "
                "the files beside it, to begin with an empty store"
            )
        time.sleep(0.05)


def _incompleteness(path: Path) -> str | None:
    """Say what is missing of a store, or return None: it is whole as far as its first page shows, or there is none."""
    header = _first_page(path)
    if any(header[60:64] + header[68:72]):
        return None  # it has a version or an application, which `identify` judges
    if _size(path, "-journal"):
        return "is the beginning of a copy that was cut off"
    if not header:
        return "has no content, but there is a log beside it (-wal)" if _size(path, "-wal") else None
    if not header.startswith(b"SQLite format 3"):
        return None  # of another kind, which SQLite says itself
    is_empty = int.from_bytes(header[40:44], "big") == 0  # its schema was never written
    if is_empty and not path.with_name(path.name + "-wal").exists():
        return "holds no tables: it was copied without its log (-wal) while a service used it"
    return None


def _first_page(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(100)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StartError(f"store_url: {path} cannot be read: {error.strerror}") from error


def _size(path: Path, suffix: str) -> int:
    beside = path.with_name(path.name + suffix)
    return beside.stat().st_size if beside.exists() else 0
