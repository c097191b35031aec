"""Creations in one transaction: few statements for all of them leave the same rows as one for each."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.entry import Origin
from guidsvc.domain.events.schedule import EventMode, EventPolicy
from guidsvc.domain.record import Record
from guidsvc.store.sqlite.events.appender import EventAppender, RecordSwap
from guidsvc.store.sqlite.events.entries import insert_created
from guidsvc.store.sqlite.files import StoreFiles
from guidsvc.store.sqlite.schema import open_writer
from guidsvc.store.sqlite.tables import insert_records
from guidsvc.store.sqlite.writer import Writer, monotonic_ms
from tests.conftest import FakeClock
from tests.support.factories import record

ABORT = 2
"""OE_Abort of SQLite: undo the statement."""
ABORTS = ("HaltIfNull", ABORT), ("Halt", ABORT)
ORIGIN = Origin("Zoë", "request-1")
FIELDS: list[dict[str, object]] = [
    {},
    {"user": 'Zürich "🜁"', "owner": "o'", "metadata": '{"ö":[1,null]}'},
    {"metadata": '{"a":"' + "x" * 5000 + '"}', "version": 2**53},
    {"expire": 253_402_300_799, "purge_at": 253_402_300_799},
    {"expire": 5},
    {"expire": 1_795_000_001},
]
"""Fields of new records: texts, large ones, the latest expiry, one in the past, and a life without a warning."""


class Store:
    """A file with its writer, which applies changes together or one by one."""

    def __init__(self, path: Path, connection: sqlite3.Connection, policy: EventPolicy, *, together: bool) -> None:
        self.connection = connection
        self.counts: dict[str, int] = {}
        self.appender = EventAppender(connection, policy, self.counts)
        self.statements: list[str] = []
        self._writer = Writer(connection, StoreFiles(path, is_claimed=False))
        self._writer.on_begin, self._writer.on_commit = self.appender.begin, self.appender.commit
        if together:
            self._writer.apply_together = self.appender.apply_together
        connection.set_trace_callback(self._on_statement)

    def create(self, records: Sequence[Record], not_after: int | None = None) -> list[object]:
        """Create these records in one transaction; return the results."""
        return [*self._writer.swaps([RecordSwap(self.appender, None, new, ORIGIN, not_after) for new in records])]

    def rows(self) -> list[object]:
        """Return all records and entries, and whether the log has a gap."""
        selects = "SELECT * FROM records", "SELECT * FROM log", "SELECT has_gap FROM log_bounds"
        return [self.connection.execute(select).fetchall() for select in selects]

    def _on_statement(self, statement: str) -> None:
        self.statements.append(statement.split(maxsplit=1)[0])


def new_records(clock: FakeClock, count: int) -> list[Record]:
    return [record(clock(), guid=f"{number:032X}", **FIELDS[number % len(FIELDS)]) for number in range(count)]


@pytest.mark.parametrize("mode", ["all", "changes", "off"])
@pytest.mark.parametrize("count", [1, 5, 100, 137])
@pytest.mark.parametrize("has_existing", [False, True])
def test_rows_are_the_same(
    tmp_path: Path, clock: FakeClock, mode: EventMode, count: int, *, has_existing: bool
) -> None:
    records, seen = new_records(clock, count), []
    for name in ("one by one", "together"):
        with closing(open_writer(tmp_path / name)) as connection:
            store = Store(tmp_path / name, connection, EventPolicy(mode), together=name == "together")
            results = [store.create(records[count // 2 : count // 2 + 1])] if has_existing else []
            results += [store.create(records, monotonic_ms() + 60_000)]
            seen.append((results, store.rows(), store.counts))

    assert seen[0] == seen[1]
    assert sum(result is True for result in seen[1][0][-1]) == count - has_existing


def test_creations_take_few_statements(tmp_path: Path, clock: FakeClock) -> None:
    with closing(open_writer(tmp_path / "db")) as connection:
        store = Store(tmp_path / "db", connection, EventPolicy(), together=True)
        assert store.create([record(clock(), guid=f"{number:032X}") for number in range(64)]) == [True] * 64
    assert store.statements.count("INSERT") == 2, "one for the records, and one for their entries"


def test_late_creations_do_nothing(tmp_path: Path, clock: FakeClock) -> None:
    with closing(open_writer(tmp_path / "db")) as connection:
        store = Store(tmp_path / "db", connection, EventPolicy(), together=True)
        assert store.create(new_records(clock, 3), not_after=monotonic_ms() - 1) == [False] * 3
        assert store.rows()[:2] == [[], []]


@pytest.mark.parametrize("insert", [insert_records, insert_created])
def test_statements_never_abort(tmp_path: Path, insert: Callable[[int], str]) -> None:
    with closing(open_writer(tmp_path / "db")) as connection:
        places = max(map(int, re.findall(r"\?(\d+)", insert(4))))
        steps = connection.execute(f"EXPLAIN {insert(4)}", [""] * places).fetchall()

    may_abort = {step[1] for step in steps if step[1] in {"Function", "PureFunc"} or (step[1], step[3]) in ABORTS}
    assert not may_abort, "SQLite would keep a journal for the statement, and so write each page twice"
