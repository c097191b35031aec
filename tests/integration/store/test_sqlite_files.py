"""The files of the SQLite store: removed, replaced and put back under a running service; and a log that has grown."""

import asyncio
import json
import shutil
import sqlite3
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError

import pytest

from guidsvc.domain import api_key as keys
from guidsvc.errors import StoreReplaced
from guidsvc.store.sqlite.files import WAL_BYTES
from guidsvc.store.sqlite.schema import claim, open_writer
from guidsvc.store.sqlite.store import SqliteStore, open_keys_of, open_sqlite
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.backing_servers import START_SECONDS, Service, service, wait_until
from tests.support.factories import GUID, record
from tests.support.http_client import Client
from tests.support.metrics import scrape, value
from tests.support.readiness import until_ready

PATH = f"/guid/{GUID}"
TOLD = "store file removed or replaced"
BACK = "store file is back"


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file beside the database."""
    return path.with_name(path.name + suffix)


def remove(path: Path) -> None:
    """Move the file away."""
    path.rename(path.with_name("away"))


def replace(path: Path) -> None:
    """Put another file in its place, with the same content."""
    shutil.copy(path, path.with_name("copy"))
    path.rename(path.with_name("away"))
    path.with_name("copy").rename(path)


def put_back(path: Path) -> None:
    """Put the file back that was moved away."""
    path.with_name("away").replace(path)


def put(running: Service, user: str) -> None:
    """Write the record of GUID; HTTPError if that is refused."""
    body = json.dumps({"user": user}).encode()
    request = urllib.request.Request(f"{running.url}{PATH}", body, method="PUT")
    with urllib.request.urlopen(request, timeout=START_SECONDS) as reply:
        reply.read()


def get(running: Service) -> str:
    """Return the user of GUID."""
    with urllib.request.urlopen(f"{running.url}{PATH}", timeout=START_SECONDS) as reply:
        return str(json.load(reply)["user"])


async def hits(client: Client) -> float | None:
    """Return how many reads the cache has answered."""
    return value(await scrape(client), "guidsvc_cache_reads_total", level="l1")


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock"])
@pytest.mark.parametrize("change", [remove, replace])
async def test_misplaced_file_stops_writes_until_it_is_back(
    serving: Serving,
    path: Path,
    change: Callable[[Path], None],
    suffix: str,
    expected_logs: ExpectedLogs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_logs.add(TOLD, BACK, "request failed", "sweep failed")
    async with serving() as client:
        assert (await client.put(PATH, {"user": "before"})).status == 201
        change(beside(path, suffix))
        for _ in range(3):
            refused = await client.put(PATH, {"user": "during"})
            assert (refused.status, refused.json["code"]) == (503, "unavailable")
        ready = await until_ready(client, store="replaced")
        assert (ready.status, ready.json["status"]) == (200, "degraded")
        assert (await client.get(PATH)).json["user"] == "before"
        assert (await client.get("/guid")).status in {200, 503}
        if change is remove:
            assert not beside(path, suffix).exists(), "nobody makes a new one in its place"
        assert len([line for line in caplog.messages if TOLD in line]) == 1

        put_back(beside(path, suffix))
        assert (await client.put(PATH, {"user": "after"})).status == 200
        await until_ready(client, status="ready")
        assert (await client.get("/guid")).json["items"][0]["user"] == "after"
        (back,) = [line for line in caplog.messages if BACK in line]
        assert f"'files': ['{beside(path, suffix)}']" in back, "the file that was away"


def test_process_without_claim_reads_writes_of_the_next_owner(tmp_path: Path) -> None:
    """Two services on one file, because somebody took the empty lock file for a leftover."""
    with service(tmp_path) as first:
        put(first, "first")
        assert get(first) == "first", "which is in its cache now"
        (tmp_path / "guidsvc.db-lock").unlink()
        with service(tmp_path) as second:
            put(second, "second")
            wait_until(lambda: get(first) == "second", "a read of what another process wrote")
            for number in range(20):
                put(second, f"second {number}")
                assert get(first) == get(second) == f"second {number}"
            with pytest.raises(HTTPError, match="503"):
                put(first, "lost")
            assert get(second) == "second 19"


async def test_cache_is_used_again_when_the_lock_file_is_back(
    serving: Serving, path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(TOLD, BACK)
    async with serving() as client:
        await client.put(PATH, {"user": "a"})
        remove(beside(path, "-lock"))
        await until_ready(client, store="replaced")
        before = await hits(client)
        for _ in range(3):
            assert (await client.get(PATH)).json["user"] == "a"
        assert await hits(client) == before

        put_back(beside(path, "-lock"))
        async with asyncio.timeout(START_SECONDS):
            while await hits(client) == before:
                assert (await client.get(PATH)).json["user"] == "a"


async def test_write_that_waited_for_the_next_owner_is_rejected(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """It would land after the other has begun to cache what it reads."""
    expected_logs.add(TOLD)
    async with open_sqlite(path, exclusive=True) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begun: list[str] = []
            store._engine.writer.connection.set_trace_callback(begun.append)
            writing = asyncio.create_task(store.records.swap(None, record(clock())))
            async with asyncio.timeout(START_SECONDS):
                while "BEGIN IMMEDIATE" not in begun:
                    await asyncio.sleep(0.001)
            beside(path, "-lock").unlink()
            other.execute("COMMIT")
            with pytest.raises(StoreReplaced):
                await writing
        assert await store.records.get(GUID) is None


async def test_store_opened_for_keys_ignores_claims(path: Path) -> None:
    key, _ = keys.generate("alice", ["read"], 1)
    async with open_keys_of(path) as opened:
        claim(path, exclusive=True)[0].close()
        assert await opened.swap(None, key)


def test_start_without_changes_writes_nothing(path: Path) -> None:
    """So that a worker can be started while the disk is full."""
    with closing(open_writer(path)):
        before = beside(path, "-wal").read_bytes()
        with closing(open_writer(path)):
            assert beside(path, "-wal").read_bytes() == before


async def test_misplaced_file_is_noticed_without_requests(
    path: Path, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add(TOLD)
    async with open_sqlite(path, exclusive=True):
        remove(path)
        async with asyncio.timeout(START_SECONDS):
            while not any(TOLD in line for line in caplog.messages):
                await asyncio.sleep(0.01)


async def test_wal_of_a_replaced_file_is_not_read_for_the_new_one(
    serving: Serving, path: Path, expected_logs: ExpectedLogs
) -> None:
    """The service ends with its log written into the old file; the next start serves what the new file holds."""
    expected_logs.add(TOLD, "request failed")
    async with serving() as client:
        await client.put(PATH, {"user": "restored"})
    shutil.copy(path, path.with_name("backup"))
    async with serving() as client:
        await client.put(PATH, {"user": "of the old file"})
        path.with_name("backup").replace(path)
        await until_ready(client, store="replaced")
    async with serving() as client:
        assert (await client.get(PATH)).json["user"] == "restored"


async def test_acknowledged_write_is_in_the_file_moved_away_later(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(TOLD)
    async with open_sqlite(path, exclusive=True) as store:
        acknowledged: list[int] = []

        async def write(writer: int) -> None:
            for number in range(writer, 1_000_000, 8):
                await store.records.swap(None, record(clock(), guid=f"{number:032X}"))
                acknowledged.append(number)

        writing = [asyncio.create_task(write(writer)) for writer in range(8)]
        async with asyncio.timeout(START_SECONDS):
            while len(acknowledged) < 100:
                await asyncio.sleep(0)
        remove(path)
        ends = await asyncio.gather(*writing, return_exceptions=True)
        assert {type(end).__name__ for end in ends} <= {"StoreReplaced", "OutcomeUnknown"}
    with closing(sqlite3.connect(path.with_name("away"))) as moved:
        there = {int(guid, 16) for (guid,) in moved.execute("SELECT guid FROM records")}
    assert there >= set(acknowledged)


async def test_store_without_its_file_rejects_directly(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(TOLD)
    async with open_sqlite(path, exclusive=True) as store:
        path.unlink()
        with pytest.raises(StoreReplaced, match="put it back, or restart"):
            await store.records.swap(None, record(clock()))


# The log


async def write_much(store: SqliteStore, clock: FakeClock, count: int) -> None:
    """Write records of 1 KiB each."""
    metadata = f'{{"room": "{"x" * 1000}"}}'
    made = [record(clock(), guid=f"{number:032X}", metadata=metadata) for number in range(count)]
    await asyncio.gather(*(store.records.swap(None, each) for each in made))
    for each in made:
        await store.records.swap(each, each.model_copy(update={"version": each.version + 1}))


async def test_wal_grown_by_an_outside_reader_is_truncated(path: Path, clock: FakeClock) -> None:
    limit = 1024 * 1024
    async with open_sqlite(path, exclusive=True, wal_bytes=limit) as store:
        with closing(sqlite3.connect(path)) as outside:
            outside.execute("BEGIN")
            outside.execute("SELECT count(*) FROM records").fetchone()
            await write_much(store, clock, 300)
            assert store.files.wal_bytes() > limit
        async with asyncio.timeout(START_SECONDS):
            while store.files.wal_bytes() > limit:
                await asyncio.sleep(0.01)
        assert await store.records.swap(None, record(clock(), guid="F" * 32))


async def test_active_reader_delays_nothing(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=True) as store:
        with closing(sqlite3.connect(path)) as outside:
            outside.execute("BEGIN")
            outside.execute("SELECT count(*) FROM records").fetchone()
            await write_much(store, clock, 100)
            for number in range(20):
                await store.shrink_wal(0)
                assert await store.records.swap(None, record(clock(), guid=f"F{number:031X}"))
            assert store.files.wal_bytes() > 0
        await store.shrink_wal(0)
        assert store.files.wal_bytes() == 0


async def test_sqlite_itself_limits_the_wal(path: Path) -> None:
    async with open_sqlite(path, exclusive=True) as store:
        (limit,) = store._engine.writer.connection.execute("PRAGMA journal_size_limit").fetchone()
        assert limit == WAL_BYTES


async def test_wal_size_is_a_metric(serving: Serving, path: Path) -> None:
    async with serving() as client:
        await client.put(PATH, {"user": "a"})
        assert value(await scrape(client), "guidsvc_store_wal_bytes") == beside(path, "-wal").stat().st_size > 0


async def test_metrics_work_when_the_store_folder_became_a_file(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(TOLD)
    folder = path.parent / "folder"
    folder.mkdir()
    async with open_sqlite(folder / "guidsvc.db", exclusive=True) as store:
        folder.rename(path.parent / "moved")
        folder.write_text("")
        assert store.files.wal_bytes() == 0
        with pytest.raises(StoreReplaced):
            await store.records.swap(None, record(clock()))


async def test_wal_metric_is_absent_without_a_wal(serving: Serving, mongo_url: str) -> None:
    async with serving(store_url=mongo_url) as client:
        assert isinstance(client, Client)
        assert not any(name == "guidsvc_store_wal_bytes" for name, _ in await scrape(client))
