"""The event log and the times without it: before its creation, and while it was off.

The bounds of the log hold two facts. `start_at` is when the first process opened the file with a log, in Unix
milliseconds: what had expired by then is never logged as expired. `has_gap` says that something happened that has no
entries, because the log was off. Then the log continues with a new epoch, so that no cursor passes the gap unnoticed.
"""

import sqlite3

import structlog

from guidsvc.domain.events.schedule import EventPolicy

NOTE_GAP = "UPDATE log_bounds SET has_gap = 1 WHERE has_gap = 0"
_START_AT = "SELECT start_at FROM log_bounds"
_FACTS = "SELECT start_at, has_gap FROM log_bounds"
_SET_START = "UPDATE log_bounds SET start_at = ? WHERE start_at IS NULL"
_CLOSE_GAP = "UPDATE log_bounds SET epoch = random() & 4294967295, has_gap = 0 WHERE has_gap <> 0"

_log = structlog.get_logger(__name__)


def open_log(writer: sqlite3.Connection, policy: EventPolicy, now: int) -> None:
    """Set the beginning of the log, and invalidate all cursors if it was off. Write nothing if neither is needed."""
    start_at, has_gap = writer.execute(_FACTS).fetchone() or (now, 0)  # readers and writers report lost bounds
    if start_at is None:
        writer.execute(_SET_START, (now,))
    if has_gap and policy.is_on and writer.execute(_CLOSE_GAP).rowcount:
        _log.info("event log was off, earlier cursors are invalid")


def start_of(connection: sqlite3.Connection) -> int:
    """Return when the log begins, in Unix milliseconds; 0 if that is lost."""
    found = connection.execute(_START_AT).fetchone()
    return 0 if found is None or found[0] is None else int(found[0])
