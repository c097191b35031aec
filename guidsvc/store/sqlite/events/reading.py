"""Reads of the event log: its bounds, and pages in order. Pages are read in the threads of the finder."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from guidsvc.domain.events.cursor import CursorKey
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.events.shares import Place
from guidsvc.errors import CorruptRecord, EventsTrimmed
from guidsvc.store.event_log import PAGE_BYTES, SCANNED, LogBounds, LogPage, Numbered
from guidsvc.store.sqlite.events.archive import shares_in
from guidsvc.store.sqlite.events.damage import LogDamaged, read_to_damage
from guidsvc.store.sqlite.events.entries import (
    ARCHIVED_ID,
    ARCHIVED_NUMBERS,
    BOUNDS,
    IS_OWN,
    LOST_BOUNDS,
    NEWEST,
    OWN_NUMBERS,
    SELECT,
    SELECT_ARCHIVED,
    SELECT_OWN,
    bytes_of,
    checksum_at_row,
    numbered,
)
from guidsvc.store.sqlite.tables import AFTER_HEX
from guidsvc.store.sqlite.writer import is_damage

_NEWEST_OWN = (
    f"SELECT seq, appended FROM log INDEXED BY log_owner WHERE {IS_OWN} AND seq <= :number ORDER BY seq DESC LIMIT 1"  # noqa: S608  # nosec B608  # our own names
)
_NEWEST_ARCHIVED = """
    SELECT seq, appended FROM log_archive INDEXED BY log_archive_owner WHERE owner = :owner AND seq <= :number
    ORDER BY seq DESC LIMIT 1
"""


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
    """Return the checksum of an entry, or of the newest removed one; None for any other."""
    found = checksum_at_row(connection, number)
    if found is not None:
        return found
    bounds = connection.execute(BOUNDS).fetchone()
    if bounds is not None and bounds[1] == number:
        return int(bounds[2])
    return checksum_at_row(connection, number, ARCHIVED_ID)


def newest_own(connection: sqlite3.Connection, owner: str, number: int, since: int) -> Place | None:
    """Return the newest entry of an owner up to a number, if it was appended since a time, and can be found."""
    try:
        for select in (_NEWEST_OWN, _NEWEST_ARCHIVED):
            found = connection.execute(select, {"owner": owner, "number": number}).fetchone()
            if found is not None:
                is_recent = isinstance(found[1], int) and found[1] >= since
                return Place(found[0], checksum_at(connection, found[0]) or 0) if is_recent else None
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
    return None


def read_page(connection: sqlite3.Connection, after: int, limit: int, selection: EventSelection) -> LogPage:
    """Return the first entries of a selection after a number, and up to which number was looked.

    The page ends before damage; LogDamaged if nothing whole comes before it.
    """
    with snapshot(connection):
        bounds = bounds_of(connection)
        if after >= bounds.floor:
            return _page_of_log(connection, bounds, after, limit, selection)
        first = _page_of_archive(connection, bounds, after, limit, selection)
        if first.looked_to < bounds.floor or len(first.entries) == limit:
            return first
        try:
            rest = _page_of_log(connection, bounds, bounds.floor, limit - len(first.entries), selection)
        except LogDamaged:
            if first.entries:
                return first
            raise
        return rest._replace(entries=[*first.entries, *rest.entries])


def _page_of_log(
    connection: sqlite3.Connection, bounds: LogBounds, after: int, limit: int, selection: EventSelection
) -> LogPage:
    newest = max(after, bounds.newest)
    try:
        end = _end_of_search(connection, after, newest, selection)
        select = SELECT_OWN if selection.owner else SELECT
        entries, end = _matching(connection, select, (after, end), limit, selection)
    except (CorruptRecord, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error) and not is_damage(error):
            raise
        entries, end = read_to_damage(connection, after, newest, limit, selection)
    return LogPage(entries, end, checksum_at(connection, end) or 0, bounds.newest)


def _page_of_archive(
    connection: sqlite3.Connection, bounds: LogBounds, after: int, limit: int, selection: EventSelection
) -> LogPage:
    """Return the entries of an owner between a number and the floor; EventsTrimmed if one of them was removed."""
    shares = None if selection.owner is None else shares_in(connection)
    floor = bounds.floor if shares is None else shares.floor_of(selection.owner or "").number
    if after < floor:
        raise EventsTrimmed(f"the entries up to {floor} are no longer kept")
    values = {"owner": selection.owner, "after": after, "end": bounds.floor, "count": 2, "skip": SCANNED - 1}
    try:
        found = connection.execute(ARCHIVED_NUMBERS, values).fetchall()
        end = int(found[0][0]) if len(found) > 1 else bounds.floor
        entries, end = _matching(connection, SELECT_ARCHIVED, (after, end), limit, selection)
    except (CorruptRecord, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error) and not is_damage(error):
            raise
        raise LogDamaged(after + 1, bounds.floor) from error
    return LogPage(entries, end, checksum_at(connection, end) or 0, bounds.newest)


def _end_of_search(connection: sqlite3.Connection, after: int, newest: int, selection: EventSelection) -> int:
    """Return up to which number to look: at SCANNED entries, of the owner only if the selection has one."""
    if not selection.owner:
        return min(after + SCANNED, newest)
    if selection.is_owner_only:  # all scanned entries are in the page, so its limit bounds the search
        return newest
    values = {"owner": selection.owner, "after": after, "count": 2, "skip": SCANNED - 1}
    found = connection.execute(OWN_NUMBERS, values).fetchall()
    return int(found[0][0]) if len(found) > 1 else newest


def _matching(
    connection: sqlite3.Connection, select: str, between: tuple[int, int], limit: int, selection: EventSelection
) -> tuple[list[Numbered], int]:
    """Return the entries of a selection between two numbers, and where the page ends: early if it is full."""
    after, end = between
    values = {
        "after": after,
        "end": end,
        "owner": selection.owner,
        "prefix": selection.guid_prefix,
        "prefix_end": selection.guid_prefix + AFTER_HEX,
        "user": selection.user,
    }
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
