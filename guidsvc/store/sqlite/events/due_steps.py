"""What time does to records: the steps of the schedule that are due, in transactions of the writer."""

import sqlite3
from typing import NamedTuple

import structlog
from pydantic import ValidationError
from pydantic_core import to_json

from guidsvc.domain.events.schedule import EXPIRED_STAGE
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.store.sqlite.events.appender import EventAppender
from guidsvc.store.sqlite.tables import RECORDS
from guidsvc.store.sqlite.writer import Writer, is_invalid_text

MAX_DAMAGED = 1000
"""How many rows in damaged pages the schedule passes over before it fails as a whole."""

_OTHERS = "AND guid NOT IN (SELECT value FROM json_each(:damaged))"
_DUE = f"SELECT guid FROM records INDEXED BY records_due WHERE due <= :now {_OTHERS} ORDER BY due LIMIT :limit"  # noqa: S608  # nosec B608  # our own names
_UNSCHEDULED = f"SELECT guid FROM records INDEXED BY records_due WHERE due IS NULL {_OTHERS} LIMIT :limit"  # noqa: S608  # nosec B608  # our own names
_ROW = f"SELECT {', '.join(RECORDS.columns)}, due, stage, last FROM records WHERE guid = ?"  # noqa: S608  # nosec B608  # our own names
_SET = "UPDATE records SET due = ?, stage = ?, last = ? WHERE guid = ?"
_DELETE = "DELETE FROM records WHERE guid = ?"
_PURGE_INVALID = "DELETE FROM records WHERE guid = ? AND purge_at <= ?"
_POSTPONE_INVALID = f"UPDATE records SET due = purge_at, stage = {EXPIRED_STAGE} WHERE guid = ?"  # noqa: S608  # nosec B608  # our own names

_log = structlog.get_logger(__name__)


class Stepped(NamedTuple):
    """What one transaction has done."""

    records: int
    purged: list[int]
    """When the retention of each purged record ended, in Unix seconds."""


class DueSteps:
    """Does what is due. Rows that were written before the schedule existed get theirs on the way.

    Rows in damaged pages are passed over until the next start: they must not hold up all others.
    """

    def __init__(self, connection: sqlite3.Connection, writer: Writer, appender: EventAppender) -> None:
        self._connection = connection
        self._writer = writer
        self._appender = appender
        self._damaged: set[str] = set()
        self._at: str | None = None
        """The GUID whose row is read or written just now."""

    def are_due(self, reader: sqlite3.Connection, now: int) -> bool:
        """Whether there is anything to do by `now`, in Unix milliseconds."""
        values = self._values(now, 1)
        return any(reader.execute(select, values).fetchone() is not None for select in (_DUE, _UNSCHEDULED))

    def run(self, now: int, limit: int) -> Stepped:
        """Do what is due by `now`, for at most `limit` records, in one transaction."""
        while True:
            self._at = None
            try:
                return self._writer.transaction(lambda: self._run(now, limit))
            except CorruptRecord as error:
                self._pass_over(self._at, error)

    def _pass_over(self, guid: str | None, error: CorruptRecord) -> None:
        """Leave a row out from now on; raise the error if it is not that of a row, or one too many."""
        if guid is None or len(self._damaged) >= MAX_DAMAGED:
            raise error
        _log.error("record damaged, its expiry is not logged", guid=guid, error=str(error))
        self._damaged.add(guid)

    def _run(self, now: int, limit: int) -> Stepped:
        purged: list[int] = []
        due = self._connection.execute(_DUE, self._values(now, limit)).fetchall()
        for (guid,) in due:
            self._step(guid, now, purged)
        unscheduled: list[tuple[str]] = []
        if len(due) < limit:
            unscheduled = self._connection.execute(_UNSCHEDULED, self._values(now, limit - len(due))).fetchall()
        for (guid,) in unscheduled:
            self._schedule(guid, now)
        return Stepped(len(due) + len(unscheduled), purged)

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
        self._at = None  # damage of the log is no damage of this row
        last = self._appender.append(self._appender.logged(step.entries), last, now)
        self._at = guid
        if step.due is None:
            self._connection.execute(_DELETE, (guid,))
            purged.append(record.purge_at)
        else:
            self._connection.execute(_SET, (step.due, step.stage, last, guid))
        self._at = None

    def _schedule(self, guid: str, now: int) -> None:
        """Give a row that has none its first step. What has expired already is not logged as expired now."""
        self._at = guid
        found = self._read(guid, now)
        if found is not None:
            record, _, _, last = found
            stage, due = self._appender.policy.first(record)
            if record.expire * 1000 <= now:
                stage, due = EXPIRED_STAGE, record.purge_at
            self._connection.execute(_SET, (due, stage, last, guid))
        self._at = None

    def _read(self, guid: str, now: int) -> tuple[Record, int, int, int | None] | None:
        """Return a record with its due time, its stage and the number of its newest entry; None if the row is invalid.

        An invalid row is purged after its retention, and has no other step.
        """
        try:
            *values, due, stage, last = self._connection.execute(_ROW, (guid,)).fetchone()
            return RECORDS.row(tuple(values)), due, stage, last
        except ValidationError:
            pass
        except sqlite3.Error as error:
            if not is_invalid_text(error):
                raise
        if self._connection.execute(_PURGE_INVALID, (guid, now // 1000)).rowcount == 0:
            self._connection.execute(_POSTPONE_INVALID, (guid,))
        return None
