"""Trimming of the event log at its beginning, by age and by size, in a transaction of the writer.

This module trims a log of one owner, or a log within its size. `archive` trims others.
"""

import sqlite3

from guidsvc.errors import CorruptRecord
from guidsvc.store.sqlite.events.appender import EventAppender
from guidsvc.store.sqlite.events.entries import BOUNDS, LOST_BOUNDS, NEWEST, checksum_at_row, total_of

TRIM_BYTES = 2**20
"""A trim of at least so many bytes is long enough for one transaction: writes wait meanwhile."""
_OLDEST = "SELECT seq, appended, total FROM log WHERE seq < ? ORDER BY seq LIMIT ?"
_OLDEST_AT = "SELECT appended FROM log ORDER BY seq LIMIT 1"
_AFTER_FUTURE = "SELECT seq, appended FROM log WHERE appended <= ? ORDER BY seq LIMIT 1"
_RAISE_FLOOR = "UPDATE log_bounds SET floor = ?, floor_checksum = ?, floor_total = ?"
_CUT = "DELETE FROM log WHERE seq <= ?"


def size_and_age(reader: sqlite3.Connection) -> tuple[int, int]:
    """Return the size of the log in bytes, and when its oldest entry was appended, in Unix milliseconds."""
    newest, oldest = reader.execute(NEWEST).fetchone(), reader.execute(_OLDEST_AT).fetchone()
    if newest is None or oldest is None:
        return 0, 0
    return max(0, total_of(reader, newest[1]) - _floor_total(reader)), _number(oldest[0])


def trim_as_one(
    connection: sqlite3.Connection, appender: EventAppender, before: int, now: int, size_bytes: int, limit: int
) -> int:
    """Cut off the oldest entries, inside a transaction; return how many, `limit` if there may be more to do.

    The newest entry stays.
    The age of an entry counts from its append: an expiry may be logged long after it happened. One that was appended
    while the clock was ahead is as old as the next one that was not.
    """
    floor_total, total = _floor_total(connection), appender.total()
    most_total = floor_total + TRIM_BYTES
    cut, count = None, 0
    old_to = last_of_old_future(connection, before, now)
    for row in connection.execute(_OLDEST, (appender.newest(), limit)).fetchall():
        if row[0] > old_to and _number(row[1]) >= before and total - floor_total <= size_bytes:
            break
        cut, floor_total, count = row[0], row[2] if isinstance(row[2], int) else floor_total, count + 1
        if floor_total >= most_total:
            count = limit
            break
    if cut is not None:
        checksum = checksum_at_row(connection, cut) or 0
        connection.execute(_RAISE_FLOOR, (cut, checksum, floor_total))
        connection.execute(_CUT, (cut,))
    return count


def last_of_old_future(connection: sqlite3.Connection, before: int, now: int) -> int:
    """Return up to which number the log begins with entries of the future that are followed by an old one; 0 if not."""
    oldest = connection.execute(_OLDEST_AT).fetchone()
    if oldest is None or _number(oldest[0]) <= now:
        return 0
    found = connection.execute(_AFTER_FUTURE, (now,)).fetchone()
    return int(found[0]) if found is not None and found[1] < before else 0


def _number(appended: object) -> int:
    """Return the time of an append; 0, which is old, if it is damaged."""
    return appended if isinstance(appended, int) else 0


def _floor_total(connection: sqlite3.Connection) -> int:
    """Return the total size of all removed entries."""
    found = connection.execute(BOUNDS).fetchone()
    if found is None:
        raise CorruptRecord(LOST_BOUNDS)
    return int(found[3])
