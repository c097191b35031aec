"""Damaged entries of the event log: a page of entries ends before them, and readers go on behind them.

Damage must not stop a feed for ever. Readers that stand before it get what an entry that was cut off gets them: they
must take stock again, and can go on behind it.
"""

import sqlite3

from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import CorruptRecord, EventsTrimmed
from guidsvc.store.event_log import PAGE_BYTES, Numbered
from guidsvc.store.sqlite.events.entries import NEWEST, SELECT_ONE, bytes_of, numbered
from guidsvc.store.sqlite.writer import is_damage


class LogDamaged(EventsTrimmed):
    """The entry that was to be read is damaged. `last` is the number of the last entry of that damage."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"the entries {first} to {last} of the event log are damaged")
        self.last = last


def read_to_damage(
    connection: sqlite3.Connection, after: int, end: int, limit: int, selection: EventSelection
) -> tuple[list[Numbered], int]:
    """Return the entries of a selection between two numbers, up to the first damaged one, and where that reading ended.

    It reads one by one: SQLite returns a row only once it has found the next. LogDamaged if the first one is damaged.
    """
    entries: list[Numbered] = []
    size_bytes, looked_to = 0, after
    for number in range(after + 1, end + 1):
        found = _whole(connection, number)
        if found is None:
            break
        looked_to = number
        if selection.matches(found.entry):
            entries.append(found)
            size_bytes += bytes_of(found.entry)
            if len(entries) == limit or size_bytes >= PAGE_BYTES:
                break
    if looked_to == after:
        raise LogDamaged(after + 1, _last_damaged(connection, after + 1))
    return entries, looked_to


def skip_damage(connection: sqlite3.Connection, floor: int, newest: int) -> int:
    """Return the number behind which the first whole entry after a floor comes."""
    is_damaged = floor < newest and _whole(connection, floor + 1) is None
    return _last_damaged(connection, floor + 1) if is_damaged else floor


def _whole(connection: sqlite3.Connection, number: int) -> Numbered | None:
    """Return an entry; None if it is damaged or missing."""
    try:
        found = connection.execute(SELECT_ONE, (number,)).fetchone()
        return None if found is None else numbered(found)
    except CorruptRecord:
        return None
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return None


def _last_damaged(connection: sqlite3.Connection, first: int) -> int:
    """Return the last damaged number from a damaged one on, in few steps: damaged pages have thousands of entries."""
    newest = int(connection.execute(NEWEST).fetchone()[0])
    damaged, step = first, 1
    while damaged + step <= newest and _whole(connection, damaged + step) is None:
        damaged, step = damaged + step, 2 * step
    whole = min(damaged + step, newest + 1)
    while whole - damaged > 1:
        middle = (damaged + whole) // 2
        damaged, whole = (middle, whole) if _whole(connection, middle) is None else (damaged, middle)
    return damaged
