"""What an upgrade, a copy, damage and a crash leave of the event log of the SQLite store."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.schedule import MARGIN_SECONDS, EventMode, EventPolicy
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord, StoreUnavailable
from guidsvc.store.sqlite.backup import back_up, salvage
from guidsvc.store.sqlite.events import due_steps
from guidsvc.store.sqlite.schema import MIGRATIONS, open_writer
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from guidsvc.store.sqlite.tables import RECORDS
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.events import ALL, advance_all, changed, create, every_entry, ids, kinds, made
from tests.support.factories import GUID, record

DAY = 86_400
MARGIN = MARGIN_SECONDS * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(path, exclusive=False) as opened:
        yield opened


# Upgrades and copies


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
        found = [(entry.kind, entry.guid) for _, entry in await every_entry(store.events)]
        assert found == [("expiring", alive.guid), ("purged", gone.guid)], "not what has expired before the upgrade"
        await advance_all(store, (alive.expire + MARGIN_SECONDS) * 1000)
        assert (await kinds(store))["expired"] == 1
        await advance_all(store, (alive.purge_at + MARGIN_SECONDS) * 1000)
        assert (await kinds(store))["purged"] == 3


async def test_schedule_of_older_file_is_made_in_chunks(path: Path, clock: FakeClock) -> None:
    with closing(open_writer(path, MIGRATIONS[:9])) as older:
        for each in made(clock, 25):
            older.execute(*RECORDS.change(None, each)[:2])

    async with open_sqlite(path, exclusive=False) as store:
        assert [await store.events.advance(clock(), 10) for _ in range(4)] == [10, 10, 5, 0]
    with closing(open_writer(path)) as file:
        assert file.execute("SELECT count(*) FROM records WHERE due IS NULL").fetchone() == (0,)
        assert file.execute("SELECT DISTINCT stage FROM records").fetchall() == [(0,)]


async def test_expiry_between_upgrade_and_turn_is_logged(path: Path, clock: FakeClock) -> None:
    """The schedule of a large file takes its time: what expires meanwhile is late, and not lost."""
    soon = made(clock, 25, expire=clock.seconds + 5, purge_at=clock.seconds + DAY)
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
        assert {entry.guid for _, entry in await every_entry(store.events)} == {each.guid for each in soon}
        assert await kinds(store) == {"expired": 25}


@pytest.mark.parametrize("mode", ["all", "off"])
async def test_schedule_of_older_file_is_that_of_new_records(path: Path, clock: FakeClock, mode: EventMode) -> None:
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


async def test_restored_backup_knows_later_cursors(path: Path, clock: FakeClock) -> None:
    copy = path.with_name("copy.db")
    first, lost, instead = made(clock, 3)
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
        await create(store, made(clock, 20))
        numbered = await every_entry(store.events)
        size_bytes, _ = await store.events.size()
    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM log WHERE seq IN (3, 8)")
        file.commit()
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
        await create(store, [*made(clock, 5), old])
    with closing(sqlite3.connect(path)) as file:
        file.executescript("DELETE FROM log; DELETE FROM log_bounds; UPDATE records SET last = 1 WHERE guid > '8'")
    salvage(path, copy, overwrite=False)

    async with open_sqlite(copy, exclusive=False) as store:
        assert (await store.events.bounds())[1:] == (0, 0, 0, 0)
        await create(store, [record(clock(), guid="F" * 32)])
        await store.records.swap(old, changed(old, clock() + 1, user="b"))
        history = await store.events.history(GUID, 100, 5)
        assert ids([entry for _, entry in history]) == [("updated", clock() + 1)], "not the entry of another GUID"


# Damage


def damage(path: Path, table: str, pages: int = 1) -> None:
    """Overwrite the root of a table or an index."""
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as damaged:
        damaged.seek((root - 1) * size)
        damaged.write(b"\xff" * size * pages)


async def test_damaged_log_fails_its_readers_only(path: Path, clock: FakeClock) -> None:
    old = record(clock())
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, [old])
    damage(path, "log")

    async with open_sqlite(path, exclusive=False) as store:
        await store.ping()
        assert await store.records.get(GUID) == old
        with pytest.raises(CorruptRecord):
            await store.events.read(0, 10, ALL)


@pytest.mark.parametrize("column", ["user = ''", "expire = 'soon'", "user = CAST(x'ff41' AS TEXT)"])
async def test_invalid_row_holds_up_no_other(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs, column: str
) -> None:
    expected_logs.add("record damaged, its expiry is not logged")
    bad, good = made(clock, 2, expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    await create(store, [bad, good])
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"UPDATE records SET {column} WHERE guid = ?", (bad.guid,))
        file.commit()

    await advance_all(store, clock() + 5000 + MARGIN)
    assert [entry.guid for _, entry in await every_entry(store.events) if entry.kind == "expired"] == [good.guid]
    await advance_all(store, clock() + 10_000 + MARGIN)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM records").fetchone() == (0,), "also the invalid row is purged"


@pytest.mark.parametrize(
    "column", ["stage = 'x'", "last = 'x'", "due = 'x'", "due = 1.5", "stage = CAST(x'ff41' AS TEXT)"]
)
async def test_damaged_schedule_holds_up_no_other(
    store: SqliteStore, path: Path, clock: FakeClock, expected_logs: ExpectedLogs, column: str
) -> None:
    expected_logs.add("record damaged, its expiry is not logged")
    bad, good = made(clock, 2, expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    await create(store, [bad, good])
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE records SET due = 1 WHERE guid = ?", (bad.guid,))
        file.execute(f"UPDATE records SET {column} WHERE guid = ?", (bad.guid,))
        file.commit()

    assert await store.events.lag(clock()) >= 0
    await advance_all(store, clock() + 5000 + MARGIN)
    assert [entry.guid for _, entry in await every_entry(store.events) if entry.kind == "expired"] == [good.guid]
    await advance_all(store, clock() + 10_000 + MARGIN)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM records").fetchone() == (0,), "also the damaged row is purged"


@pytest.mark.parametrize("column", ["stage = 'x'", "last = 'x'", "due = 'x'"])
async def test_damaged_schedule_is_mended_by_a_write(
    store: SqliteStore, path: Path, clock: FakeClock, column: str
) -> None:
    old = record(clock(), expire=clock.seconds + 5)
    await create(store, [old])
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"UPDATE records SET {column}")
        file.commit()

    assert await store.records.swap(old, changed(old, clock() + 9000, expire=clock.seconds + 50))
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT typeof(due), typeof(stage), typeof(last) FROM records").fetchone() == (
            "integer",
            "integer",
            "integer",
        )


async def damage_row(path: Path, clock: FakeClock) -> list[Record]:
    """Store records that expire soon, and damage a page of some of them; return all."""
    metadata = '{"a":"' + "x" * 1500 + '"}'
    records = made(clock, 40, expire=clock.seconds + 5, purge_at=clock.seconds + DAY, metadata=metadata)
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, records)
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    place = content.index(records[20].guid.encode() + b"Cylance") // 4096
    path.write_bytes(content[: place * 4096] + b"\xff" * 4096 + content[(place + 1) * 4096 :])
    return records


async def test_damaged_page_holds_up_no_other(path: Path, clock: FakeClock, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("record damaged, its expiry is not logged")
    records = await damage_row(path, clock)

    async with open_sqlite(path, exclusive=False) as store:
        await advance_all(store, clock() + 5000 + MARGIN)
        expired = {entry.guid for _, entry in await every_entry(store.events) if entry.kind == "expired"}
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
    """Then the whole store is in doubt: the outage is logged, and nothing else is remembered."""
    monkeypatch.setattr(due_steps, "MAX_DAMAGED", 0)
    await damage_row(path, clock)

    async with open_sqlite(path, exclusive=False) as store:
        with pytest.raises(CorruptRecord):
            await advance_all(store, clock() + 5000 + MARGIN)


async def test_writes_of_older_process_get_their_schedule(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    """A process of the version before may still write the migrated file: its writes have no events, and do no harm."""
    old = record(clock(), expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    other = record(clock(), guid="0" * 32, expire=clock.seconds + 5, purge_at=clock.seconds + 10)
    longer = changed(other, clock() + 1, expire=clock.seconds + 20, purge_at=clock.seconds + 25)
    await create(store, [other])
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute(*RECORDS.change(None, old)[:2])
        older.execute(*RECORDS.change(other, longer)[:2])

    await advance_all(store, clock())
    await advance_all(store, clock() + 5000 + MARGIN)
    assert await store.records.get(other.guid) == longer
    await advance_all(store, clock() + 20_000 + MARGIN)
    await advance_all(store, clock() + 25_000 + MARGIN)
    found = [(entry.kind, entry.guid) for _, entry in await every_entry(store.events)]
    assert [kind for kind, guid in found if guid == old.guid] == ["expired", "purged"]
    assert [kind for kind, guid in found if guid == other.guid] == ["created", "expired", "purged"]


async def test_full_disk_fails_the_write_and_trim_makes_room(store: SqliteStore, clock: FakeClock) -> None:
    """A full disk is what refuses, not the log: what it has cut off is room for new records."""
    writer = store._engine.writer.connection
    await create(store, made(clock, 2000))
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    more = [record(clock(), guid=f"F{number:031X}") for number in range(2000)]
    answers = await asyncio.gather(*(store.records.swap(None, each) for each in more), return_exceptions=True)
    assert StoreUnavailable in map(type, answers)

    while await store.events.trim(0, 0, 500):
        pass
    for number in range(300):
        assert await store.records.swap(None, record(clock(), guid=f"E{number:031X}"))


# A crash

CRASH = """
import asyncio, json, sys, time
from pathlib import Path
from guidsvc.domain.record import Record
from guidsvc.store.sqlite.store import open_sqlite

