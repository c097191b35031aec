"""The bound on the stored records of an owner, live or expired, in addition to the quota of live records."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.api.resources.batch.executor import GROUP
from guidsvc.errors import QuotaExceeded
from guidsvc.services import retention_quota
from guidsvc.services.retention_quota import ROOM_MS, STORED_PER_LIVE, open_quotas
from guidsvc.store import open_store
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.lease import LeaseClock
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID, record
from tests.support.http_client import Client

QUOTA = 5
MAX_STORED = QUOTA * STORED_PER_LIVE


@pytest.fixture
async def database(sqlite_url: str) -> AsyncIterator[Database]:
    async with open_store(sqlite_url, exclusive=False) as opened:
        yield opened


async def create_when_possible(client: Client) -> None:
    """Create a GUID once there is room, which a process may notice slightly later."""
    while (await client.ask("PUT", "/guid", json={"user": "a"})).status != 201:
        await asyncio.sleep(0.01)


async def test_records_created_expired_are_bounded_too(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """By PUT, in a batch, and by expiry. Deleted records and those past their retention free their places."""
    async with serving(**combination, quota=QUOTA, retention=60) as client:
        expired = [{"op": "put", "user": "a", "expire": "0"}] * (2 * MAX_STORED)
        reply = await client.ask("POST", "/guid:batch", json={"operations": expired})
        statuses = [result["status"] for result in reply.json["results"]]
        created = statuses.count(201)
        assert statuses.count(403) == 2 * MAX_STORED - created
        assert created == MAX_STORED
        for method in ("PUT", "POST"):
            reply = await client.ask(method, "/guid", json={"user": "a"})
            assert (reply.status, reply.json["code"]) == (403, "quota-exceeded")
            assert "live or expired" in reply.json["detail"]
        listed = (await client.get(f"/guid?state=all&limit={created - MAX_STORED + 1}")).json["items"]
        for item in listed:
            assert (await client.ask("DELETE", f"/guid/{item['guid']}")).status == 204
        async with asyncio.timeout(30):
            await create_when_possible(client)
            assert (await client.ask("PUT", "/guid", json={"user": "a"})).status == 403
            clock.advance(seconds=61)
            await create_when_possible(client)


async def test_dry_run_reports_the_limit_as_the_batch_meets_it(serving: Serving, combination: dict[str, str]) -> None:
    """For creations and deletions of stored records and of records that the batch itself creates."""
    creations = [{"guid": f"{number:032X}", "user": "a", "expire": 0} for number in range(2 * MAX_STORED)]
    deletions = [{"op": "delete", "guid": item["guid"]} for item in creations[: MAX_STORED // 2]]
    more_creations = [{"guid": f"F{number:031X}", "user": "a", "expire": 0} for number in range(MAX_STORED)]
    reads = [{"op": "get", "guid": GUID}] * (GROUP - len(deletions))  # so that all deletions come first
    batches = (creations, [*deletions, *reads, *more_creations], [{"user": "a", "expire": 0}] * (MAX_STORED + 9))
    async with serving(**combination, quota=QUOTA) as client:
        for operations in batches:
            counts = []
            for query in ("?validate_only=true", ""):
                reply = await client.ask("POST", f"/guid:batch{query}", json={"operations": operations})
                statuses = [result["status"] for result in reply.json["results"]]
                counts.append([statuses.count(status) for status in (201, 204, 403)])
            assert counts[0] == counts[1]


async def test_deletion_makes_room_at_once(
    serving: Serving, combination: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even during the time for which a full owner is rejected without a count."""
    monkeypatch.setattr(retention_quota, "FULL_SECONDS", 5.0)
    async with serving(**combination, quota=QUOTA) as client:
        expired = [{"guid": f"{number:032X}", "user": "a", "expire": 0} for number in range(MAX_STORED)]
        await client.ask("POST", "/guid:batch", json={"operations": expired})
        for item in expired[:3]:
            assert (await client.ask("POST", "/guid", json={"user": "a", "expire": 0})).status == 403
            assert (await client.ask("DELETE", f"/guid/{item['guid']}")).status == 204
            assert (await client.ask("POST", "/guid", json={"user": "a", "expire": 0})).status == 201


