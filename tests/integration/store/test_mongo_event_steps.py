"""Scheduled steps of records on MongoDB, and their entries in the event log."""

import asyncio
import time
from typing import Any

import pytest

from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.domain.record import DELETED_EXPIRE
from guidsvc.store.mongo.store import MongoStore, open_mongo
from tests.support.events import next_version, numbered_after
from tests.support.factories import record
from tests.support.mongo_documents import WAIT_SECONDS, Documents, advance_all, check_entries, wait_until_drained


async def test_warning_expiry_and_purge_are_due_in_turn(mongo_url: str, now: int) -> None:
    seconds = now // 1000
    warned = record(now - 100_000, guid="A" * 32, expire=seconds + 40)
    expired = record(now - 100_000, guid="B" * 32, expire=seconds - 5)
    purged = record(now - 100_000, guid="C" * 32, expire=seconds - 5, purge_at=seconds - 4)
    async with open_mongo(mongo_url, events=EventPolicy(warn_before=(45,))) as store:
        for each in (warned, expired, purged):
            await store.records.swap(None, each)
        assert await store.events.lag(now) > 0
        assert await advance_all(store, now) == 3
        found = await numbered_after(store.events, 0, 7)
        assert await store.events.lag(now) == 0

    timed = {(each.entry.guid[0], each.entry.kind, each.entry.lead) for each in found if each.entry.kind != "created"}
    assert timed == {("A", "expiring", 45), ("B", "expired", 0), ("C", "expired", 0), ("C", "purged", 0)}


async def test_purged_record_is_deleted_once_its_entry_is_logged(
    store: MongoStore, documents: Documents, now: int
) -> None:
    old = record(now - 100_000, expire=now // 1000 - 9, purge_at=now // 1000 - 4)
    await store.records.swap(None, old)
    assert await advance_all(store, now) == 1
    assert (await numbered_after(store.events, 0, 3))[-1].entry.kind == "purged"

    async with asyncio.timeout(WAIT_SECONDS):
        while documents["records"].count_documents({}):
            await asyncio.sleep(0.01)


async def test_tombstone_is_purged_without_an_entry(store: MongoStore, documents: Documents, now: int) -> None:
    first = record(now)
    tombstone = next_version(first, now, expire=DELETED_EXPIRE, user="deleted", purge_at=now // 1000 - 4)
    await store.records.swap(None, first)
    await store.records.swap(first, tombstone)
    await numbered_after(store.events, 0, 2)

    async with asyncio.timeout(WAIT_SECONDS):
        while documents["records"].count_documents({}):
            await store.events.advance(now, 10)
            await asyncio.sleep(0.05)
    assert await check_entries(store, 2) == [("created", now), ("deleted", now + 1)]


async def test_records_from_before_the_log_become_due(
    mongo_url: str, store: MongoStore, documents: Documents, now: int
) -> None:
    """Expiries from before the first start with a log are not logged. Later ones are."""
    seconds = now // 1000
    for guid, expire in ("A" * 32, seconds - 50), ("B" * 32, seconds - 5):
        await store.records.swap(None, record(now - 100_000, guid=guid, expire=expire))
    await wait_until_drained(documents)
    assert now - 60_000 < documents["log_bounds"].find_one()["opened"] <= time.time_ns() // 1_000_000  # type: ignore[index]
    documents["records"].update_many({}, {"$unset": {"g": 1}})
    documents["log_bounds"].update_many({}, {"$set": {"opened": now - 20_000}})

    async with open_mongo(mongo_url):
        assert documents["log_bounds"].find_one()["opened"] == now - 20_000  # type: ignore[index]
    await advance_all(store, now)
    assert [(each.entry.kind, each.entry.guid[0]) for each in (await numbered_after(store.events, 0, 3))[2:]] == [
        ("expired", "B")
    ]
    assert documents["records"].count_documents({"g.due": None}) == 0


async def test_backfill_and_due_steps_both_make_progress(store: MongoStore, documents: Documents, now: int) -> None:
    await asyncio.gather(
        *(
            store.records.swap(None, record(now - 100_000, guid=f"{number:032X}", expire=now // 1000 - 5))
            for number in range(60)
        )
    )
    await wait_until_drained(documents)
    documents["records"].update_many({"_id": {"$gte": f"{30:032X}"}}, {"$unset": {"g": 1}})

    assert await store.events.advance(now, 16) == 16
    assert documents["records"].count_documents({"g": None}) == 28
    assert len(await numbered_after(store.events, 0, 74)) == 74


@pytest.mark.parametrize(
    "damage",
    [
        {"$unset": {"g.stage": 1}},
        {"$set": {"g.stage": "x"}},
        {"$set": {"g.due": [1]}},
        {"$set": {"g": [{"due": 1}]}},
        {"$set": {"g": 5}},
        {"$set": {"g.out": "x"}},
        {"$set": {"version": float("nan")}},
        {"$set": {"version": {"$x": 1}}},
    ],
    ids=str,
)
async def test_invalid_schedule_does_not_stop_the_others(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any, damage: dict[str, Any]
) -> None:
    expected_logs.add("corrupt record")
    for guid in "AB":
        await store.records.swap(None, record(now - 60_000, guid=guid * 32, expire=now // 1000 - 5))
    await wait_until_drained(documents)
    documents["records"].update_one({"_id": "A" * 32}, damage)

    await advance_all(store, now)
    expired = f"{'B' * 32}-{now - 60_000}-expired"
    async with asyncio.timeout(WAIT_SECONDS):  # the entry of A may be logged earlier
        while expired not in {each.entry.id for each in await numbered_after(store.events, 0, 3)}:
            await asyncio.sleep(0.01)
    assert await store.events.lag(now) == 0


async def test_corrupt_record_does_not_stop_the_others(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any
) -> None:
    expected_logs.add("corrupt record")
    for guid in "AB":
        await store.records.swap(None, record(now - 60_000, guid=guid * 32, expire=now // 1000 - 5))
    await numbered_after(store.events, 0, 2)
    documents["records"].update_one({"_id": "A" * 32}, {"$set": {"user": 7}})

    await advance_all(store, now)
    assert (await numbered_after(store.events, 0, 3))[-1].entry.id.startswith("B" * 32)


async def test_index_that_deleted_records_is_dropped(mongo_url: str, documents: Documents) -> None:
    documents["records"].create_index("purge_at", name="purge_at_ttl", expireAfterSeconds=0)
    for _ in range(2):
        async with open_mongo(mongo_url):
            assert "purge_at_ttl" not in documents["records"].index_information()


async def test_only_one_store_advances(mongo_url: str, now: int) -> None:
    async with open_mongo(mongo_url) as one:
        await one.events.advance(now, 10)
        async with open_mongo(mongo_url) as another:
            await another.records.swap(None, record(now - 60_000, expire=now // 1000 - 5))
            assert await another.events.advance(now, 10) == 0
            assert await one.events.advance(now, 10) == 1
    async with open_mongo(mongo_url) as third:
        assert await third.events.advance(now, 10) == 0
        assert third.events._scheduling._is_held, "a closed store must release its lease"
