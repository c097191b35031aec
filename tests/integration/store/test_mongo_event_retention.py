"""Trimming of the MongoDB event log."""

import asyncio
import time

import pytest

from guidsvc.errors import EventsTrimmed
from guidsvc.store.mongo.events.log import MongoEventLog
from guidsvc.store.mongo.events.sequencer import BATCH
from guidsvc.store.mongo.store import MongoStore
from tests.support.events import ALL, numbered_after, until_newest
from tests.support.factories import record
from tests.support.mongo_documents import WAIT_SECONDS, Documents, create_varied_records, wait_until_drained


def append_at(documents: Documents, now: int) -> None:
    """Set the append time of entry 1, and of each further entry one millisecond later."""
    for each in documents["log"].find({}, {"_id": 1}):
        documents["log"].update_one({"_id": each["_id"]}, {"$set": {"appended": now + each["_id"] - 1}})


async def test_entry_has_its_append_time(store: MongoStore, documents: Documents, now: int) -> None:
    """The time is that of the server, even if the event itself has the time of a wrong clock."""
    await store.records.swap(None, record(now + 2**40))
    await numbered_after(store.events, 0, 1)
    (found,) = documents["log"].find()

    assert found["at"] == now + 2**40
    assert now <= found["appended"] <= time.time_ns() // 1_000_000
    assert await store.events.size() == (found["total"], found["appended"])


async def test_event_in_the_far_future_does_not_block_trimming(store: MongoStore, now: int) -> None:
    await store.records.swap(None, record(now + 2**40, guid="F" * 32))
    await create_varied_records(store, now)

    async with asyncio.timeout(WAIT_SECONDS):
        while (await store.events.bounds()).floor < 9:
            await store.events.trim(now + 3_600_000, 2**40, 100)


async def test_log_is_trimmed_by_age_except_the_newest(store: MongoStore, documents: Documents, now: int) -> None:
    await create_varied_records(store, now)
    append_at(documents, now)
    all_entries = await numbered_after(store.events, 0, 10)

    async with asyncio.timeout(WAIT_SECONDS):
        while (cut := await store.events.trim(now + 3, 2**40, 100)) == 0:
            await asyncio.sleep(0.01)
    assert cut == 3
    bounds = await store.events.bounds()
    assert (bounds.floor, bounds.newest) == (3, 10)
    assert bounds.floor_checksum == all_entries[2].checksum == await store.events.checksum(3)
    assert await store.events.checksum(2) is None
    with pytest.raises(EventsTrimmed):
        await store.events.read(2, 10, ALL)
    assert (await store.events.read(3, 10, ALL)).entries == all_entries[3:]
    assert await store.events.history(all_entries[0].entry.guid, 100, 10) == []
    assert (await store.events.size())[1] == now + 3

    assert await store.events.trim(now + 2**40, 2**40, 100) == 6
    assert (await store.events.read(9, 10, ALL)).entries == all_entries[9:]
    assert await store.events.trim(now + 2**40, 0, 100) == 0


async def test_log_is_trimmed_by_size_up_to_a_limit(store: MongoStore, now: int) -> None:
    await create_varied_records(store, now)
    size_bytes, _ = await store.events.size()

    async with asyncio.timeout(WAIT_SECONDS):
        while (cut := await store.events.trim(0, size_bytes // 2, 3)) == 0:
            await asyncio.sleep(0.01)
    assert cut == 3
    assert await store.events.trim(0, size_bytes // 2, 100) == 2
    assert (await store.events.size())[0] <= size_bytes // 2
    assert await store.events.trim(0, size_bytes // 2, 100) == 0


async def test_entries_are_deleted_once_no_sequencer_can_repeat_them(
    store: MongoStore, documents: Documents, now: int
) -> None:
    await create_varied_records(store, now, 5)
    append_at(documents, now)
    async with asyncio.timeout(WAIT_SECONDS):
        while await store.events.trim(now + 4, 2**40, 100) == 0:
            await asyncio.sleep(0.01)
    await store.events.trim(0, 2**40, 100)
    assert documents["log"].count_documents({}) == 5
    await asyncio.gather(
        *(store.records.swap(None, record(now, guid=f"{number:032X}")) for number in range(5, BATCH + 7))
    )
    await until_newest(store.events, BATCH + 7)
    await store.events.trim(0, 2**40, 100)
    assert documents["log"].count_documents({"_id": {"$lte": 4}}) == 0


async def test_log_is_trimmed_while_outboxes_are_pending(
    store: MongoStore, documents: Documents, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only entries that are still in an outbox, and those after them, must stay."""
    await create_varied_records(store, now)
    await wait_until_drained(documents)
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    await asyncio.sleep(0.3)  # until the sequencer waits
    await asyncio.gather(
        *(store.records.swap(None, record(now, guid=f"{number:032X}")) for number in range(100, 100 + BATCH + 50))
    )
    documents["records"].update_one(
        {"_id": f"{6:032X}"},
        {"$set": {"g.pending": 1, "g.out": [{"id": f"{6:032X}-{now + 6}"}]}},
    )

    assert await store.events.trim(now + 2**40, 2**40, 500) == 6
    assert (await store.events.bounds()).floor == 6


async def test_append_in_the_future_does_not_block_trimming(store: MongoStore, documents: Documents, now: int) -> None:
    await create_varied_records(store, now)
    await wait_until_drained(documents)
    append_at(documents, now)
    documents["log"].update_many({"_id": {"$lte": 4}}, {"$set": {"appended": now + 2**40}})

    assert [await store.events.trim(now + 6, 2**40, 2) for _ in range(4)] == [2, 2, 2, 0]


async def test_entries_are_deleted_as_fast_as_they_are_trimmed(
    store: MongoStore, documents: Documents, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidsvc.store.mongo.events.retention.BATCH", 4)
    for number in range(120):
        await store.records.swap(None, record(now, guid=f"{number:032X}"))
        if number % 6 == 5:
            await until_newest(store.events, number + 1)
            await wait_until_drained(documents)
            assert await store.events.trim(now + 2**40, 2**40, 6) == (5 if number == 5 else 6)
    assert documents["log"].count_documents({}) <= 20
