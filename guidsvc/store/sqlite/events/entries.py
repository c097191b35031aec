"""The rows of the event log: an entry, its number, and what the log needs to find and measure it."""

from guidsvc.domain.events.cursor import checksum_of
from guidsvc.domain.events.entry import Entry, Kind
from guidsvc.store.event_log import Numbered

ENTRY_BYTES = 160
"""The size of an entry without its texts: its GUID, its numbers, and what SQLite adds to a row."""
NAMES = ", ".join(Entry._fields)
"""The columns of an entry, in the order of its fields."""
NO_EXPIRE = -1
INSERT = f"""
    INSERT INTO log (seq, prev, total, appended, {NAMES}) VALUES (
        ?, nullif(?, 0), ?, ?,
        ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, {NO_EXPIRE}), nullif(?, ''), ?, nullif(?, ''), ?, ?, ?
    )
"""  # noqa: S608  # nosec B608  # our own names
"""With other values in place of None: `sqlite3` takes as long for each None as for ten numbers."""
SELECT = f"SELECT seq, {NAMES} FROM log"  # noqa: S608  # nosec B608  # our own names
SELECT_ID = "SELECT kind, guid, version, lead FROM log WHERE seq = ?"
NEWEST = "SELECT seq, total FROM log ORDER BY seq DESC LIMIT 1"
BOUNDS = "SELECT epoch, floor, floor_checksum, floor_total, secret FROM log_bounds"
LOST_BOUNDS = "the bounds of the event log are damaged; restart all processes that use the store"


def bytes_of(entry: Entry) -> int:
    """Return the size of an entry in the log."""
    text = (
        f"{entry.owner}{entry.user}{entry.metadata}{entry.changed}{entry.former_user}{entry.caller}{entry.request_id}"
    )
    return ENTRY_BYTES + (len(text) if text.isascii() else len(text.encode()))


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


def numbered(row: tuple[object, ...]) -> Numbered:
    """Convert a row of SELECT."""
    number, *values = row
    return Numbered(number, Entry(*values))  # type: ignore[arg-type]  # the columns of the table


def checksum_of_row(row: tuple[Kind, str, int, int]) -> int:
    """Return the checksum of an entry's id, from a row of SELECT_ID."""
    kind, guid, version, lead = row
    return checksum_of(Entry(kind, guid, version, 0, "", lead=lead).id)
