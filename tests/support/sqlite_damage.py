"""Damage the file of a SQLite store, without the store."""

import sqlite3
from contextlib import closing
from pathlib import Path

_PAGE_BYTES = 4096
_INNER_PAGE = 2
"""The type of an inner page of an index, or of a table without row ids."""


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


def change_key_in_root(path: Path, table: str) -> str:
    """Change a key in the root page of a table, so that it sorts after all others; return what it was.

    The page stays valid for SQLite, but a search by key takes the wrong way there.
    """
    _empty_wal(path)
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    content = bytearray(path.read_bytes())
    start = (root - 1) * _PAGE_BYTES
    assert content[start] == _INNER_PAGE
    cell = start + int.from_bytes(content[start + 12 : start + 14], "big")
    header = _varint_end(content, cell + 4)  # after the number of the child and the size of the row
    key = slice(header + content[header], header + content[header] + 32)
    changed = content[key].decode()
    content[key.start : key.start + 2] = b"FF"
    path.write_bytes(content)
    return changed


def _varint_end(content: bytearray, start: int) -> int:
    while content[start] >= 0x80:
        start += 1
    return start + 1


def _empty_wal(path: Path) -> None:
    """Move all pages from the write-ahead log to the file."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _overwrite(path: Path, number: int) -> None:
    with path.open("r+b") as file:
        file.seek(number * _PAGE_BYTES)
        file.write(b"\xff" * _PAGE_BYTES)
