"""Damage of the SQLite file: it stops only the events that it affects."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.schedule import MARGIN_SECONDS
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord
from guidsvc.store.sqlite.events import due_steps
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.events import ALL, advance_all, create, every_entry, new_records, next_version
from tests.support.factories import GUID, record
from tests.support.sqlite_damage import alter, overwrite_page_with, overwrite_root

DAY = 86_400
MARGIN = MARGIN_SECONDS * 1000


async def test_damaged_log_fails_its_readers_only(path: Path, clock: FakeClock) -> None:
    old = record(clock())
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, [old])
    overwrite_root(path, "log")

    async with open_sqlite(path, exclusive=False) as store:
        await store.ping()
        assert await store.records.get(GUID) == old
        with pytest.raises(CorruptRecord):
            await store.events.read(0, 10, ALL)


@pytest.mark.parametrize("column", ["user = ''", "expire = 'soon'", "user = CAST(x'ff41' AS TEXT)"])
async def test_invalid_row_does_not_stop_the_others(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs, column: str
) -> None:
    expected_logs.add("record damaged, its expiry is not logged")
    bad, good = new_records(clock, 2, expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    await create(store, [bad, good])
    alter(path, f"UPDATE records SET {column} WHERE guid = ?", bad.guid)

    await advance_all(store, clock() + 5000 + MARGIN)
    assert [entry.guid for _, entry, _ in await every_entry(store.events) if entry.kind == "expired"] == [good.guid]
    await advance_all(store, clock() + 10_000 + MARGIN)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM records").fetchone() == (0,), "the invalid row must be purged too"


@pytest.mark.parametrize(
    "column", ["stage = 'x'", "last = 'x'", "due = 'x'", "due = 1.5", "stage = CAST(x'ff41' AS TEXT)"]
)
async def test_damaged_schedule_does_not_stop_the_others(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs, column: str
) -> None:
    expected_logs.add("record damaged, its expiry is not logged")
    bad, good = new_records(clock, 2, expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    await create(store, [bad, good])
    alter(path, "UPDATE records SET due = 1 WHERE guid = ?", bad.guid)
    alter(path, f"UPDATE records SET {column} WHERE guid = ?", bad.guid)

    assert await store.events.lag(clock()) >= 0
    await advance_all(store, clock() + 5000 + MARGIN)
    assert [entry.guid for _, entry, _ in await every_entry(store.events) if entry.kind == "expired"] == [good.guid]
    await advance_all(store, clock() + 10_000 + MARGIN)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM records").fetchone() == (0,), "the damaged row must be purged too"


@pytest.mark.parametrize("column", ["stage = 'x'", "last = 'x'", "due = 'x'"])
async def test_damaged_schedule_is_repaired_by_a_write(
    store: SqliteStore, path: Path, clock: FakeClock, column: str
) -> None:
    old = record(clock(), expire=clock.seconds + 5)
    await create(store, [old])
    alter(path, f"UPDATE records SET {column}")

    assert await store.records.swap(old, next_version(old, clock() + 9000, expire=clock.seconds + 50))
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT typeof(due), typeof(stage), typeof(last) FROM records").fetchone() == (
            "integer",
            "integer",
            "integer",
        )


async def damage_row(path: Path, clock: FakeClock) -> list[Record]:
    """Store records that expire soon, and damage a page with some of them; return all records."""
    metadata = '{"a":"' + "x" * 1500 + '"}'
    records = new_records(clock, 40, expire=clock.seconds + 5, purge_at=clock.seconds + DAY, metadata=metadata)
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, records)
    overwrite_page_with(path, records[20].guid.encode() + b"Cylance")
    return records


async def test_damaged_page_does_not_stop_the_others(path: Path, clock: FakeClock, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("record damaged, its expiry is not logged")
    records = await damage_row(path, clock)

    async with open_sqlite(path, exclusive=False) as store:
        await advance_all(store, clock() + 5000 + MARGIN)
        expired = {entry.guid for _, entry, _ in await every_entry(store.events) if entry.kind == "expired"}
        unreadable = set()
        for each in records:
            try:
                await store.records.get(each.guid)
            except CorruptRecord:
                unreadable.add(each.guid)
        assert 0 < len(unreadable) < 10
        assert expired == {each.guid for each in records} - unreadable


async def test_too_many_damaged_rows_stop_the_schedule(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the whole file may be damaged: the scheduler fails instead of remembering each row."""
    monkeypatch.setattr(due_steps, "MAX_DAMAGED", 0)
    await damage_row(path, clock)

    async with open_sqlite(path, exclusive=False) as store:
        with pytest.raises(CorruptRecord):
            await advance_all(store, clock() + 5000 + MARGIN)
