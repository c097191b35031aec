"""Reads of the SQLite event log for one owner: cost, index, and damage."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import CorruptRecord, EventsTrimmed
from guidsvc.store.sqlite.events import damage
from guidsvc.store.sqlite.events.entries import SELECT, SELECT_OWN
from guidsvc.store.sqlite.events.reading import _condition, read_page
from guidsvc.store.sqlite.schema import open_reader, open_writer
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.events import create
from tests.support.factories import record
from tests.support.sqlite_damage import alter, overwrite_root

ALICE = EventSelection(owner="alice")
NARROW = EventSelection(owner="alice", kinds=frozenset({"created"}), guid_prefix="0", user="nobody")


@pytest.fixture
async def store(path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(path, clock=clock, exclusive=False) as opened:
        yield opened


async def create_of(store: SqliteStore, clock: FakeClock, owner: str, guids: range) -> None:
    """Create GUIDs of an owner."""
    await create(store, [record(clock(), guid=f"{number:032X}", owner=owner) for number in guids])


def steps_of_page(path: Path, selection: EventSelection) -> int:
    """Count the steps of SQLite's virtual machine for a page, on a connection that has read the schema."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with closing(open_reader(path)) as reader:
        read_page(reader, 0, 51, selection)
        reader.set_progress_handler(count, 1)
        read_page(reader, 0, 51, selection)
        return steps


@pytest.mark.parametrize("selection", [ALICE, NARROW], ids=["all", "narrow"])
async def test_cost_of_an_owners_page_hides_the_entries_of_others(
    store: SqliteStore, path: Path, clock: FakeClock, selection: EventSelection
) -> None:
    await create_of(store, clock, "alice", range(10))
    await create_of(store, clock, "bob", range(100, 110))
    await create_of(store, clock, "alice", range(10, 20))
    await create_of(store, clock, "bob", range(110, 120))
    before = steps_of_page(path, selection)
    await create_of(store, clock, "bob", range(1000, 1500))
    assert steps_of_page(path, selection) == before


@pytest.mark.parametrize(
    ("select", "owner", "plan"),
    [
        (SELECT_OWN, "alice", "SEARCH log USING INDEX log_owner (owner=? AND rowid>? AND rowid<?)"),
        (SELECT, None, "SEARCH log USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (SELECT, "", "SEARCH log USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ],
)
def test_page_is_searched_by_owner_and_number(path: Path, select: str, owner: str | None, plan: str) -> None:
    selection = EventSelection(owner=owner, kinds=frozenset({"created"}), guid_prefix="00", user="b")
    values = {"after": 0, "end": 9, "owner": owner, "prefix": "00", "prefix_end": "00g", "user": "b"}
    page = f"EXPLAIN QUERY PLAN {select} WHERE {_condition(selection)} ORDER BY seq LIMIT 5"
    with closing(open_writer(path)) as connection:
        assert [row[3] for row in connection.execute(page, values)] == [plan]


async def test_older_file_gets_the_owner_index(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, clock=clock, exclusive=False) as store:
        await create_of(store, clock, "alice", range(3))
        await create(store, [record(clock(), guid="F" * 32)])
        await create_of(store, clock, "alice", range(3, 5))
    with closing(sqlite3.connect(path)) as file:
        file.execute("DROP INDEX log_owner")
        file.execute("DROP TABLE log_archive")
        file.execute("ALTER TABLE log_bounds DROP COLUMN shares")
        file.execute("DROP INDEX records_owner_expire")
        file.execute("PRAGMA user_version = 10")
        file.commit()

    async with open_sqlite(path, clock=clock, exclusive=False) as store:
        page = await store.events.read(0, 10, ALICE)
        assert ([number for number, *_ in page.entries], page.looked_to) == ([1, 2, 3, 5, 6], 6)


async def test_damaged_entry_ends_only_pages_of_its_owner(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("event log damaged, readers continue after the damage")
    await create_of(store, clock, "alice", range(3))
    await create_of(store, clock, "bob", range(10, 13))
    await create_of(store, clock, "alice", range(3, 6))
    alter(path, "UPDATE log SET metadata = CAST(x'ff41' AS TEXT) WHERE seq IN (5, 8)")

    page = await store.events.read(0, 10, ALICE)
    assert ([number for number, *_ in page.entries], page.looked_to) == ([1, 2, 3, 7], 7)
    with pytest.raises(EventsTrimmed):
        await store.events.read(7, 10, ALICE)
    page = await store.events.read(8, 10, ALICE)
    assert ([number for number, *_ in page.entries], page.looked_to) == ([9], 9)
    page = await store.events.read(5, 10, EventSelection(owner="bob"))
    assert ([number for number, *_ in page.entries], page.looked_to) == ([6], 9)


async def test_damage_reveals_no_entries_of_others(
    store: SqliteStore, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damage, "SCANNED", 4)
    await create_of(store, clock, "alice", range(3))
    await create_of(store, clock, "bob", range(10, 30))
    await create_of(store, clock, "alice", range(3, 9))
    alter(path, "UPDATE log SET metadata = CAST(x'ff41' AS TEXT) WHERE seq = 29")

    page = await store.events.read(0, 100, ALICE)
    assert ([number for number, *_ in page.entries], page.looked_to) == ([1, 2, 3, 24], 24)
    page = await store.events.read(24, 100, ALICE)
    assert ([number for number, *_ in page.entries], page.looked_to) == ([25, 26, 27, 28], 28)


async def test_damaged_owner_index_hides_no_event(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, clock=clock, exclusive=False) as store:
        await create_of(store, clock, "bob", range(100, 110))
        await create_of(store, clock, "alice", range(10))
    overwrite_root(path, "log_owner")

    async with open_sqlite(path, clock=clock, exclusive=False) as store:
        page = await store.events.read(0, 100, ALICE)
        assert ([number for number, *_ in page.entries], page.looked_to) == (list(range(11, 21)), 20)
        with pytest.raises(CorruptRecord):
            await create_of(store, clock, "alice", range(10, 11))
        await create(store, [record(clock(), guid="F" * 32)])
