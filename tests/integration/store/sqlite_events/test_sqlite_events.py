"""The SQLite event log: numbers, query plans, and several processes."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.schedule import MARGIN_SECONDS
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsTrimmed, StoreUnavailable
from guidsvc.store.contract import Swap
from guidsvc.store.sqlite.events import due_steps, reading
from guidsvc.store.sqlite.events.entries import SELECT
from guidsvc.store.sqlite.events.reading import read_page
from guidsvc.store.sqlite.schema import open_reader
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import FakeClock
from tests.support.events import ALL, advance_all, create, every_entry, kind_counts, new_records, next_version
from tests.support.factories import record


def make_inserts_fail(connection: sqlite3.Connection, table: str, condition: str) -> None:
    """Make each insert of a row that meets the condition fail."""
    connection.execute(
        f"CREATE TEMP TRIGGER fault BEFORE INSERT ON {table} WHEN {condition} BEGIN SELECT RAISE(ABORT, 'no'); END"
    )


async def test_rolled_back_group_uses_no_numbers(store: SqliteStore, clock: FakeClock) -> None:
    await create(store, [record(clock(), guid="F" * 32)])
    connection = store._engine.writer.connection
    make_inserts_fail(connection, "records", "NEW.user = 'bad'")
    group = [*new_records(clock, 3), record(clock(), guid="E" * 32, user="bad")]
    answers = await asyncio.gather(*(store.records.swap(None, each) for each in group), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 4
    connection.execute("DROP TRIGGER fault")
    await create(store, new_records(clock, 3))

    assert [number for number, *_ in await every_entry(store.events)] == [1, 2, 3, 4]
    assert store._engine.meter.events.counts["created"] == 4


async def test_write_is_undone_if_its_entry_fails(store: SqliteStore, clock: FakeClock) -> None:
    old, other = new_records(clock, 2)
    await create(store, [old])
    make_inserts_fail(store._engine.writer.connection, "log", "NEW.guid >= ''")

    for before, after in ((None, other), (old, next_version(old, clock() + 1, user="b"))):
        with pytest.raises(StoreUnavailable):
            await store.records.swap(before, after)
    assert (await store.records.get(other.guid), await store.records.get(old.guid)) == (None, old)


async def test_group_of_a_batch_appends_in_its_order(store: SqliteStore, clock: FakeClock) -> None:
    first, second, third = new_records(clock, 3)
    after = next_version(second, clock() + 1, user="b")
    swaps = [Swap(None, third), Swap(None, first), Swap(None, second), Swap(second, after), Swap(None, first)]
    assert await store.records.swap_many(swaps) == [True, True, True, True, False]

    entries = [entry for _, entry, _ in await every_entry(store.events)]
    assert [entry.guid for entry in entries] == [third.guid, first.guid, second.guid, second.guid]


async def test_two_processes_share_one_sequence(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False) as other:
        records = new_records(clock, 200)
        await asyncio.gather(
            *(one.records.swap(None, each) for number, each in enumerate(records) for one in (store, other))
        )
        assert await store.events.newest() == await other.events.newest() == 200
        numbered = await every_entry(other.events)
        assert [number for number, *_ in numbered] == list(range(1, 201))
        assert sorted(entry.guid for _, entry, _ in numbered) == [each.guid for each in records]
        totals = [store._engine.meter.events.counts["created"], other._engine.meter.events.counts["created"]]
        assert sum(totals) == 200


async def test_two_schedulers_append_each_expiry_once(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    records = new_records(clock, 300, expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    await create(store, records)
    async with open_sqlite(path, exclusive=False) as other:
        for seconds in (5 + MARGIN_SECONDS, 10 + MARGIN_SECONDS):
            now = clock() + seconds * 1000
            await asyncio.gather(*(advance_all(one, now) for one in (store, other, store, other)))

    assert await kind_counts(store) == {"created": 300, "expired": 300, "purged": 300}
    assert await store.records.get(records[0].guid) is None


async def test_newest_number_includes_all_processes(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    statements: list[str] = []
    store._engine.reader.set_trace_callback(statements.append)
    async with open_sqlite(path, exclusive=False) as other:
        for number, one in enumerate((store, other, store, other)):
            await create(one, [record(clock(), guid=f"{number:032X}")])
            assert await store.events.newest() == number + 1
    statements.clear()
    for _ in range(5):
        await store.events.newest()
    assert statements == ["PRAGMA data_version"] * 5, "an idle process must read nothing else"


async def test_page_has_no_gap_while_another_process_trims(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    """The other process trims between the read of the floor and the read of the entries."""
    await create(store, new_records(clock, 10))
    trims: list[str] = []

    def trim_after_floor_read(statement: str) -> None:
        if statement.startswith("SELECT seq, appended, kind") and not trims:
            trims.append(statement)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.executescript("UPDATE log_bounds SET floor = 5; DELETE FROM log WHERE seq <= 5")

    with closing(open_reader(path)) as reader:
        reader.set_trace_callback(trim_after_floor_read)
        page = read_page(reader, 0, 100, ALL)
    assert trims
    assert [number for number, *_ in page.entries] == list(range(1, 11))
    with pytest.raises(EventsTrimmed):
        await store.events.read(4, 100, ALL)


async def test_page_ends_after_a_number_of_scanned_entries(
    store: SqliteStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the cursor of a follower of rare events advances, and no page scans the whole log."""
    monkeypatch.setattr(reading, "SCANNED", 4)
    await create(store, new_records(clock, 10))

    rare = EventSelection(kinds=frozenset({"purged"}))
    places = [0]
    while (page := await store.events.read(places[-1], 100, rare)).looked_to > places[-1]:
        assert page.entries == []
        assert page.looked_to_checksum == await store.events.checksum(page.looked_to)
        places.append(page.looked_to)
    assert places == [0, 4, 8, 10]


async def test_log_is_read_by_number_and_the_schedule_by_time(store: SqliteStore, clock: FakeClock) -> None:
    connection = store._engine.writer.connection
    await create(store, new_records(clock, 3))
    selection = EventSelection(kinds=frozenset({"created"}), guid_prefix="00", user="b")
    values = {"after": 0, "end": 9, "prefix": "00", "prefix_end": "00g", "user": "b"}
    page = f"{SELECT} WHERE {reading._condition(selection)} ORDER BY seq LIMIT 5"
    (plan,) = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {page}", values)]
    assert plan == "SEARCH log USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    due = connection.execute(f"EXPLAIN QUERY PLAN {due_steps._DUE}", {"now": 0, "limit": 1, "damaged": "[]"}).fetchall()
    assert due[0][3] == "SEARCH records USING COVERING INDEX records_due (due<?)"
    assert not [row for row in due if "TEMP B-TREE" in row[3]], "in order without sorting"
