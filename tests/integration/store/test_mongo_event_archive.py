"""The archive of the MongoDB event log with concurrent processes, and after a crash."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from guidsvc.domain.events.shares import Item
from guidsvc.errors import EventsTrimmed, StoreUnavailable
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.mongo.events.archive.collection import Archive
from tests.conftest import FakeClock
from tests.support.event_shares import SIZE_BYTES, create_of, own_entries, trim_all
from tests.support.events import every_entry


@pytest.fixture
async def full_store(mongo_url: str, clock: FakeClock) -> AsyncIterator[Database]:
    """A full log, whose archive has entries of bob. Some of them are due for removal."""
    async with open_store(mongo_url, exclusive=False) as store:
        await create_of(store.records, store.events, clock, "bob", SIZE_BYTES // 4)
        await create_of(store.records, store.events, clock, "alice", 2 * SIZE_BYTES)
        await trim_all(store.events)
        await create_of(store.records, store.events, clock, "bob", SIZE_BYTES // 2)
        yield store


async def test_step_with_outdated_shares_changes_nothing(
    full_store: Database, mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removes three entries meanwhile. A step that removes one must not lower their floor."""
    oldest = Archive.oldest
    async with open_store(mongo_url, exclusive=False) as other:

        async def delayed(archive: Archive, *arguments: Any) -> list[Item]:
            monkeypatch.setattr(Archive, "oldest", oldest)
            assert await full_store.events.trim(0, SIZE_BYTES, 3) == 3
            return await oldest(archive, *arguments)

        floor = (await full_store.events.bounds()).floor
        monkeypatch.setattr(Archive, "oldest", delayed)
        assert await other.events.trim(0, SIZE_BYTES, 1) == 0
        of_bob = (await full_store.events.bounds("bob")).floor
        assert of_bob == (await other.events.bounds("bob")).floor == 3
        assert (await full_store.events.bounds()).floor == floor, "only the shares have changed"
        with pytest.raises(EventsTrimmed):
            await own_entries(other.events, "bob", of_bob - 1)


async def test_crash_before_a_deletion_hides_the_event(full_store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: Any) -> None:
        raise StoreUnavailable("crashed")

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "delete", crash)
        with pytest.raises(StoreUnavailable):
            await full_store.events.trim(0, SIZE_BYTES, 3)
    floor = (await full_store.events.bounds("bob")).floor
    assert floor == 3
    with pytest.raises(EventsTrimmed):
        await own_entries(full_store.events, "bob", floor - 1)
    remaining = await own_entries(full_store.events, "bob", floor)
    size_bytes, _ = await full_store.events.size()
    await trim_all(full_store.events)
    assert (await full_store.events.size())[0] <= min(SIZE_BYTES, size_bytes)
    floor = (await full_store.events.bounds("bob")).floor
    assert await own_entries(full_store.events, "bob", floor) == [each for each in remaining if each.number > floor]


async def test_crash_after_archiving_archives_once(full_store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that are in the archive and in the log are read once."""
    seen = await every_entry(full_store.events)
    add = Archive.add

    async def crash(archive: Archive, *arguments: Any) -> None:
        await add(archive, *arguments)
        raise StoreUnavailable("crashed")

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "add", crash)
        with pytest.raises(StoreUnavailable):
            await trim_all(full_store.events)
    floor = (await full_store.events.bounds()).floor
    assert [each for each in await every_entry(full_store.events) if each.number > floor] == [
        each for each in seen if each.number > floor
    ]
    await trim_all(full_store.events)
    floor = (await full_store.events.bounds("bob")).floor
    numbers = [number for number, *_ in await own_entries(full_store.events, "bob", floor)]
    assert numbers == sorted(set(numbers))
