"""Damaged documents of the MongoDB event log: they stop only their own events."""

import asyncio
from typing import Any

import pytest

from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.record import Record
from guidsvc.errors import EventsTrimmed
from guidsvc.store.mongo.events.outbox import MAX_ITEMS
from guidsvc.store.mongo.store import MongoStore
from tests.support.events import ALL, entries_after, next_version, until_newest
from tests.support.factories import GUID, record
from tests.support.mongo_documents import WAIT_SECONDS, Documents, wait_until_drained

BAD, GOOD = "A" * 32, "B" * 32

INVALID_OUTBOXES: dict[str, dict[str, Any]] = {
    "item without kind": {"$set": {"g.pending": 1, "g.out": [{"id": "q"}]}},
    "item that is no document": {"$set": {"g.pending": 1, "g.out": [7]}},
    "item of wrong types": {
        "$set": {
            "g.pending": 1,
            "g.out": [{"id": f"{BAD}-1", "kind": "updated", "version": 1, "at": "now", "owner": "", "lead": 0}],
        }
    },
    "item with another id": {
        "$set": {
            "g.pending": 1,
            "g.out": [{"id": "q", "kind": "updated", "version": 1, "at": 1, "owner": "", "lead": 0}],
        }
    },
    "pending without out": {"$set": {"g.pending": 1}, "$unset": {"g.out": 1}},
    "pending without entries": {"$set": {"g.pending": 1, "g.out": []}},
    "pending as an array": {"$set": {"g.pending": [1], "g.out": []}},
    "out as text": {"$set": {"g.pending": 1, "g.out": "x"}},
    "out as a document": {"$set": {"g.pending": 1, "g.out": {str(MAX_ITEMS - 1): 1}}},
    "array in place of the outbox": {"$set": {"g": [{"pending": 1}]}},
}


async def create_damaged(store: MongoStore, documents: Documents, now: int, damage: dict[str, Any]) -> Record:
    """Create a record, and damage its outbox once its entry is in the log."""
    bad = record(now, guid=BAD)
    await store.records.swap(None, bad)
    await entries_after(store.events, 0, 1)
    await wait_until_drained(documents)
    documents["records"].update_one({"_id": BAD}, damage)
    return bad


@pytest.mark.parametrize("name", INVALID_OUTBOXES)
async def test_invalid_outbox_does_not_stop_the_others(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any, name: str
) -> None:
    expected_logs.add("outbox invalid, its events are not logged")
    await create_damaged(store, documents, now, INVALID_OUTBOXES[name])

    await store.records.swap(None, record(now, guid=GOOD))
    assert [each.guid for each in await entries_after(store.events, 0, 2)] == [BAD, GOOD]


@pytest.mark.parametrize("name", INVALID_OUTBOXES)
async def test_record_with_an_invalid_outbox_can_be_written(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any, name: str
) -> None:
    """Its events wait behind the invalid one. Once the outbox is full, the invalid events are removed."""
    expected_logs.add("outbox invalid, its events are not logged")
    expected_logs.add("invalid events removed from outbox")
    current = await create_damaged(store, documents, now, INVALID_OUTBOXES[name])
    for _ in range(MAX_ITEMS + 1):
        new = next_version(current, now, user=f"user {current.version}")
        assert await store.records.swap(current, new)
        current = new
    assert await store.records.swap(current, None)

    found = [each.version for each in await entries_after(store.events, 0, MAX_ITEMS + 2)]
    assert found == list(range(now, now + MAX_ITEMS + 2))


async def test_corrected_outbox_is_logged(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidsvc.store.mongo.events.outbox.PASS_SECONDS", 0.5)
    expected_logs.add("outbox invalid, its events are not logged")
    bad = await create_damaged(store, documents, now, INVALID_OUTBOXES["item without kind"])
    await store.records.swap(bad, next_version(bad, now, user="another"))
    await store.records.swap(None, record(now, guid=GOOD))
    assert [each.guid for each in await entries_after(store.events, 0, 2)] == [BAD, GOOD]

    documents["records"].update_one({"_id": BAD}, {"$pop": {"g.out": -1}})
    assert [each.guid for each in await entries_after(store.events, 0, 3)] == [BAD, GOOD, BAD]


async def test_page_ends_before_an_invalid_event(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any
) -> None:
    expected_logs.add("event invalid, it cannot be read")
    for number in range(5):
        await store.records.swap(None, record(now, guid=f"{number:032X}"))
        await entries_after(store.events, 0, number + 1)
    documents["log"].update_one({"_id": 3}, {"$unset": {"kind": 1}})

    for selection in (ALL, EventSelection(kinds=frozenset({"created"}))):
        page = await store.events.read(0, 100, selection)
        assert [each.number for each in page.entries] == [1, 2]
        assert (page.looked_to, page.newest) == (2, 5)
        with pytest.raises(EventsTrimmed):
            await store.events.read(2, 100, selection)
    bounds = await store.events.bounds()
    assert (bounds.floor, bounds.floor_checksum) == (3, await store.events.checksum(3))
    page = await store.events.read(bounds.floor, 100, ALL)
    assert [each.number for each in page.entries] == [4, 5]
    assert len(await store.events.history(f"{2:032X}", 100, 10)) == 0


@pytest.mark.parametrize("damage", [{"$unset": {"kind": 1}}, {"$set": {"at": "x"}}], ids=str)
async def test_history_omits_invalid_events(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any, damage: dict[str, Any]
) -> None:
    """It has all valid events, however many are invalid."""
    expected_logs.add("event invalid, it cannot be read")
    current = record(now)
    await store.records.swap(None, current)
    for step in range(1, 40):
        await store.records.swap(current, after := next_version(current, now + step, user=f"user {step}"))
        current = after
    await until_newest(store.events, 40)
    documents["log"].update_many({"_id": {"$gt": 3, "$lt": 40}}, damage)

    assert [number for number, *_ in await store.events.history(GUID, 100, 2)] == [40, 3]
    assert [number for number, *_ in await store.events.history(GUID, 100, 100)] == [40, 3, 2, 1]
    assert [number for number, *_ in await store.events.history(GUID, 3, 100)] == [2, 1]


@pytest.mark.parametrize(
    "damage", [{"$unset": {"kind": 1}}, {"$set": {"total": "x"}}, {"$unset": {"total": 1, "appended": 1}}], ids=str
)
async def test_invalid_event_stops_neither_the_log_nor_its_trim(
    store: MongoStore, documents: Documents, now: int, damage: dict[str, Any]
) -> None:
    await store.records.swap(None, record(now, guid="0" * 32))
    await entries_after(store.events, 0, 1)
    documents["log"].update_one({"_id": 1}, damage)
    await store.events.bounds()
    await store.events.size()
    for number in range(1, 5):
        await store.records.swap(None, record(now, guid=f"{number:032X}"))
        await until_newest(store.events, number + 1)

    async with asyncio.timeout(WAIT_SECONDS):
        while (await store.events.bounds()).floor < 4:
            await store.events.trim(now + 3_600_000, 2**40, 2)


async def test_document_of_another_program_does_not_stop_the_log(
    store: MongoStore, documents: Documents, now: int
) -> None:
    documents["log"].insert_one({"_id": "x"})
    await store.records.swap(None, record(now))
    assert [each.version for each in await entries_after(store.events, 0, 1)] == [now]
