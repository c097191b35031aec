"""Changes of records together with their log entries, inside the transactions of the writer.

The writer's lock orders the transactions, so the order of the numbers is the order in which entries become visible, and
no number is left out: a transaction that is rolled back gives its numbers back.
"""

import sqlite3
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from itertools import chain, compress, groupby
from typing import NamedTuple

from guidsvc.domain.events.entry import CREATED, EXPIRED, KINDS, Change, Entry, Origin, change_of
from guidsvc.domain.events.schedule import EXPIRED_STAGE, PURGED_STAGE, EventPolicy
from guidsvc.domain.receipt import PAGE_BYTES
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.store.sqlite.events.continuity import NOTE_GAP
from guidsvc.store.sqlite.events.entries import (
    BOUNDS,
    INSERT,
    LOST_BOUNDS,
    NEWEST,
    bytes_of,
    created_bytes,
    created_values,
    insert_created,
    total_after,
    total_of,
    values_of,
)
from guidsvc.store.sqlite.tables import RECORDS, insert_records, record_values
from guidsvc.store.sqlite.writer import TogetherFailed, Write, apply_each, monotonic_ms

_EXTRAS = "SELECT due, stage, last FROM records WHERE guid = ? AND version = ?"
_NO_CHANGE = Change((), ())
_Values = tuple[object, ...]
_ROWS = 64, 16, 4, 1
"""The numbers of rows for which there are statements, so that SQLite has prepared them all after a while."""
_LOST_EXTRAS = (0, PURGED_STAGE, None)
"""In place of damaged ones: then no entry is appended that the log may have already."""


