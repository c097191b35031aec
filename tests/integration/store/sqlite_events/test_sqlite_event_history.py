"""The history of a GUID in a damaged SQLite file: it has the intact events, and the gap is logged."""

from pathlib import Path

import pytest

from guidsvc.errors import CorruptRecord
from guidsvc.store.sqlite.events import history
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.events import create, new_records, next_version
from tests.support.factories import GUID, record
from tests.support.sqlite_damage import alter, overwrite_page_with

LACKS = "event log damaged, the history of a GUID lacks events"


async def write(store: SqliteStore, clock: FakeClock, *, metadata: str | None = None) -> None:
    """Write nine entries. The odd ones are those of one GUID."""
    current = record(clock())
    await create(store, [current])
    for step, other in enumerate(new_records(clock, 4), 1):
        await create(store, [other])
        after = next_version(current, clock() + step, user=f"user {step}", metadata=metadata)
        assert await store.records.swap(current, after)
        current = after


async def numbers(store: SqliteStore, before: int = 100, limit: int = 100) -> list[int]:
    """Return the numbers of the entries in the history of the GUID."""
    return [number for number, *_ in await store.events.history(GUID, before, limit)]


@pytest.mark.parametrize(
    ("change", "whole"),
    [
        ("UPDATE log SET kind = 'x' WHERE seq = 5", [9, 7, 3, 1]),
        ("UPDATE log SET owner = CAST(x'ff41' AS TEXT) WHERE seq = 5", [9, 7, 3, 1]),
        ("UPDATE log SET version = 'x', prev = 'y' WHERE seq IN (5, 9)", [7, 3, 1]),
        ("UPDATE log SET guid = CAST(x'ff41' AS TEXT) WHERE seq BETWEEN 4 AND 6", [9, 7, 3, 1]),
        ("DELETE FROM log WHERE seq IN (5, 6)", [9, 7, 3, 1]),
        ("UPDATE log SET kind = 'x' WHERE seq = 1", [9, 7, 5, 3]),
    ],
)
async def test_history_omits_damaged_events(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs, change: str, whole: list[int]
) -> None:
    expected_logs.add(LACKS)
    await write(store, clock)
    alter(path, change)

    assert await numbers(store) == whole
    assert await numbers(store, limit=3) == whole[:3]
    for before in (9, 7, 5, 4, 2):
        assert await numbers(store, before) == [number for number in whole if number < before]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log SET prev = 'x' WHERE seq = 7",
        "UPDATE log SET prev = 100 WHERE seq = 7",
        "UPDATE log SET prev = -1 WHERE seq = 7",
        "UPDATE records SET last = 'x'",
        "UPDATE records SET last = 1000",
    ],
)
async def test_damaged_link_loses_nothing(store: SqliteStore, path: Path, clock: FakeClock, change: str) -> None:
    await write(store, clock)
    alter(path, change)

    assert await numbers(store) == [9, 7, 5, 3, 1]


async def test_history_continues_after_a_damaged_page(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(LACKS)
    async with open_sqlite(path, exclusive=False) as store:
        await write(store, clock, metadata='{"a":"' + "x" * 2500 + '"}')
    overwrite_page_with(path, b"user 2")

    async with open_sqlite(path, exclusive=False) as store:
        found = await numbers(store)
    assert {9, 1} <= set(found) < {1, 3, 5, 7, 9}
    assert found == sorted(found, reverse=True)


async def test_search_for_the_next_entry_is_bounded(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the search is logged, so that the history does not look complete."""
    expected_logs.add(LACKS)
    await write(store, clock)
    alter(path, "UPDATE log SET prev = 'x' WHERE seq = 7")
    monkeypatch.setattr(history, "SCANNED", 4)

    assert await numbers(store) == [9, 7]


async def test_history_fails_without_the_bounds_of_the_log(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    await write(store, clock)
    alter(path, "DELETE FROM log_bounds")

    with pytest.raises(CorruptRecord):
        await numbers(store)
