"""The files of the SQLite store: removed, replaced and restored under a running service; and a large WAL."""

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
REPLACED_MESSAGE = "store file removed or replaced"
RESTORED_MESSAGE = "store file is back"


def side_file(path: Path, suffix: str) -> Path:
    """Return the path of a file beside the database."""
    return path.with_name(path.name + suffix)


def move_away(path: Path) -> None:
    """Move the file away."""
    path.rename(path.with_name("away"))


def replace(path: Path) -> None:
    """Replace the file by another one with the same content."""
    shutil.copy(path, path.with_name("copy"))
    path.rename(path.with_name("away"))
    path.with_name("copy").rename(path)


def put_back(path: Path) -> None:
    """Restore the file that was moved away."""
    path.with_name("away").replace(path)


def put_record(running: Service, user: str) -> None:
    """Write the record of GUID; raise HTTPError if the write is rejected."""
    body = json.dumps({"user": user}).encode()
    request = urllib.request.Request(f"{running.url}{PATH}", body, method="PUT")
    with urllib.request.urlopen(request, timeout=START_SECONDS) as reply:
        reply.read()


def get_user(running: Service) -> str:
    """Return the user of the record of GUID."""
    with urllib.request.urlopen(f"{running.url}{PATH}", timeout=START_SECONDS) as reply:
        return str(json.load(reply)["user"])


async def cache_hits(client: Client) -> float | None:
    """Return the number of reads that the cache served."""
    return value(await scrape(client), "guidsvc_cache_reads_total", level="l1")


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock"])
@pytest.mark.parametrize("change", [move_away, replace])
async def test_misplaced_file_stops_writes_until_it_is_back(
    serving: Serving,
    path: Path,
    change: Callable[[Path], None],
    suffix: str,
    expected_logs: ExpectedLogs,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_logs.add(REPLACED_MESSAGE, RESTORED_MESSAGE, "request failed", "sweep failed")
    async with serving() as client:
        assert (await client.put(PATH, {"user": "before"})).status == 201
        change(side_file(path, suffix))
        for _ in range(3):
            reply = await client.put(PATH, {"user": "during"})
            assert (reply.status, reply.json["code"]) == (503, "unavailable")
        ready = await until_ready(client, store="replaced")
        assert (ready.status, ready.json["status"]) == (200, "degraded")
        assert (await client.get(PATH)).json["user"] == "before"
        assert (await client.get("/guid")).status in {200, 503}
        if change is move_away:
            assert not side_file(path, suffix).exists(), "no new file takes its place"
        assert len([line for line in caplog.messages if REPLACED_MESSAGE in line]) == 1

        put_back(side_file(path, suffix))
        assert (await client.put(PATH, {"user": "after"})).status == 200
        await until_ready(client, status="ready")
        assert (await client.get("/guid")).json["items"][0]["user"] == "after"
        (restored,) = [line for line in caplog.messages if RESTORED_MESSAGE in line]
        assert f"'files': ['{side_file(path, suffix)}']" in restored, "the log names the restored file"


def test_process_without_claim_reads_writes_of_the_next_owner(tmp_path: Path) -> None:
    """Two services use one file, because an operator deleted the empty lock file."""
    with service(tmp_path) as first:
        put_record(first, "first")
        assert get_user(first) == "first", "the first service caches it now"
        (tmp_path / "guidsvc.db-lock").unlink()
        with service(tmp_path) as second:
            put_record(second, "second")
            wait_until(lambda: get_user(first) == "second", "a read of the second service's write")
            for number in range(20):
                put_record(second, f"second {number}")
                assert get_user(first) == get_user(second) == f"second {number}"
            with pytest.raises(HTTPError, match="503"):
                put_record(first, "lost")
            assert get_user(second) == "second 19"


async def test_cache_is_used_again_when_the_lock_file_is_back(
    serving: Serving, path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(REPLACED_MESSAGE, RESTORED_MESSAGE)
    async with serving() as client:
        await client.put(PATH, {"user": "a"})
        move_away(side_file(path, "-lock"))
        await until_ready(client, store="replaced")
        hits_before = await cache_hits(client)
        for _ in range(3):
            assert (await client.get(PATH)).json["user"] == "a"
        assert await cache_hits(client) == hits_before

        put_back(side_file(path, "-lock"))
        async with asyncio.timeout(START_SECONDS):
            while await cache_hits(client) == hits_before:
                assert (await client.get(PATH)).json["user"] == "a"


async def test_write_that_waited_for_the_next_owner_is_rejected(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """It would be applied after the next owner has begun to cache its reads."""
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=True) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            executed: list[str] = []
            store._engine.writer.connection.set_trace_callback(executed.append)
            write = asyncio.create_task(store.records.swap(None, record(clock())))
            async with asyncio.timeout(START_SECONDS):
                while "BEGIN IMMEDIATE" not in executed:
                    await asyncio.sleep(0.001)
            side_file(path, "-lock").unlink()
            lock.execute("COMMIT")
            with pytest.raises(StoreReplaced):
                await write
        assert await store.records.get(GUID) is None


async def test_store_opened_for_keys_ignores_claims(path: Path) -> None:
    key, _ = keys.generate("alice", ["read"], 1)
    async with open_keys_of(path) as key_repository:
        claim(path, exclusive=True)[0].close()
        assert await key_repository.swap(None, key)


def test_start_without_changes_writes_nothing(path: Path) -> None:
    """So that a worker can start while the disk is full."""
    with closing(open_writer(path)):
        contents = side_file(path, "-wal").read_bytes()
        with closing(open_writer(path)):
            assert side_file(path, "-wal").read_bytes() == contents


async def test_misplaced_file_is_noticed_without_requests(
    path: Path, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=True):
        move_away(path)
        async with asyncio.timeout(START_SECONDS):
            while not any(REPLACED_MESSAGE in line for line in caplog.messages):
                await asyncio.sleep(0.01)


async def test_wal_of_a_replaced_file_is_not_read_for_the_new_one(
    serving: Serving, path: Path, expected_logs: ExpectedLogs
) -> None:
    """The service writes its WAL into the old file at the end; the next start serves the content of the new file."""
    expected_logs.add(REPLACED_MESSAGE, "request failed")
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
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=True) as store:
        acknowledged: list[int] = []

        async def write(writer: int) -> None:
            for number in range(writer, 1_000_000, 8):
                await store.records.swap(None, record(clock(), guid=f"{number:032X}"))
                acknowledged.append(number)

        tasks = [asyncio.create_task(write(writer)) for writer in range(8)]
        async with asyncio.timeout(START_SECONDS):
            while len(acknowledged) < 100:
                await asyncio.sleep(0)
        move_away(path)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome).__name__ for outcome in outcomes} <= {"StoreReplaced", "OutcomeUnknown"}
    with closing(sqlite3.connect(path.with_name("away"))) as moved:
        stored_numbers = {int(guid, 16) for (guid,) in moved.execute("SELECT guid FROM records")}
    assert stored_numbers >= set(acknowledged)


