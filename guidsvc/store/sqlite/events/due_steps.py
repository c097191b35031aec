"""The due steps of the schedule of records, in transactions of the writer."""

import sqlite3
from typing import NamedTuple

import structlog
from pydantic import ValidationError
from pydantic_core import to_json

from guidsvc.domain.events.schedule import EXPIRED_STAGE
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.store.sqlite.events.appender import EventAppender, are_valid
from guidsvc.store.sqlite.events.continuity import start_of
from guidsvc.store.sqlite.tables import RECORDS
from guidsvc.store.sqlite.writer import Writer, is_invalid_text

MAX_DAMAGED = 1000
"""Number of rows in damaged pages that the schedule skips before it fails as a whole."""

_OTHERS = "AND guid NOT IN (SELECT value FROM json_each(:damaged))"
_DUE = f"SELECT guid FROM records INDEXED BY records_due WHERE due <= :now {_OTHERS} ORDER BY due LIMIT :limit"  # noqa: S608  # nosec B608  # our own names
_UNREADABLE = f"SELECT guid FROM records INDEXED BY records_due WHERE due >= '' AND typeof(purge_at) = 'integer' {_OTHERS} LIMIT :limit"  # noqa: S608, E501  # nosec B608  # our own names
"""Rows whose due time is not a number, so that it is never reached."""
_UNSCHEDULED = f"SELECT guid FROM records INDEXED BY records_due WHERE due IS NULL {_OTHERS} LIMIT :limit"  # noqa: S608  # nosec B608  # our own names
_ROW = f"SELECT {', '.join(RECORDS.columns)}, due, stage, last FROM records WHERE guid = ?"  # noqa: S608  # nosec B608  # our own names
_IS_OVER = "(expire * 1000 <= updated OR expire * 1000 <= :start_at)"
_LIFE = "ifnull(CAST(expire - updated / 1000 AS INTEGER), 0)"
_SCHEDULE = f"""
    UPDATE records SET
        due = CASE WHEN {_IS_OVER} THEN purge_at ELSE expire - first_offset({_LIFE}) END,
        stage = CASE WHEN {_IS_OVER} THEN {EXPIRED_STAGE} ELSE 0 END
    WHERE guid = :guid
"""  # noqa: S608  # nosec B608  # our own names
"""As `EventPolicy.first`. What had expired before there was a log is not logged as expired now."""
_UNSCHEDULED_EXPIRE = """
    SELECT expire FROM records INDEXED BY records_expire
    WHERE due IS NULL AND expire <= :seconds AND expire * 1000 > :start_at ORDER BY expire LIMIT 1
"""
_OLDEST_DUE = "SELECT due FROM records WHERE due <= ? ORDER BY due LIMIT 1"
_SET = "UPDATE records SET due = ?, stage = ?, last = ? WHERE guid = ?"
_DELETE = "DELETE FROM records WHERE guid = ?"
_PURGE_INVALID = "DELETE FROM records WHERE guid = ? AND purge_at <= ?"
_POSTPONE_INVALID = f"UPDATE records SET due = purge_at, stage = {EXPIRED_STAGE}, last = NULL WHERE guid = ?"  # noqa: S608  # nosec B608  # our own names

_log = structlog.get_logger(__name__)


class Stepped(NamedTuple):
    """The result of one transaction."""

    records: int
    purged: list[int]
    """When the retention of each purged record ended, in Unix seconds."""


