"""A damaged key of a SQLite store, which misleads searches: the service finds it by itself, and says so."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.store.sqlite.files import StoreFiles
from guidsvc.store.sqlite.recovery import key_order
from guidsvc.store.sqlite.recovery.key_order import CheckTimes, KeyCheck, find_disorder
from guidsvc_client import AsyncClient
from tests.conftest import ExpectedLogs, Serving
from tests.support.backing_servers import START_SECONDS, service, wait_until
from tests.support.http_client import Client
from tests.support.readiness import until_ready
from tests.support.sqlite_damage import alter, change_key_in_root, overwrite_root
from tests.support.stored_records import GUIDS, fill_store

DISORDER = "the keys of records are out of order"


@pytest.fixture
async def file(tmp_path: Path, serving: Serving) -> Path:
    """The file of a store with records."""
    async with serving() as client:
        await fill_store(client)
    return tmp_path / "guidsvc.db"


def check_of(file: Path, found: list[str], limit_seconds: float = START_SECONDS) -> KeyCheck:
    """Return a check of a file that begins at once."""
    times = CheckTimes(first_seconds=(0, 0), pause_seconds=0.01, limit_seconds=limit_seconds)
    return KeyCheck(StoreFiles(file, is_claimed=False), found.append, times)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(START_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_service_finds_a_damaged_key_and_is_degraded(tmp_path: Path, file: Path) -> None:
    guid = change_key_in_root(file, "records")
    with service(tmp_path, "--no-access-log") as running:
        client = Client(running.port)
        assert guid in GUIDS
        assert (await client.get(f"/guid/{guid}")).status == 404
        ready = await until_ready(client, status="degraded")
        assert (ready.status, ready.json["store"], ready.json["damage"]) == (200, "up", DISORDER)
        async with AsyncClient(running.url) as guids:
            assert (await guids.ready()).damage == DISORDER
        line = "store damaged, GUIDs that exist may be absent"
        await asyncio.to_thread(wait_until, lambda: line in running.log.read_text(), line, running.log)
        assert (await client.put("/guid", {"user": "x"})).status == 201
        await client.aclose()


async def test_check_finds_nothing_in_a_whole_store(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        assert find_disorder(connection) is None


async def test_check_finds_a_key_of_another_type(file: Path) -> None:
    alter(file, "UPDATE records SET guid = x'00' WHERE guid = ?", GUIDS[7])
    with closing(sqlite3.connect(file)) as connection:
        assert find_disorder(connection) == DISORDER


async def test_check_finds_a_damaged_page(file: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("store damaged")
    overwrite_root(file, "records")
    found: list[str] = []
    with closing(sqlite3.connect(file)) as connection:  # so that there is a log
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        await asyncio.wait_for(check_of(file, found).run(), START_SECONDS)
    assert found == ["database disk image is malformed"]


async def test_check_finds_a_key_that_is_not_text(file: Path, expected_logs: ExpectedLogs) -> None:
    """Its message must not show the key."""
    expected_logs.add("store damaged")
    alter(file, "UPDATE records SET guid = CAST(x'FF41' AS TEXT) WHERE guid = ?", GUIDS[7])
    found: list[str] = []
    await asyncio.wait_for(check_of(file, found).run(), START_SECONDS)
    assert found == ["a key is not valid UTF-8"]


async def test_check_that_finds_nothing_is_repeated(file: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("store damaged")
    found: list[str] = []
    task = asyncio.create_task(check_of(file, found).run())
    await asyncio.sleep(0)
    change_key_in_root(file, "records")
    await asyncio.wait_for(task, START_SECONDS)
    assert found == [DISORDER]


async def test_check_ends_at_its_time_limit(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_order, "SLICE_KEYS", 1)
    found: list[str] = []
    task = asyncio.create_task(check_of(file, found, limit_seconds=0).run())
    await until(lambda: "order of keys not checked to its end" in caplog.text)
    task.cancel()
    assert found == []


async def test_cancelled_check_ends_soon(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would delay the end of the service."""
    monkeypatch.setattr(key_order, "SLICE_KEYS", 1)
    monkeypatch.setattr(key_order, "PAUSE_SECONDS", 0.05)
    ended: list[float] = []
    check = check_of(file, [])
    look = check._check

    def noted_check() -> str | None:
        try:
            return look()
        finally:
            ended.append(time.monotonic())

    monkeypatch.setattr(check, "_check", noted_check)
    task = asyncio.create_task(check.run())
    await asyncio.sleep(0.1)
    task.cancel()
    await until(lambda: len(ended) == 1)


async def test_replaced_file_is_not_checked(file: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("store file removed or replaced", "order of keys not checked")
    found: list[str] = []
    check = check_of(file, found)
    file.rename(file.with_name("moved.db"))
    assert await check._check_in_thread() is None
    assert found == []
