"""Reads of the MongoDB event log: pages, bounds and histories."""

import asyncio

import pytest

from guidsvc.domain.events.selection import EventSelection
from guidsvc.store.event_log import PAGE_BYTES
from guidsvc.store.mongo.events.sequencer import BY_OWNER
from guidsvc.store.mongo.store import MongoStore, open_mongo
from tests.support.events import ALL, next_version, numbered_after, until_newest
from tests.support.factories import GUID, record
from tests.support.mongo_documents import Documents, create_varied_records


@pytest.mark.parametrize(
    "selection",
    [
        ALL,
        EventSelection(owner="owner 1"),
        EventSelection(user="user 1"),
        EventSelection(guid_prefix="0" * 31 + "7"),
        EventSelection(guid_prefix="0" * 31),
        EventSelection(guid_prefix="1"),
        EventSelection(kinds=frozenset({"created"}), user="user 0", owner="owner 2"),
        EventSelection(kinds=frozenset({"expired"})),
    ],
)
async def test_page_has_the_matching_entries(store: MongoStore, now: int, selection: EventSelection) -> None:
    all_entries = await create_varied_records(store, now)
    page = await store.events.read(2, 100, selection)

    assert page.entries == [each for each in all_entries[2:] if selection.matches(each.entry)]
    assert (page.looked_to, page.newest) == (10, 10)
    assert page.looked_to_checksum == all_entries[-1].checksum


async def test_page_ends_at_its_limit(store: MongoStore, now: int) -> None:
    all_entries = await create_varied_records(store, now)
    page = await store.events.read(0, 2, EventSelection(user="user 1"))

    assert [each.number for each in page.entries] == [2, 4]
    assert (page.looked_to, page.newest) == (4, 10)
    assert page.looked_to_checksum == all_entries[3].checksum


async def test_page_is_limited_in_bytes(store: MongoStore, now: int) -> None:
    large = '{"a":"' + "x" * 16_000 + '"}'
    await asyncio.gather(
        *(store.records.swap(None, record(now, guid=f"{number:032X}", metadata=large)) for number in range(90))
    )
    await until_newest(store.events, 90)
    page = await store.events.read(0, 90, ALL)

    assert 0 < len(page.entries) < 90
    assert sum(len(each.entry.metadata or "") for each in page.entries) < PAGE_BYTES + 20_000
    assert page.looked_to == page.entries[-1].number


async def test_empty_log_has_bounds_and_an_empty_page(store: MongoStore) -> None:
    bounds = await store.events.bounds()
    assert bounds[1:] == (0, 0, 0, 0)
    page = await store.events.read(0, 10, ALL)
    assert page == ([], 0, 0, 0)
    assert await store.events.size() == (0, 0)
    assert await store.events.checksum(0) == 0
    assert await store.events.checksum(1) is None
    assert await store.events.trim(2**50, 0, 10) == 0


async def test_cursor_key_is_fixed_and_differs_between_logs(
    mongo_url: str, documents: Documents, store: MongoStore
) -> None:
    key = (await store.events.bounds()).key
    async with open_mongo(mongo_url) as again:
        assert (await again.events.bounds()).key == key
    documents["log_bounds"].drop()
    async with open_mongo(mongo_url) as another:
        other = (await another.events.bounds()).key
        assert other.epoch != key.epoch
        assert other.secret != key.secret


async def test_history_is_newest_first_and_continues(store: MongoStore, now: int) -> None:
    current = record(now)
    await store.records.swap(None, current)
    await store.records.swap(None, record(now, guid="0" * 32))
    for _ in range(5):
        new = next_version(current, now, expire=now // 1000 - 5)
        await store.records.swap(current, new)
        current = new
    all_entries = [each for each in await numbered_after(store.events, 0, 12) if each.entry.guid == GUID]

    newest = await store.events.history(GUID, 2**53, 4)
    older = await store.events.history(GUID, newest[-1].number, 100)
    assert [*newest, *older] == all_entries[::-1]
    assert await store.events.history("F" * 32, 2**53, 10) == []


async def test_older_log_gets_the_owner_index(
    mongo_url: str, documents: Documents, store: MongoStore, now: int
) -> None:
    all_entries = await create_varied_records(store, now)
    documents["log"].drop_index(BY_OWNER)
    async with open_mongo(mongo_url) as again:
        assert documents["log"].index_information()[BY_OWNER]["key"] == [("owner", 1), ("_id", 1)]
        for selection in (EventSelection(owner="owner 1"), EventSelection(owner="owner 1", user="user 0")):
            page = await again.events.read(0, 100, selection)
            assert page.entries == [each for each in all_entries if selection.matches(each.entry)]