async def test_store_without_its_file_rejects_directly(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(REPLACED_MESSAGE)
    async with open_sqlite(path, exclusive=True) as store:
        path.unlink()
        with pytest.raises(StoreReplaced, match="put it back, or see docs"):
            await store.records.swap(None, record(clock()))


# WAL


async def write_records(store: SqliteStore, clock: FakeClock, count: int) -> None:
    """Write and update records of 1 KiB each."""
    metadata = f'{{"room": "{"x" * 1000}"}}'
    records = [record(clock(), guid=f"{number:032X}", metadata=metadata) for number in range(count)]
    await asyncio.gather(*(store.records.swap(None, each) for each in records))
    for each in records:
        await store.records.swap(each, each.model_copy(update={"version": each.version + 1}))


async def test_wal_grown_by_an_outside_reader_is_truncated(path: Path, clock: FakeClock) -> None:
    limit = 1024 * 1024
    async with open_sqlite(path, exclusive=True, wal_bytes=limit) as store:
        with closing(sqlite3.connect(path)) as outside:
            outside.execute("BEGIN")
            outside.execute("SELECT count(*) FROM records").fetchone()
            await write_records(store, clock, 300)
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
            await write_records(store, clock, 100)
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
        assert value(await scrape(client), "guidsvc_store_wal_bytes") == side_file(path, "-wal").stat().st_size > 0


async def test_metrics_work_when_the_store_folder_became_a_file(
    path: Path, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(REPLACED_MESSAGE)
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
