"""Reads of the event log: its bounds, and pages in order. Pages are read in the threads of the finder."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from guidsvc.domain.events.cursor import CursorKey
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import CorruptRecord, EventsTrimmed
from guidsvc.store.event_log import PAGE_BYTES, SCANNED, LogBounds, LogPage, Numbered
from guidsvc.store.sqlite.events.damage import read_to_damage
from guidsvc.store.sqlite.events.entries import (
    BOUNDS,
    IS_OWN,
    LOST_BOUNDS,
    NEWEST,
    OWN_NUMBERS,
    SELECT,
    SELECT_OWN,
    bytes_of,
    checksum_at_row,
    numbered,
)
from guidsvc.store.sqlite.tables import AFTER_HEX
from guidsvc.store.sqlite.writer import is_damage


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let all reads in the block see the same state of the file."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        while connection.in_transaction:
            with suppress(sqlite3.OperationalError):  # a search that is interrupted just now: it must not stay open
                connection.execute("ROLLBACK")


def newest_of(connection: sqlite3.Connection) -> int:
    """Return the number of the newest entry."""
    found = connection.execute(NEWEST).fetchone()
    return bounds_of(connection).floor if found is None else int(found[0])


def bounds_of(connection: sqlite3.Connection) -> LogBounds:
    """Return the bounds of the log; call it in a snapshot."""
    found = connection.execute(BOUNDS).fetchone()
    if found is None:
        raise CorruptRecord(LOST_BOUNDS)
    epoch, floor, floor_checksum, _, secret = found
    key = CursorKey(epoch, secret)
    newest = connection.execute(NEWEST).fetchone()
    if newest is None:
        return LogBounds(key, floor, floor_checksum, floor, floor_checksum)
    return LogBounds(key, floor, floor_checksum, newest[0], checksum_at_row(connection, newest[0]) or 0)


def checksum_at(connection: sqlite3.Connection, number: int) -> int | None:
    """Return the checksum of an entry, or of the last one that was cut off; None for any other."""
    found = checksum_at_row(connection, number)
    if found is not None:
        return found
    bounds = connection.execute(BOUNDS).fetchone()
    return int(bounds[2]) if bounds is not None and bounds[1] == number else None


def read_page(connection: sqlite3.Connection, after: int, limit: int, selection: EventSelection) -> LogPage:
    """Return the first entries of a selection after a number, and up to which number was looked.

    The page ends before damage; LogDamaged if nothing whole comes before it.
    """
    with snapshot(connection):
        bounds = bounds_of(connection)
        if after < bounds.floor:
            raise EventsTrimmed(f"the entries up to {bounds.floor} are no longer kept")
        newest = max(after, bounds.newest)
        try:
            end = _end_of_search(connection, after, newest, selection)
            entries, end = _matching(connection, after, end, limit, selection)
        except (CorruptRecord, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            entries, end = read_to_damage(connection, after, newest, limit, selection)
        return LogPage(entries, end, checksum_at(connection, end) or 0, bounds.newest)


def _end_of_search(connection: sqlite3.Connection, after: int, newest: int, selection: EventSelection) -> int:
    """Return up to which number to look: at SCANNED entries, of the owner only if the selection has one."""
    if not selection.owner:
        return min(after + SCANNED, newest)
    if selection.is_owner_only:  # all that is looked at is in the page, so its limit bounds the search
        return newest
    values = {"owner": selection.owner, "after": after, "count": 2, "skip": SCANNED - 1}
    found = connection.execute(OWN_NUMBERS, values).fetchall()
    return int(found[0][0]) if len(found) > 1 else newest


def _matching(
    connection: sqlite3.Connection, after: int, end: int, limit: int, selection: EventSelection
) -> tuple[list[Numbered], int]:
    """Return the entries of a selection between two numbers, and where the page ends: early if it is full."""
    values = {
        "after": after,
        "end": end,
        "owner": selection.owner,
        "prefix": selection.guid_prefix,
        "prefix_end": selection.guid_prefix + AFTER_HEX,
        "user": selection.user,
    }
    select = SELECT_OWN if selection.owner else SELECT
    rows = connection.execute(f"{select} WHERE {_condition(selection)} ORDER BY seq LIMIT {limit:d}", values)
    with closing(rows):  # after an error, too: it would hold on to its snapshot
        entries: list[Numbered] = []
        size_bytes = 0
        for row in rows:
            if size_bytes >= PAGE_BYTES:  # only now is it known that another entry follows
                return entries, entries[-1].number
            entries.append(numbered(row))
            size_bytes += bytes_of(entries[-1].entry)
        return entries, entries[-1].number if len(entries) == limit else end


def _condition(selection: EventSelection) -> str:
    """Return the condition of a selection. Kinds are constants, never taken from a request as they are."""
    conditions = ["seq > :after AND seq <= :end"]
    if selection.owner is not None:
        conditions.append(IS_OWN if selection.owner else "owner = :owner")
    if selection.kinds is not None:
        conditions.append(f"kind IN ({', '.join(repr(str(kind)) for kind in sorted(selection.kinds))})")
    if selection.guid_prefix:
        conditions.append("guid >= :prefix AND guid < :prefix_end")
    if selection.user is not None:
        conditions.append("(user = :user OR former_user = :user)")
    return " AND ".join(conditions)
