"""The cut at the beginning of the event log, by age and by size, in a transaction of the writer."""

import sqlite3

from guidsvc.errors import CorruptRecord
from guidsvc.store.sqlite.events.appender import EventAppender
from guidsvc.store.sqlite.events.entries import BOUNDS, LOST_BOUNDS, NEWEST, SELECT_ID, checksum_of_row

_OLDEST = "SELECT seq, appended, total FROM log WHERE seq < ? ORDER BY seq LIMIT ?"
_OLDEST_AT = "SELECT appended FROM log ORDER BY seq LIMIT 1"
_RAISE_FLOOR = "UPDATE log_bounds SET floor = ?, floor_checksum = ?, floor_total = ?"
_CUT = "DELETE FROM log WHERE seq <= ?"


def size_and_age(reader: sqlite3.Connection) -> tuple[int, int]:
    """Return the size of the log in bytes, and when its oldest entry was appended, in Unix milliseconds."""
    newest, oldest = reader.execute(NEWEST).fetchone(), reader.execute(_OLDEST_AT).fetchone()
    if newest is None or oldest is None:
        return 0, 0
    return max(0, int(newest[1]) - _floor_total(reader)), int(oldest[0])


def trim(connection: sqlite3.Connection, appender: EventAppender, before: int, size_bytes: int, limit: int) -> int:
    """Cut off the oldest entries, inside a transaction; return how many. The newest entry stays.

    The age of an entry counts from its append: an expiry may be logged long after it happened.
    """
    floor_total, total = _floor_total(connection), appender.total()
    cut, count = None, 0
    for row in connection.execute(_OLDEST, (appender.newest(), limit)).fetchall():
        if row[1] >= before and total - floor_total <= size_bytes:
            break
        cut, floor_total, count = row[0], row[2], count + 1
    if cut is not None:
        checksum = checksum_of_row(connection.execute(SELECT_ID, (cut,)).fetchone())
        connection.execute(_RAISE_FLOOR, (cut, checksum, floor_total))
        connection.execute(_CUT, (cut,))
    return count


def _floor_total(connection: sqlite3.Connection) -> int:
    """Return the size of all entries that were cut off."""
    found = connection.execute(BOUNDS).fetchone()
    if found is None:
        raise CorruptRecord(LOST_BOUNDS)
    return int(found[3])