class DueSteps:
    """Executes due steps. Rows that were written before the schedule existed get a due time in the process.

    Rows in damaged pages are skipped until the next start, so that they do not stop all others.
    """

    def __init__(self, connection: sqlite3.Connection, writer: Writer, appender: EventAppender) -> None:
        self._connection = connection
        self._writer = writer
        self._appender = appender
        self._damaged: set[str] = set()
        self._at: str | None = None
        """The GUID whose row is being read or written."""
        connection.create_function("first_offset", 1, appender.policy.first_offset, deterministic=True)

    def are_due(self, reader: sqlite3.Connection, now: int) -> bool:
        """Whether there is anything to do by `now`, in Unix milliseconds."""
        values = self._values(now, 1)
        selects = _DUE, _UNREADABLE, _UNSCHEDULED
        return any(reader.execute(select, values).fetchone() is not None for select in selects)

    def has_unscheduled(self, reader: sqlite3.Connection) -> bool:
        """Whether there are rows without a due time."""
        return reader.execute(_UNSCHEDULED, self._values(0, 1)).fetchone() is not None

    def run(self, now: int, limit: int) -> Stepped:
        """Execute the steps due by `now`, for at most `limit` records, in one transaction."""
        while True:
            self._at = None
            try:
                return self._writer.transaction(lambda: self._run(now, limit))
            except CorruptRecord as error:
                self._pass_over(self._at, error)

    def _pass_over(self, guid: str | None, error: CorruptRecord) -> None:
        """Skip a row from now on; raise the error if it does not concern a row, or if too many are skipped."""
        if guid is None or len(self._damaged) >= MAX_DAMAGED:
            raise error
        _log.error("record damaged, its expiry is not logged", guid=guid, error=str(error))
        self._damaged.add(guid)

    def _run(self, now: int, limit: int) -> Stepped:
        purged: list[int] = []
        due = self._guids(_DUE, now, limit)
        for guid in due:
            self._step(guid, now, purged)
        unreadable = self._guids(_UNREADABLE, now, limit - len(due))
        for guid in unreadable:
            self._set_aside(guid, now)
        count = len(due) + len(unreadable)
        return Stepped(count + self._schedule(now, limit - count), purged)

    def _guids(self, select: str, now: int, limit: int) -> list[str]:
        return [guid for (guid,) in self._connection.execute(select, self._values(now, limit))]

    def _values(self, now: int, limit: int) -> dict[str, object]:
        return {"now": now // 1000, "limit": limit, "damaged": to_json(sorted(self._damaged)).decode()}

    def _step(self, guid: str, now: int, purged: list[int]) -> None:
        """Do the next step of one record."""
        self._at = guid
        found = self._read(guid, now)
        if found is None:
            return
        record, due, stage, last = found
        step = self._appender.policy.step(record, stage, due, now)
        self._at = None  # damage of the log is not damage of this row
        if not self._appender.policy.is_on:
            self._appender.note_gap()
        last = self._appender.append(step.entries, last, now)
        self._at = guid
        if step.due is None:
            self._connection.execute(_DELETE, (guid,))
            purged.append(record.purge_at)
        else:
            self._connection.execute(_SET, (step.due, step.stage, last, guid))
        self._at = None

    def _schedule(self, now: int, limit: int) -> int:
        """Give a due time to rows that have none, at most `limit`; return to how many."""
        guids = self._guids(_UNSCHEDULED, now, limit)
        start_at = start_of(self._connection) if guids else 0
        for guid in guids:
            self._at = guid
            self._connection.execute(_SCHEDULE, {"guid": guid, "start_at": start_at})
        self._at = None
        return len(guids)

    def _read(self, guid: str, now: int) -> tuple[Record, int, int, int | None] | None:
        """Return a record with its due time, its stage and the number of its newest entry; None if the row is invalid.

        An invalid row is purged after its retention, and has no other step.
        """
        try:
            *values, due, stage, last = self._connection.execute(_ROW, (guid,)).fetchone()
            if are_valid(due, stage, last):
                return RECORDS.row(tuple(values)), due, stage, last
        except ValidationError:
            pass
        except sqlite3.Error as error:
            if not is_invalid_text(error):
                raise
        self._set_aside(guid, now)
        return None

    def _set_aside(self, guid: str, now: int) -> None:
        """Purge an invalid row if its retention is over; else postpone it until then."""
        self._at = guid
        if self._connection.execute(_PURGE_INVALID, (guid, now // 1000)).rowcount == 0:
            self._connection.execute(_POSTPONE_INVALID, (guid,))
            _log.error("record damaged, its expiry is not logged", guid=guid)
        self._at = None


def oldest_due(reader: sqlite3.Connection, seconds: int) -> int | None:
    """Return the oldest due time up to a Unix second; None if nothing is due."""
    found = reader.execute(_OLDEST_DUE, (seconds,)).fetchone()
    return None if found is None else int(found[0])


def oldest_unscheduled(reader: sqlite3.Connection, seconds: int) -> int | None:
    """Return the oldest expiry up to a Unix second that has to be logged, of rows without a due time."""
    values = {"seconds": seconds, "start_at": start_of(reader)}
    found = reader.execute(_UNSCHEDULED_EXPIRE, values).fetchone()
    return None if found is None else int(found[0])
