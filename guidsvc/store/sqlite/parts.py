"""Files that SQLite takes for an empty database, but that lost their data; and why it cannot open a file at all."""

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from guidsvc.errors import StartError
from guidsvc.store.sqlite.files import DATA_SUFFIXES, LOCK_SUFFIX, NEW_SUFFIX

WAIT_SECONDS = 5.0
"""Time for another process to create the file."""
GIVE_FILE = "give it to the user of the service (chown), or change its mode (chmod)"


def refuse_incomplete(path: Path) -> None:
    """Raise StartError if the file is part of a store that SQLite would take for an empty one.

    The check bypasses SQLite, which would complete or remove the files beside it. It retries, because another process
    that is creating the file leaves it in such a state for a moment.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while (fault := _incompleteness(path)) is not None:
        if time.monotonic() >= deadline:
            raise StartError(
                f"store_url: {path} {fault}. Restore a complete copy (docs/backup.md), or remove it and "
                "the files beside it to start with an empty store"
            )
        time.sleep(0.05)


def refuse_missing(path: Path) -> None:
    """Raise StartError if there is no file, or an empty one, where a store was in use."""
    with suppress(PermissionError):  # SQLite will report it
        if not _size(path, ""):
            raise missing(path)


def missing(path: Path) -> StartError:
    """Return the error of a store that other workers have used, and that must not be created again."""
    return StartError(
        f"store_url: {path} is missing, but workers of this service have used it: put it and the files beside it back, "
        "or restart the service, which creates an empty store"
    )


def begin_creation(path: Path) -> None:
    """Note that the file is being created, if it is absent or empty.

    A process that is killed meanwhile leaves what would otherwise be taken for an incomplete copy.
    """
    if not _size(path, ""):
        with suppress(OSError):  # SQLite will report it
            path.with_name(path.name + NEW_SUFFIX).touch(mode=0o600)


def end_creation(path: Path) -> None:
    """Note that the file has its tables."""
    with suppress(OSError):  # then the next start does it
        path.with_name(path.name + NEW_SUFFIX).unlink()


def _incompleteness(path: Path) -> str | None:
    """Say what is missing, or return None if the file does not exist or its first page shows nothing wrong."""
    header = _first_page(path)
    if any(header[60:64] + header[68:72]):
        return None  # it has a version or an application id, which `identify` checks
    is_unfinished = path.with_name(path.name + NEW_SUFFIX).exists()  # then no write was acknowledged
    if _size(path, "-journal") and not is_unfinished:
        return "is an incomplete copy"
    if not header:
        return "is empty, but there is a log (-wal) beside it" if _size(path, "-wal") else None
    if is_unfinished or not header.startswith(b"SQLite format 3"):
        return None  # SQLite completes the former, and reports the latter
    is_empty = int.from_bytes(header[40:44], "big") == 0  # the schema was never written
    if is_empty and not path.with_name(path.name + "-wal").exists():
        return "contains no tables: it was copied without its log (-wal) while a service used it"
    return None


def _first_page(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(100)
    except FileNotFoundError:
        return b""
    except PermissionError as error:
        raise StartError(f"store_url: {why_unopenable(path)}") from error
    except OSError as error:
        raise StartError(f"store_url: {path} cannot be read: {error.strerror}; name another file") from error


def why_unopenable(path: Path) -> str:
    """Return why SQLite cannot open a file of a store, and the remedy. A fault of the folder is one of the store."""
    store, folder = path.with_name(path.name.removesuffix(LOCK_SUFFIX)), path.parent
    if not folder.exists():
        fault, remedy = "its folder is missing", f"create {folder}"
    elif not folder.is_dir():
        fault, remedy = f"{folder} is not a folder", "move it away"
    elif path.is_dir():
        fault, remedy = f"{path} is a folder", "move it away"
    elif denied := next(filter(is_denied, (path.with_name(path.name + each) for each in DATA_SUFFIXES)), None):
        return f"{store} cannot be opened: {why_denied(denied)}; {GIVE_FILE}"  # another file would be an empty store
    elif not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        fault, remedy = f"its folder {folder} is not writable to this user", "change its mode or owner"
    else:
        fault, remedy = "SQLite cannot open it", f"look at the rights and the file system of {folder}"
    return f"{store} cannot be opened: {fault}; {remedy}, or name another file"


def is_denied(path: Path) -> bool:
    """Return whether this user may not read and write an existing file. SQLite may remove its own ones at any time."""
    return path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True) and path.exists()


def why_denied(path: Path) -> str:
    """Return the fault of a file that this user may not read and write, with its owner and mode."""
    try:
        return f"{path} is not readable and writable to this user: {owner_of(path)} owns it, {mode_of(path)}"
    except OSError:  # it was removed meanwhile, or its folder is closed
        return f"{path} is not readable and writable to this user"


def owner_of(path: Path) -> str:
    """Return the name of the owner of a file, or the number if it has no name."""
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"


def mode_of(path: Path) -> str:
    """Return the mode of a file, as a user writes it."""
    return f"mode {stat.S_IMODE(path.stat().st_mode):04o}"


def _size(path: Path, suffix: str) -> int:
    """Return the size of a file beside the database; 0 if there is none, or SQLite removes it just now."""
    try:
        return path.with_name(path.name + suffix).stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
