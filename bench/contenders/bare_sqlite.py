"""A bare loop over sqlite3, without HTTP or anything else: the limit of the paths that end in SQLite.

    python -m bench.contenders.bare_sqlite FOLDER SECONDS create|update|read

Each write is a transaction, as durable as those of guidsvc. It prints writes or reads per second.
"""

import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?)"
_READ = "SELECT * FROM records WHERE guid = ?"
_UPDATE = "UPDATE records SET user = ?, version = ? WHERE guid = ? AND version = ?"


def main(folder: Path, seconds: float, kind: str) -> float:
    """Read or write for some seconds; return the operations per second."""
    with closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE records (guid TEXT PRIMARY KEY, user TEXT, expire INTEGER, metadata TEXT, version INTEGER)"
            " WITHOUT ROWID"
        )
        connection.execute(_INSERT, ("0", "Cylance, Inc.", 4_102_444_800, None, 0))
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            if kind == "read":
                connection.execute(_READ, ("0",)).fetchone()
            else:
                _write(connection, kind, count)
            count += 1
        return count / (time.perf_counter() - begun)


def _write(connection: sqlite3.Connection, kind: str, count: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if kind == "create":
        guid = os.urandom(16).hex().upper()
        connection.execute(_INSERT, (guid, "Cylance, Inc.", 4_102_444_800, None, 1))
    else:
        connection.execute(_UPDATE, (f"user {count}", count + 1, "0", count))
    connection.execute("COMMIT")


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
