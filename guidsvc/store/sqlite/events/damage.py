"""Damaged entries of the event log: a page of entries ends before them, and readers continue after them.

Damage must not stop a feed permanently. Readers before it get the same error as for removed entries: they must read all
records again, and can continue after it.
"""

import sqlite3
from collections.abc import Sequence

from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import CorruptRecord, EventsTrimmed
from guidsvc.store.event_log import PAGE_BYTES, SCANNED, Numbered
from guidsvc.store.sqlite.events.entries import NEWEST, OWN_NUMBERS, SELECT_ONE, bytes_of, numbered, row_at
from guidsvc.store.sqlite.writer import is_damage


class LogDamaged(EventsTrimmed):
    """The entry that was to be read is damaged. `last` is the number of the last entry of that damage."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"the entries {first} to {last} of the event log are damaged")
        self.last = last


def read_to_damage(
    connection: sqlite3.Connection, after: int, newest: int, limit: int, selection: EventSelection
) -> tuple[list[Numbered], int]:
    """Return the entries of a selection after a number, up to the first damaged one, and where that reading ended.

    It reads one by one: SQLite returns a row only once it has found the next. LogDamaged if the first one is damaged.
    """
    entries: list[Numbered] = []
    size_bytes = 0
    numbers, end = _numbers(connection, after, newest, selection)
    for number in numbers:
        found = _whole(connection, number)
        if found is None:
            if number == after + 1:
                raise LogDamaged(number, _last_damaged(connection, number))
            return entries, number - 1
        if selection.matches(found.entry):
            if size_bytes >= PAGE_BYTES:
                return entries, entries[-1].number
            entries.append(found)
            size_bytes += bytes_of(found.entry)
            if len(entries) == limit:
                return entries, number
    return entries, end


def _numbers(
    connection: sqlite3.Connection, after: int, newest: int, selection: EventSelection
) -> tuple[Sequence[int], int]:
    """Return the numbers of the entries to look at, and up to where these are all of the owner, or all."""
    if selection.owner:
        values = {"owner": selection.owner, "after": after, "count": SCANNED + 1, "skip": 0}
        try:
            own = [int(number) for (number,) in connection.execute(OWN_NUMBERS, values)]
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
        else:
            return own[:SCANNED], own[SCANNED - 1] if len(own) > SCANNED else newest
    end = min(after + SCANNED, newest)  # also for an owner if the index is damaged: then nothing else finds them
    return range(after + 1, end + 1), end


def skip_damage(connection: sqlite3.Connection, floor: int, newest: int) -> int:
    """Return the number behind which the first whole entry after a floor comes."""
    is_damaged = floor < newest and _whole(connection, floor + 1) is None
    return _last_damaged(connection, floor + 1) if is_damaged else floor


def _whole(connection: sqlite3.Connection, number: int) -> Numbered | None:
    """Return an entry; None if it is damaged or missing."""
    try:
        found = row_at(connection, SELECT_ONE, number)
        return None if found is None else numbered(found)
    except CorruptRecord:
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