async def main(path, number):
    clock = lambda: time.time_ns() // 1_000_000
    async with open_sqlite(Path(path), exclusive=False) as store:
        async def write(place):
            guid, version = f"{number:016X}{place:016X}", clock()
            old = None
            while True:
                seconds = version // 1000
                new = Record(guid=guid, user="u", expire=seconds + (0 if version % 3 else 60), version=version,
                             created=version, updated=version, purge_at=seconds + 600)
                if not await store.records.swap(old, new):
                    raise SystemExit("lost a race")
                print(json.dumps([guid, version]), flush=True)
                old, version = new, max(version + 1, clock())

        async def advance():
            while True:
                await store.events.advance(clock() + 2000, 50)
                await asyncio.sleep(0.001)

        await asyncio.gather(advance(), *(write(place) for place in range(20)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_kill_leaves_each_acknowledged_write_one_entry(path: Path) -> None:
    acknowledged: list[tuple[str, int]] = []
    for number, count in enumerate((200, 350, 500)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CRASH, str(path), str(number), stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(count)]
        os.kill(process.pid, signal.SIGKILL)
        lines += (await process.stdout.read()).splitlines(keepends=True)
        assert await process.wait() == -signal.SIGKILL
        acknowledged += [tuple(json.loads(line)) for line in lines if line.endswith(b"\n")]

    async with open_sqlite(path, exclusive=False) as store:
        numbered = await every_entry(store.events)
        assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
        writes = Counter(
            (entry.guid, entry.version) for _, entry in numbered if entry.kind in {"created", "updated", "renewed"}
        )
        assert set(writes.values()) == {1}
        assert set(acknowledged) <= set(writes)
        assert len(writes) - len(acknowledged) <= 3 * 20, "at most those that were under way"
        assert max(Counter(entry.id for _, entry in numbered).values()) == 1
        for guid in {guid for guid, _ in writes}:
            versions = [entry.version for _, entry in numbered if entry.guid == guid]
            assert versions == sorted(versions)
            stored = await store.records.get(guid)
            assert stored is not None
            assert stored.version == versions[-1]