class EventAppender:
    """Appends to the log with the connection of the writer. `begin` and `commit` frame each of its transactions."""

    def __init__(self, connection: sqlite3.Connection, policy: EventPolicy, counts: MutableMapping[str, int]) -> None:
        self.policy = policy
        self._connection = connection
        self._counts = counts
        counts.update(dict.fromkeys(KINDS, 0))
        self._kinds: list[str] = []
        self._newest: int | None = None
        self._total = 0
        self._is_gap_noted = False

    def begin(self) -> None:
        """Forget the end of the log: another process may have appended since the last transaction."""
        self._newest = None
        self._is_gap_noted = False
        self._kinds.clear()

    def commit(self) -> None:
        """Count the entries that the transaction has appended."""
        for kind in self._kinds:
            self._counts[kind] += 1

    def newest(self) -> int:
        """Return the number of the newest entry; it is read once in a transaction."""
        if self._newest is None:
            self._newest, self._total = self._read_end()
        return self._newest

    def total(self) -> int:
        """Return the total size of all entries so far, in bytes, including removed ones."""
        self.newest()
        return self._total

    def note_gap(self) -> None:
        """Note, once in a transaction, that something happens without an entry; see `continuity`."""
        if not self._is_gap_noted:
            self._connection.execute(NOTE_GAP)
            self._is_gap_noted = True

    def append(self, entries: Iterable[Entry], last: int | None, at: int) -> int | None:
        """Append entries of one GUID; return the number of its newest entry.

        `last` is the number of its newest entry before. `at` is the time of the append in Unix milliseconds.
        """
        number, total = self.newest(), self._total
        for entry in entries:
            number += 1
            total = total_after(total, bytes_of(entry))
            self._connection.execute(INSERT, (number, last or 0, total, at, *values_of(entry)))
            self._kinds.append(entry.kind)
            self._newest, self._total, last = number, total, number
        return last

    def apply_together(self, changes: Sequence[Write]) -> list[bool]:
        """Apply changes in order, those in a row that create records in few statements; see `Writer`."""
        done: list[bool] = []
        for are_creations, run in groupby(changes, self._is_creation):
            if are_creations:
                done += self._create_together([change for change in run if isinstance(change, RecordSwap)])
            else:
                done += apply_each(self._connection, run)
        return done

    def _is_creation(self, change: Write) -> bool:
        """Whether a change creates a live record, and the log has an entry of that."""
        return isinstance(change, RecordSwap) and change.old is None and change.is_live and self.policy.is_on

    def _create_together(self, creations: Sequence["RecordSwap"]) -> list[bool]:
        """Create those records for which it is not too late; TogetherFailed if one of them exists."""
        now = monotonic_ms()
        is_in_time = [not_after is None or now <= not_after for _, _, _, _, not_after in creations]
        rows: list[_Values] = []
        entries: list[_Values] = []
        offsets: dict[int, int] = {}  # by lifetime: most records of a group have the same
        number, total = self.newest(), self._total
        for _, _, new, origin, _ in compress(creations, is_in_time):
            number += 1
            size = created_bytes(new, origin)
            has_room = size <= PAGE_BYTES - total % PAGE_BYTES  # in the page, as for most: saves a call
            total = total + size if has_room else total_after(total, size)
            lifetime = new.expire - new.updated // 1000
            if lifetime not in offsets:
                offsets[lifetime] = self.policy.first_offset(lifetime)
            rows.append(record_values(new, new.expire - offsets[lifetime], 0, number))
            entries.append((number, total, new.updated, *created_values(new, origin)))
        if self._insert(insert_records, rows) < len(rows):
            raise TogetherFailed
        self._insert(insert_created, entries)
        self._kinds += [CREATED] * len(entries)
        self._newest, self._total = number, total
        return is_in_time

    def _insert(self, statement: Callable[[int], str], rows: Sequence[_Values]) -> int:
        """Insert rows by statements for several of them; return how many were inserted."""
        inserted = start = 0
        for count in _ROWS:
            while start + count <= len(rows):
                values = list(chain.from_iterable(rows[start : start + count]))
                inserted += self._connection.execute(statement(count), values).rowcount
                start += count
        return inserted

    def swap(self, old: Record | None, new: Record, origin: Origin) -> bool:
        """Replace `old` with `new`, and append the entries of that; return whether `old` was stored."""
        change = self._change(old, new, origin)
        return self._create(new, change.entries) if old is None else self._replace(old, new, change)

    def _change(self, old: Record | None, new: Record, origin: Origin) -> Change:
        """Return the entries of a change that are logged."""
        if new is old:
            return _NO_CHANGE
        if not self.policy.is_on:
            self.note_gap()
            return _NO_CHANGE
        return self.policy.logged(change_of(old, new, origin))

    def _create(self, new: Record, entries: tuple[Entry, ...]) -> bool:
        stage, due = self.policy.first(new)
        last = self.newest() + len(entries) if entries else None
        if not RECORDS.insertion(new, (due, stage, last)).apply(self._connection):
            return False
        self.append(entries, None, new.updated)
        return True

    def _replace(self, old: Record, new: Record, change: Change) -> bool:
        extras = self._connection.execute(_EXTRAS, (old.guid, old.version)).fetchone()
        if extras is None:
            return False
        _, old_stage, last = extras if are_valid(*extras) else _LOST_EXTRAS
        owed = _still_owed(change.owed, old_stage) if change.owed else []
        last = self.append((*owed, *change.entries), last, new.updated)
        stage, due = self.policy.first(new)
        if not RECORDS.update(old, new, extras, (due, stage, last)).apply(self._connection):
            raise CorruptRecord(f"the row of {old.guid} was found, and then not updated")
        return True

    def _read_end(self) -> tuple[int, int]:
        found = self._connection.execute(NEWEST).fetchone()
        if found is not None:
            return int(found[0]), total_of(self._connection, found[1])
        bounds = self._connection.execute(BOUNDS).fetchone()
        if bounds is None:
            raise CorruptRecord(LOST_BOUNDS)
        return int(bounds[1]), int(bounds[3])


class RecordSwap(NamedTuple):
    """A swap of a record in the store, as the writer applies it."""

    appender: EventAppender
    old: Record | None
    new: Record
    origin: Origin
    not_after: int | None

    @property
    def is_live(self) -> bool:
        """Whether the new record is live."""
        return self.new.expire * 1000 > self.new.updated

    def apply(self, _connection: sqlite3.Connection) -> bool:
        """Swap inside a transaction of the appender's connection; return whether that changed the row."""
        return self.appender.swap(self.old, self.new, self.origin)


def are_valid(due: object, stage: object, last: object) -> bool:
    """Whether these are the extras of a row. A row without a due time is valid: it gets one."""
    return isinstance(due, int | None) and isinstance(stage, int) and isinstance(last, int | None)


def _still_owed(owed: tuple[Entry, ...], stage: int) -> list[Entry]:
    """Return the entries that the scheduler has not appended up to this stage."""
    return [entry for entry in owed if stage < (EXPIRED_STAGE if entry.kind == EXPIRED else PURGED_STAGE)]
