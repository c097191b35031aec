"""The archive of the event log: entries before the floor that their owners keep, while the log is over its size.

`shares` in `log_bounds` has what each owner holds, and up to which entry each one lost its own; see
`guidsvc.domain.events.shares`. It is of one floor: where a process of an older version has raised that, the archive is
void. Entries are counted here and not when they are appended, so that a write costs nothing.
"""

import sqlite3
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from guidsvc.domain.events.shares import Cut, Item, LogCut, Place, Shares, decode, set_floors, shares_for_reading
from guidsvc.store.sqlite.events.appender import EventAppender
from guidsvc.store.sqlite.events.entries import ARCHIVED_ID, NAMES, checksum_at_row
from guidsvc.store.sqlite.events.trimming import TRIM_BYTES, last_of_old_future, trim_as_one
from guidsvc.store.sqlite.writer import is_damage

COUNTED = 2000
"""Number of entries that are counted in one transaction, which takes a few milliseconds."""
_BOUNDS = "SELECT floor, floor_checksum, floor_total, shares FROM log_bounds"
_HAS_OWNER = "SELECT 1 FROM log INDEXED BY log_owner WHERE owner <> '' LIMIT 1"
_UNCOUNTED = "SELECT seq, owner, total FROM log WHERE seq > ? ORDER BY seq LIMIT ?"
_OLDEST = "SELECT seq, owner, total, appended FROM log WHERE seq < ? ORDER BY seq LIMIT ?"
_ARCHIVED = "SELECT seq, owner, total, appended FROM log_archive ORDER BY seq LIMIT ?"
_ARCHIVED_OF = """
    SELECT seq, owner, total, appended FROM log_archive INDEXED BY log_archive_owner
    WHERE owner = ? ORDER BY seq LIMIT ?
"""
_ARCHIVE = f"""
    INSERT OR REPLACE INTO log_archive (seq, prev, total, appended, {NAMES})
    SELECT seq, prev, ?, appended, {NAMES} FROM log WHERE seq = ?
"""  # noqa: S608  # nosec B608  # our own names
_SET_SHARES = "UPDATE log_bounds SET shares = ?"
_RAISE_FLOOR = "UPDATE log_bounds SET floor = ?, floor_checksum = ?, floor_total = ?"
_CUT = "DELETE FROM log WHERE seq <= ?"
_CUT_ARCHIVE = "DELETE FROM log_archive WHERE seq <= ?"
_CUT_OWNER = "DELETE FROM log_archive WHERE owner = ? AND seq <= ?"
_CLEAR = "DELETE FROM log_archive"


class Limits(NamedTuple):
    """The limits of the log."""

    before: int
    """The time, in Unix milliseconds, before which entries are old."""
    now: int
    size_bytes: int


def shares_in(connection: sqlite3.Connection) -> Shares | None:
    """Return the shares in the log, to read from; None if nothing is archived or counted."""
    found = connection.execute(_BOUNDS).fetchone()
    return None if found is None else shares_for_reading(found[3], found[0])


def needs_trim(reader: sqlite3.Connection, before: int) -> bool:
    """Whether the archive has entries that were appended before a time, or that nobody can read, or is damaged."""
    try:
        found = reader.execute(_ARCHIVED, (1,)).fetchone()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return True
    shares = shares_in(reader)
    return found is not None and (shares is None or found[0] <= shares.start or _is_before(found[3], before))


def trim(connection: sqlite3.Connection, appender: EventAppender, limits: Limits, limit: int) -> int:
    """Remove the oldest entries, inside a transaction; return how many, `limit` if there may be more to do.

    The newest entry stays.
    """
    floor, checksum, floor_total, text = connection.execute(_BOUNDS).fetchone() or (0, 0, 0, None)
    shares = decode(text, floor)
    if shares is None:
        is_over = appender.total() - floor_total > limits.size_bytes
        if text is None and not (is_over and _has_owner(connection)):
            return trim_as_one(connection, appender, *limits, limit)
        connection.execute(_CLEAR)
        shares = Shares.begin(Place(floor, checksum), floor_total)
    done = _Trim(connection, appender, shares, limits).run(Place(floor, checksum), floor_total, limit)
    connection.execute(_SET_SHARES, (shares.encode(),))
    return done


def trim_without_archive(connection: sqlite3.Connection, appender: EventAppender, limits: Limits, limit: int) -> int:
    """Drop the archive, because it is damaged, and remove the oldest entries of all owners."""
    connection.execute(_SET_SHARES, (None,))
    return trim_as_one(connection, appender, *limits, limit)


def _has_owner(connection: sqlite3.Connection) -> bool:
    """Whether an entry has an owner. If the index is damaged, none is found: a log must not grow for that."""
    try:
        return connection.execute(_HAS_OWNER).fetchone() is not None
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return False


