"""The records of the benchmarks: their GUIDs, scattered like random ones, and functions that create them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.running import Running, ask
from guidsvc.domain.events.schedule import DEFAULT_POLICY
from guidsvc.store.sqlite.tables import RECORDS

NDJSON = "application/x-ndjson"
USER = "Cylance, Inc."
_BYTES = 2**32
_NOW = 1_795_570_057_176
_LINES = 1000
FAR_EXPIRE = 4_102_444_800
"""An expiry that no measurement reaches."""


def key(number: int) -> str:
    """Return the GUID of a record; `load/keys.lua` computes the same."""
    parts = number * 1_664_525 % _BYTES, number * 40_503 % _BYTES, number, (number * 69_069 + 1) % _BYTES
    return "".join(f"{part:08X}" for part in parts)


def put_in(running: Running, first: int, count: int, *, user: str = USER) -> None:
    """Create records `first` to `first + count` of a user, as one batch of lines."""
    lines = _lines(first, count, user)
    response = ask(running.connect(), "POST", "/guid:batch", lines, Content_Type=NDJSON, **running.auth_headers)
    while chunk := response.read(1 << 20):
        if b'"problem"' in chunk:
            raise RuntimeError(chunk[:1000])


def fill(
    file: Path, count: int, expire: int = FAR_EXPIRE, due: int = FAR_EXPIRE - max(DEFAULT_POLICY.warn_before)
) -> None:
    """Write records to a SQLite file that a service has created and no process uses; quicker than over HTTP.

    `due` is the value that the store would set, so that the service has no work left for these records.
    """
    columns = (*RECORDS.columns, "due")
    placeholders = ", ".join("?" * len(columns))
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        rows = sorted(_row(number, expire, due) for number in range(count))  # in key order SQLite only ever appends
        connection.executemany(f"INSERT INTO records ({', '.join(columns)}) VALUES ({placeholders})", rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _row(number: int, expire: int, due: int) -> tuple[object, ...]:
    return (key(number), USER, expire, None, "", _NOW, _NOW, _NOW, expire + 604_800, due)


def _lines(first: int, count: int, user: str) -> Iterator[bytes]:
    for start in range(first, first + count, _LINES):
        numbers = range(start, min(start + _LINES, first + count))
        yield "".join(f'{{"guid": "{key(number)}", "user": "{user}"}}\n' for number in numbers).encode()
