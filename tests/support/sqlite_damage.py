"""Damage done to the file of a SQLite store, past the store."""

import sqlite3
from contextlib import closing
from pathlib import Path

_PAGE_BYTES = 4096


def alter(path: Path, statement: str, *values: object) -> None:
    """Execute a statement as another program would."""
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(statement, values)


def overwrite_root(path: Path, name: str) -> None:
    """Overwrite the root page of a table or an index."""
    _empty_wal(path)
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    _overwrite(path, root - 1)


def overwrite_page_with(path: Path, content: bytes) -> None:
    """Overwrite the first page that holds this content."""
    _empty_wal(path)
    _overwrite(path, path.read_bytes().index(content) // _PAGE_BYTES)


def _empty_wal(path: Path) -> None:
    """Move all pages from the write-ahead log to the file."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _overwrite(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.seek(number * _PAGE_BYTES)
        file.write(b"\xff" * _PAGE_BYTES)
