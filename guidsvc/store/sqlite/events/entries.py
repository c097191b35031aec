"""The rows of the event log: an entry, its number, and columns to find and measure it."""

import sqlite3
from functools import cache
from itertools import product
from typing import Any

from guidsvc.domain.events.cursor import checksum_of
from guidsvc.domain.events.entry import CREATED, KINDS, Entry, Origin
from guidsvc.domain.receipt import PAGE_BYTES
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.store.event_log import Numbered
from guidsvc.store.sqlite.tables import insert_many
from guidsvc.store.sqlite.writer import is_damage
from guidsvc.utf8 import utf8_bytes

_NONE = type(None)

ENTRY_BYTES = 160
"""The size of an entry without its texts: its GUID, its numbers, and what SQLite adds to a row."""
LOCAL_BYTES = 489
"""Minimum part of a row larger than a page that shares a page with others; the rest has pages of its own."""
NAMES = ", ".join(Entry._fields)
"""The columns of an entry, in the order of its fields."""
NO_EXPIRE = -1
INSERT = f"""
    INSERT INTO log (seq, prev, total, appended, {NAMES}) VALUES (
        ?, nullif(?, 0), ?, ?,
        ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, {NO_EXPIRE}), nullif(?, ''), ?, nullif(?, ''), ?, ?, ?
    )
"""  # noqa: S608  # nosec B608  # our own names
"""With other values instead of None: `sqlite3` takes as long for each None as for ten numbers."""
_INSERT_CREATED = f"INSERT OR FAIL INTO log (seq, prev, total, appended, {NAMES})"
_CREATED_ROW = "?", "NULL", "?", "?", f"'{CREATED}'", *["?"] * 6, "{?}", "''", "NULL", "?", "?", "0"
SELECT = f"SELECT seq, appended, {NAMES} FROM log"  # noqa: S608  # nosec B608  # our own names
SELECT_OWN = f"SELECT seq, appended, {NAMES} FROM log INDEXED BY log_owner"  # noqa: S608  # nosec B608  # our own names
"""To be used with IS_OWN. The index has the entries of an owner in the order of their numbers."""
IS_OWN = "owner = :owner AND owner <> ''"
SELECT_ARCHIVED = f"SELECT seq, appended, {NAMES} FROM log_archive INDEXED BY log_archive_owner"  # noqa: S608  # nosec B608  # our own names
"""As SELECT_OWN, of the archive. It also has the entries without an owner in this order."""
OWN_NUMBERS = f"""
    SELECT seq FROM log INDEXED BY log_owner WHERE {IS_OWN} AND seq > :after ORDER BY seq LIMIT :count OFFSET :skip
"""  # noqa: S608  # nosec B608  # our own names
"""The numbers of the entries of an owner, from the index alone."""
ARCHIVED_NUMBERS = """
    SELECT seq FROM log_archive INDEXED BY log_archive_owner WHERE owner = :owner AND seq > :after AND seq <= :end
    ORDER BY seq LIMIT :count OFFSET :skip
"""
SELECT_ONE = f"{SELECT} WHERE seq = ?"
SELECT_ID = "SELECT kind, guid, version, lead, appended FROM log WHERE seq = ?"
ARCHIVED_ID = "SELECT kind, guid, version, lead, appended FROM log_archive WHERE seq = ?"
NEWEST = "SELECT seq, total FROM log ORDER BY seq DESC LIMIT 1"
BOUNDS = "SELECT epoch, floor, floor_checksum, floor_total, secret FROM log_bounds"
_WHOLE_TOTAL = """
    SELECT ifnull(
        (SELECT total FROM log WHERE typeof(total) = 'integer' ORDER BY seq DESC LIMIT 1),
        (SELECT floor_total FROM log_bounds)
    )
"""
_TEXT, _OPTIONAL_TEXT, _NUMBER, _OPTIONAL_NUMBER = (str,), (str, _NONE), (int,), (int, _NONE)
_KINDS = frozenset(KINDS)
_TYPES = frozenset(
    product(
        *(_TEXT, _TEXT, _NUMBER, _NUMBER, _TEXT, _OPTIONAL_TEXT, _OPTIONAL_NUMBER, _OPTIONAL_TEXT),
        *(_TEXT, _OPTIONAL_TEXT, _TEXT, _TEXT, _NUMBER),
    )
)
"""The types that the values of an entry may have: one look-up checks them all."""
LOST_BOUNDS = "the bounds of the event log are damaged; restart all processes that use the store"