class _Trim:
    """One step, in a transaction of the writer."""

    def __init__(self, connection: sqlite3.Connection, appender: EventAppender, shares: Shares, limits: Limits) -> None:
        self._connection = connection
        self._appender = appender
        self._shares = shares
        self._limits = limits
        self._left_bytes = TRIM_BYTES

    def run(self, floor: Place, floor_total: int, limit: int) -> int:
        """Do the step; return how many entries were looked at, `limit` if there may be more to do."""
        used_bytes = self._appender.total() - floor_total + self._shares.archive_bytes
        excess_bytes = used_bytes - self._limits.size_bytes
        if excess_bytes > 0 and not self._count():
            return limit
        cut = Cut(self._shares, excess_bytes, self._limits.size_bytes)
        done = self._trim_archive(cut, limit)
        for owner in cut.heavy_owners():
            if done < limit and self._left_bytes > 0:
                done += self._trim_owner(cut, owner, limit - done)
        if done < limit and self._left_bytes > 0:
            done += self._trim_log(cut, floor, floor_total, limit - done)
        else:
            self._shares.settle(floor, floor_total)
        return done if self._left_bytes > 0 else limit

    def _count(self) -> bool:
        """Count entries; return whether all are counted."""
        for number, owner, total in self._connection.execute(_UNCOUNTED, (self._shares.counted_to, COUNTED)).fetchall():
            counted = total if isinstance(total, int) else self._shares.counted_bytes
            self._shares.count(number, _owner(owner), counted)
        self._shares.fold()
        return self._shares.counted_to >= self._appender.newest()

    def _trim_archive(self, cut: Cut, limit: int) -> int:
        items = self._items(self._connection.execute(_ARCHIVED, (limit,)).fetchall())
        count = cut.of_archive(items)
        if count:
            self._count_removed(items[:count])
            last = items[count - 1].number
            self._shares.raise_start(Place(last, checksum_at_row(self._connection, last, ARCHIVED_ID) or 0))
            self._connection.execute(_CUT_ARCHIVE, (last,))
        return count

    def _trim_owner(self, cut: Cut, owner: str, limit: int) -> int:
        items = self._items(self._connection.execute(_ARCHIVED_OF, (owner, limit)).fetchall())
        count = cut.of_owner(items)
        if count:
            self._count_removed(items[:count])
            last = items[count - 1].number
            place = Place(last, checksum_at_row(self._connection, last, ARCHIVED_ID) or 0)
            self._connection.execute(_CUT_OWNER, (owner, last))
            set_floors(self._shares, {owner: place})
        return count

    def _trim_log(self, cut: Cut, floor: Place, floor_total: int, limit: int) -> int:
        rows = self._connection.execute(_OLDEST, (self._appender.newest(), limit)).fetchall()
        items, totals = self._items_of_log(rows, floor_total)
        found = cut.of_log(items)
        if found.amount:
            self._count_removed(items[: found.amount])
            last = items[found.amount - 1].number
            floor, floor_total = Place(last, checksum_at_row(self._connection, last) or 0), totals[found.amount - 1]
            self._move(found, {item.number: item.size_bytes for item in items})
            self._connection.execute(_RAISE_FLOOR, (*floor, floor_total))
            self._connection.execute(_CUT, (last,))
        self._shares.settle(floor, floor_total)
        return found.amount

    def _move(self, found: LogCut, sizes: dict[int, int]) -> None:
        """Archive entries, and set the floors of the owners of others."""
        for number in found.archived:
            self._connection.execute(_ARCHIVE, (sizes[number], number))
        floors = {
            owner: Place(number, checksum_at_row(self._connection, number) or 0)
            for owner, number in found.dropped.items()
        }
        set_floors(self._shares, floors)

    def _items(self, rows: Sequence[Any]) -> list[Item]:
        items = [
            Item(number, _owner(owner), size if isinstance(size, int) else 0, _is_before(at, self._limits.before))
            for number, owner, size, at in rows
        ]
        return self._first(items)

    def _first(self, items: list[Item]) -> list[Item]:
        """Return the first items that this step may remove: it ends once no bytes are left to it."""
        totals = accumulate(item.size_bytes for item in items)
        return items[: 1 + sum(total < self._left_bytes for total in totals)]

    def _count_removed(self, items: Sequence[Item]) -> None:
        self._left_bytes -= sum(item.size_bytes for item in items)

    def _items_of_log(self, rows: Sequence[Any], total: int) -> tuple[list[Item], list[int]]:
        """Return the entries in rows of the log after those of a total size, and the total size up to each of them."""
        old_to = last_of_old_future(self._connection, self._limits.before, self._limits.now)
        items, totals = [], []
        for number, owner, up_to, at in rows:
            following = up_to if isinstance(up_to, int) else total
            is_old = number <= old_to or _is_before(at, self._limits.before)
            items.append(Item(number, _owner(owner), max(0, following - total), is_old))
            totals.append(following)
            total = following
        return self._first(items), totals


def _owner(value: object) -> str:
    """Return an owner; none if the value is damaged."""
    return value if isinstance(value, str) else ""


def _is_before(appended: object, before: int) -> bool:
    """Whether an append was before a time. A damaged time is old."""
    return not isinstance(appended, int) or appended < before
