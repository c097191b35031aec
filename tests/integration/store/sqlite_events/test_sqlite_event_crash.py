"""The SQLite event log after a crash, and on a full disk."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from guidsvc.errors import StoreUnavailable
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from tests.conftest import FakeClock
from tests.support.backing_servers import ROOT
from tests.support.events import create, every_entry, new_records
from tests.support.factories import record


async def test_full_disk_fails_writes_until_a_trim(store: SqliteStore, clock: FakeClock) -> None:
    """The disk rejects the write, not the log. Trimmed entries leave space for new records."""
    writer = store._engine.writer.connection
    await create(store, new_records(clock, 2000))
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    more = [record(clock(), guid=f"F{number:031X}") for number in range(2000)]
    answers = await asyncio.gather(*(store.records.swap(None, each) for each in more), return_exceptions=True)
    assert StoreUnavailable in map(type, answers)

    while await store.events.trim(0, 0, 500):
        pass
    for number in range(300):
        assert await store.records.swap(None, record(clock(), guid=f"E{number:031X}"))


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
            sys.executable, "-c", CRASH, str(path), str(number), stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        lines = [await process.stdout.readline() for _ in range(count)]
        os.kill(process.pid, signal.SIGKILL)
        lines += (await process.stdout.read()).splitlines(keepends=True)
        assert await process.wait() == -signal.SIGKILL
        acknowledged += [tuple(json.loads(line)) for line in lines if line.endswith(b"\n")]

    async with open_sqlite(path, exclusive=False) as store:
        numbered = await every_entry(store.events)
        assert [number for number, *_ in numbered] == list(range(1, len(numbered) + 1))
        writes = Counter(
            (entry.guid, entry.version) for _, entry, _ in numbered if entry.kind in {"created", "updated", "renewed"}
        )
        assert set(writes.values()) == {1}
        assert set(acknowledged) <= set(writes)
        assert len(writes) - len(acknowledged) <= 3 * 20, "at most the writes in flight may be unacknowledged"
        assert max(Counter(entry.id for _, entry, _ in numbered).values()) == 1
        for guid in {guid for guid, _ in writes}:
            versions = [entry.version for _, entry, _ in numbered if entry.guid == guid]
            assert versions == sorted(versions)
            stored = await store.records.get(guid)
            assert stored is not None
            assert stored.version == versions[-1]
