"""The SQLite event log after an upgrade, beside a process of the previous version, and in a restored copy."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.schedule import MARGIN_SECONDS, EventMode, EventPolicy
from guidsvc.store.sqlite.backup import back_up, salvage
from guidsvc.store.sqlite.schema import MIGRATIONS, open_writer
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from guidsvc.store.sqlite.tables import RECORDS
from tests.conftest import FakeClock
from tests.support.events import (
    advance_all,
    create,
    every_entry,
    kind_counts,
    kinds_and_versions,
    new_records,
    next_version,
)
from tests.support.factories import GUID, record
from tests.support.sqlite_damage import alter

DAY = 86_400
MARGIN = MARGIN_SECONDS * 1000


async def test_older_file_gets_its_schedule(path: Path, clock: FakeClock) -> None:
    dead, gone, alive = (
        record(clock() - DAY * 1000, guid=guid * 32, expire=clock.seconds + expire, purge_at=clock.seconds + purge)
        for guid, expire, purge in (("0", -60, 60), ("1", -60, -30), ("2", 60, 120))
    )
    with closing(open_writer(path, MIGRATIONS[:9])) as older:
        for each in (dead, gone, alive):
            older.execute(*RECORDS.change(None, each)[:2])

    async with open_sqlite(path, exclusive=False) as store:
        assert await store.events.newest() == 0
        await advance_all(store, clock() + MARGIN)
        found = [(entry.kind, entry.guid) for _, entry, _ in await every_entry(store.events)]
        assert found == [("expiring", alive.guid), ("purged", gone.guid)], "no expiry from before the upgrade"
        await advance_all(store, (alive.expire + MARGIN_SECONDS) * 1000)
        assert (await kind_counts(store))["expired"] == 1
        await advance_all(store, (alive.purge_at + MARGIN_SECONDS) * 1000)
        assert (await kind_counts(store))["purged"] == 3


async def test_schedule_of_older_file_is_made_in_chunks(path: Path, clock: FakeClock) -> None:
    with closing(open_writer(path, MIGRATIONS[:9])) as older:
        for each in new_records(clock, 25):
            older.execute(*RECORDS.change(None, each)[:2])

    async with open_sqlite(path, exclusive=False) as store:
        assert [await store.events.advance(clock(), 10) for _ in range(4)] == [10, 10, 5, 0]
    with closing(open_writer(path)) as file:
        assert file.execute("SELECT count(*) FROM records WHERE due IS NULL").fetchone() == (0,)
        assert file.execute("SELECT DISTINCT stage FROM records").fetchall() == [(0,)]


async def test_expiry_during_the_backfill_is_logged_late(path: Path, clock: FakeClock) -> None:
    """The backfill of a large file takes time. A record that expires meanwhile is logged late."""
    soon = new_records(clock, 25, expire=clock.seconds + 5, purge_at=clock.seconds + DAY)
    over = record(clock() - 9000, guid="F" * 32, expire=clock.seconds - 1, purge_at=clock.seconds + DAY)
    with closing(open_writer(path, MIGRATIONS[:9])) as older:
        for each in (*soon, over):
            older.execute(*RECORDS.change(None, each)[:2])
    async with open_sqlite(path, clock=clock, exclusive=False):
        clock.advance(seconds=60)

    async with open_sqlite(path, clock=clock, exclusive=False) as store:
        late = 60 - 5 - MARGIN_SECONDS
        for _ in range(3):
            assert await store.events.lag(clock()) == late
            await store.events.advance(clock(), 10)
        await advance_all(store, clock())
        assert await store.events.lag(clock()) == 0
        assert {entry.guid for _, entry, _ in await every_entry(store.events)} == {each.guid for each in soon}
        assert await kind_counts(store) == {"expired": 25}


@pytest.mark.parametrize("mode", ["all", "off"])
async def test_schedule_of_older_file_equals_that_of_new_records(path: Path, clock: FakeClock, mode: EventMode) -> None:
    policy = EventPolicy(mode, (100, 7))
    lives = (-5, 0, 1, 13, 14, 29, 30, 60, 199, 200, 5000)
    records = [
        record(clock(), guid=f"{number:032X}", expire=clock.seconds + life, purge_at=clock.seconds + DAY)
        for number, life in enumerate(lives)
    ]
    with closing(open_writer(path, MIGRATIONS[:9])) as older:
        for each in records:
            older.execute(*RECORDS.change(None, each)[:2])
    async with open_sqlite(path, clock=lambda: clock() - DAY * 1000, exclusive=False, events=policy) as store:
        assert await store.events.advance(clock() - DAY * 1000, 100) == len(records)
    with closing(sqlite3.connect(path)) as file:
        found = file.execute("SELECT stage, due FROM records ORDER BY guid").fetchall()
    assert found == [policy.first(each) for each in records]


async def test_restored_backup_detects_later_cursors(path: Path, clock: FakeClock) -> None:
    copy = path.with_name("copy.db")
    first, lost, instead = new_records(clock, 3)
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, [first])
        back_up(path, copy, overwrite=False)
        await create(store, [lost])
        bounds = await store.events.bounds()
    copy.replace(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

    async with open_sqlite(path, exclusive=False) as store:
        restored = await store.events.bounds()
        assert (restored.key, restored.newest) == (bounds.key, 1)
        assert await store.events.checksum(bounds.newest) is None
        await create(store, [instead])
        assert await store.events.checksum(bounds.newest) not in {None, bounds.newest_checksum}


async def test_salvaged_log_begins_after_its_last_gap(path: Path, clock: FakeClock) -> None:
    copy = path.with_name("copy.db")
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, new_records(clock, 20))
        numbered = await every_entry(store.events)
        size_bytes, _ = await store.events.size()
    alter(path, "DELETE FROM log WHERE seq IN (3, 8)")
    salvage(path, copy, overwrite=False)

    async with open_sqlite(copy, exclusive=False) as store:
        assert await every_entry(store.events) == numbered[8:]
        assert (await store.events.bounds()).floor == 8
        assert 0 < (await store.events.size())[0] < size_bytes
        assert len(await store.events.history(numbered[10].entry.guid, 100, 5)) == 1
        await create(store, [record(clock())])
        assert await store.events.newest() == 21


async def test_salvaged_store_without_log_begins_a_new_one(path: Path, clock: FakeClock) -> None:
    copy = path.with_name("copy.db")
    old = record(clock())
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, [*new_records(clock, 5), old])
    with closing(sqlite3.connect(path)) as file:
        file.executescript("DELETE FROM log; DELETE FROM log_bounds; UPDATE records SET last = 1 WHERE guid > '8'")
    salvage(path, copy, overwrite=False)

    async with open_sqlite(copy, exclusive=False) as store:
        assert (await store.events.bounds())[1:] == (0, 0, 0, 0)
        await create(store, [record(clock(), guid="F" * 32)])
        await store.records.swap(old, next_version(old, clock() + 1, user="b"))
        history = await store.events.history(GUID, 100, 5)
        assert kinds_and_versions([entry for _, entry, _ in history]) == [("updated", clock() + 1)], (
            "no entry of another GUID"
        )


async def test_writes_of_older_process_get_their_schedule(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    """A process of the previous version may still write to the migrated file. Its writes have no events."""
    old = record(clock(), expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    other = record(clock(), guid="0" * 32, expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    longer = next_version(other, clock() + 1, expire=clock.seconds + 20, purge_at=clock.seconds + 25)
    await create(store, [other])
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute(*RECORDS.change(None, old)[:2])
        older.execute(*RECORDS.change(other, longer)[:2])

    await advance_all(store, clock())
    await advance_all(store, clock() + 5000 + MARGIN)
    assert await store.records.get(other.guid) == longer
    await advance_all(store, clock() + 20_000 + MARGIN)
    await advance_all(store, clock() + 25_000 + MARGIN)
    found = [(entry.kind, entry.guid) for _, entry, _ in await every_entry(store.events)]
    assert [kind for kind, guid in found if guid == old.guid] == ["expired", "purged"]
    assert [kind for kind, guid in found if guid == other.guid] == ["created", "expired", "purged"]