def bytes_of(entry: Entry) -> int:
    """Return the size of an entry itself, without the rest of a page that it may leave empty.

    Its owner counts twice: an index has it, too.
    """
    (_, _, _, _, owner, user, _, metadata, changed, former_user, caller, request_id, _) = entry
    return ENTRY_BYTES + utf8_bytes(f"{owner}{owner}{user}{metadata}{changed}{former_user}{caller}{request_id}")


def total_after(total: int, size_bytes: int) -> int:
    """Return the total size of the log after an entry is appended, in bytes of the file.

    A row that does not fit into the rest of a page begins on the next one, and leaves that rest empty.
    """
    if size_bytes > PAGE_BYTES:
        own_pages, rest = divmod(size_bytes, PAGE_BYTES)
        total, size_bytes = total + own_pages * PAGE_BYTES, max(rest, LOCAL_BYTES)
    free_bytes = PAGE_BYTES - total % PAGE_BYTES
    return total + size_bytes if size_bytes <= free_bytes else total + free_bytes + size_bytes


def values_of(entry: Entry) -> tuple[object, ...]:
    """Return the values of an entry for INSERT, after those of the log."""
    (kind, guid, version, at, owner, user, expire, metadata, changed, former_user, caller, request_id, lead) = entry
    return (
        kind,
        guid,
        version,
        at,
        owner,
        user or "",
        NO_EXPIRE if expire is None else expire,
        metadata or "",
        changed,
        former_user or "",
        caller,
        request_id,
        lead,
    )


@cache
def insert_created(count: int) -> str:
    """Return the statement that appends so many entries of creations, as `created_values` returns them."""
    return insert_many(_INSERT_CREATED, _CREATED_ROW, count)


def created_values(new: Record, origin: Origin) -> tuple[object, ...]:
    """Return the values of the entry of a creation for `insert_created`, after those of the log."""
    caller, request_id = origin
    return (
        new.guid,
        new.version,
        new.updated,
        new.owner,
        new.user,
        new.expire,
        new.metadata or "",
        caller,
        request_id,
    )


def created_bytes(new: Record, origin: Origin) -> int:
    """Return the size of the entry of a creation in the log, as `bytes_of` does."""
    caller, request_id = origin
    return ENTRY_BYTES + utf8_bytes(f"{new.owner}{new.owner}{new.user}{new.metadata}{None}{caller}{request_id}")


def numbered(row: tuple[Any, ...]) -> Numbered:
    """Convert a row of SELECT; CorruptRecord if it is not an entry."""
    number, appended, *values = row
    if tuple(map(type, values)) not in _TYPES or values[0] not in _KINDS:
        raise CorruptRecord(f"the entry {number} of the event log is damaged")
    return Numbered(number, Entry(*values), appended if isinstance(appended, int) else 0)


def row_at(connection: sqlite3.Connection, select: str, number: int) -> tuple[Any, ...] | None:
    """Return the row that `select` reads for an entry; None if there is none. CorruptRecord if it is unreadable."""
    try:
        found: tuple[Any, ...] | None = connection.execute(select, (number,)).fetchone()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        raise CorruptRecord(f"the entry {number} of the event log is damaged") from error
    return found


def checksum_at_row(connection: sqlite3.Connection, number: int, select: str = SELECT_ID) -> int | None:
    """Return the checksum of an entry; None if there is none. That of a damaged entry is 0."""
    try:
        found = row_at(connection, select, number)
    except CorruptRecord:
        return 0
    if found is None:
        return None
    kind, guid, version, lead, appended = found
    event_id = Entry(kind, guid, version, 0, "", lead=lead).id
    return checksum_of(event_id, appended if isinstance(appended, int) else 0)


def total_of(connection: sqlite3.Connection, total: object) -> int:
    """Return the size of all entries that is stored in the newest one; if that is damaged, in the newest whole one."""
    if isinstance(total, int):
        return total
    (whole,) = connection.execute(_WHOLE_TOTAL).fetchone()
    return int(whole or 0)