async def test_time_without_a_count_ends_with_a_deletion(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count that is overtaken by a deletion decides only about its own request."""
    count_started, may_finish = asyncio.Event(), asyncio.Event()

    async def count_full(self: RecordRepository, selection: object) -> int:
        count_started.set()
        await may_finish.wait()
        return MAX_STORED

    monkeypatch.setattr(type(database.records), "count_linearizable", count_full)
    monkeypatch.setattr(retention_quota, "FULL_COUNTS", 1_000_000_000)
    monkeypatch.setattr(retention_quota, "MAX_FULL_SECONDS", 0.1)
    old, new = record(clock(), expire=1, owner="a"), record(clock(), expire=-1, owner="a")
    async with open_quotas(database, lease_clock=LeaseClock(database.fence), clock=clock, quota=QUOTA) as quota:

        async def create() -> None:
            async with quota.reserve(None, old):
                pass

        overtaken = asyncio.create_task(create())
        await count_started.wait()
        async with quota.reserve(old, new):
            pass
        may_finish.set()
        with pytest.raises(QuotaExceeded):
            await overtaken
        count_started.clear()
        with pytest.raises(QuotaExceeded):
            await create()
        assert count_started.is_set(), "the records are counted again"
        count_started.clear()
        async with asyncio.timeout(20):
            while not count_started.is_set():
                with pytest.raises(QuotaExceeded):
                    await create()
                await asyncio.sleep(0.01)


async def test_wait_of_a_count_does_not_extend_the_rejection(
    database: Database, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first count waits for another process's write; nevertheless it is repeated after FULL_SECONDS."""
    monkeypatch.setattr(retention_quota, "STORED_PER_LIVE", 0)
    monkeypatch.setattr(retention_quota, "MAX_FULL_SECONDS", 1000.0)
    async with open_quotas(database, lease_clock=LeaseClock(database.fence), clock=clock, quota=QUOTA) as quota:
        wait_seconds = 0.5

        async def create() -> None:
            async with quota.reserve(None, record(clock(), expire=1, owner="a")):
                pass

        with closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            write = asyncio.create_task(database.records.swap(None, record(clock(), expire=1)))
            creation = asyncio.create_task(create())
            await asyncio.sleep(wait_seconds)
            assert not creation.done()
            lock.execute("ROLLBACK")
        await write
        with pytest.raises(QuotaExceeded):
            await creation
        remaining = quota._room("a").full_until - time.monotonic()  # type: ignore[attr-defined]
        assert remaining < retention_quota.FULL_COUNTS * wait_seconds / 10


async def test_deleted_and_forgotten_guids_do_not_bypass_the_limit(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    """A tombstone and a record past its retention hold no place, so a new creation of the GUID needs one."""
    guids = [f"{number:032X}" for number in range(2 * MAX_STORED)]
    expired = [{"op": "put", "guid": guid, "user": "a", "expire": "0"} for guid in guids]
    async with serving(**combination, quota=QUOTA, retention=60) as client:
        for begin, end in ((0, "deleted"), (MAX_STORED, "forgotten")):
            creations = expired[begin : begin + MAX_STORED]
            reply = await client.ask("POST", "/guid:batch", json={"operations": creations})
            assert {result["status"] for result in reply.json["results"]} == {201}
            if end == "deleted":
                deletions = [{"op": "delete", "guid": item["guid"]} for item in creations]
                await client.ask("POST", "/guid:batch", json={"operations": deletions})
            clock.advance(seconds=6 if end == "deleted" else 61)
        reply = await client.ask("POST", "/guid:batch", json={"operations": expired})
        statuses = [result["status"] for result in reply.json["results"]]
        assert (statuses.count(201), statuses.count(403)) == (MAX_STORED, MAX_STORED)


async def test_limit_is_per_owner_and_rarely_counted(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = 0
    count_original = type(database.records).count_linearizable

    async def count_calls(self: RecordRepository, selection: object) -> int:
        nonlocal counts
        counts += 1
        return await count_original(self, selection)  # type: ignore[arg-type]

    monkeypatch.setattr(type(database.records), "count_linearizable", count_calls)
    async with open_quotas(database, lease_clock=LeaseClock(database.fence), clock=clock, quota=1_000) as quota:
        expired = record(clock(), expire=1, owner="a")
        for _ in range(1_000):
            async with quota.reserve(None, expired):
                pass
        assert counts == 1
        clock.advance(seconds=ROOM_MS / 1000)
        async with quota.reserve(None, expired):
            assert counts == 2
        async with quota.reserve(None, record(clock(), expire=1, owner="b")):
            assert counts == 3


async def test_one_count_rejects_all_its_waiters(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each request of a full owner would count all of its records."""
    counts = 0

    async def count_full(self: RecordRepository, selection: object) -> int:  # the signature of the store
        nonlocal counts
        counts += 1
        await asyncio.sleep(0.01)
        return MAX_STORED

    monkeypatch.setattr(type(database.records), "count_linearizable", count_full)
    async with open_quotas(database, lease_clock=LeaseClock(database.fence), clock=clock, quota=QUOTA) as quota:

        async def create() -> None:
            async with quota.reserve(None, record(clock(), expire=1, owner="a")):
                pass

        outcomes = await asyncio.gather(*(create() for _ in range(300)), return_exceptions=True)
        assert all(isinstance(outcome, QuotaExceeded) for outcome in outcomes)
        assert counts == 1


async def test_limit_holds_for_concurrent_creations(database: Database, clock: FakeClock) -> None:
    async with open_quotas(database, lease_clock=LeaseClock(database.fence), clock=clock, quota=QUOTA) as quota:

        async def create(number: int) -> bool:
            new = record(clock(), guid=f"{number:032X}", expire=1, purge_at=clock.seconds + 60, owner="a")
            try:
                async with quota.reserve(None, new):
                    return await database.records.swap(None, new)
            except QuotaExceeded:
                return False

        created = await asyncio.gather(*(create(number) for number in range(4 * MAX_STORED)))
        assert sum(created) == MAX_STORED


async def test_remembered_owners_are_bounded(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_quota, "OWNERS", 3)
    async with open_quotas(database, lease_clock=LeaseClock(database.fence), clock=clock, quota=QUOTA) as quota:
        for number in range(10):
            async with quota.reserve(None, record(clock(), expire=1, owner=f"owner{number}")):
                pass
        assert len(quota._rooms) == 3  # type: ignore[attr-defined]
