"""The contract of the event log, for every store: a read for one owner reveals nothing about the entries of others."""

import asyncio

import pytest

from guidsvc.domain.events import cursor as cursors
from guidsvc.domain.events.cursor import Cursor
from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.domain.events.selection import EventSelection
from guidsvc.errors import EventsGone
from guidsvc.services.events.feed import EventFeed
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.mongo.events import reading as mongo_reading
from guidsvc.store.sqlite.events import reading as sqlite_reading
from tests.conftest import FakeClock
from tests.support.events import READ_SECONDS, until_newest
from tests.support.factories import record

OWN = 6
RARE = EventSelection(owner="alice", kinds=frozenset({"purged"}))


class Writer:
    """Creates GUIDs one after the other, so that their entries have this order."""

    def __init__(self, store: RecordRepository, database: Database, clock: FakeClock) -> None:
        self._store, self._database, self._clock = store, database, clock
        self.count = 0

    async def create(self, owner: str, count: int, **fields: object) -> None:
        """Create `count` GUIDs of an owner."""
        for _ in range(count):
            new = record(self._clock(), guid=f"{self.count:032X}", owner=owner, **fields)
            assert await self._store.swap(None, new)
            self.count += 1
            await until_newest(self._database.events, self.count)


@pytest.fixture
def writer(store: RecordRepository, database: Database, clock: FakeClock) -> Writer:
    return Writer(store, database, clock)


@pytest.mark.parametrize("others", [0, 1, 9])
async def test_search_for_an_owner_counts_only_its_entries(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Neither the number of pages nor the end of the search depends on the entries of others."""
    for module in (sqlite_reading, mongo_reading):
        monkeypatch.setattr(module, "SCANNED", 2)
    own: list[int] = []
    for _ in range(OWN):
        await writer.create("bob", others)
        await writer.create("alice", 1)
        own.append(writer.count)
    await writer.create("bob", others)

    found, after = [], 0
    while True:
        page = await database.events.read(after, 100, RARE)
        assert page.entries == []
        assert page.looked_to_checksum == await database.events.checksum(page.looked_to)
        found.append((sum(number <= page.looked_to for number in own), page.looked_to < page.newest))
        if page.looked_to == page.newest:
            break
        after = page.looked_to
    assert found == [(2, True), (4, True), (OWN, False)]


@pytest.mark.parametrize("selection", [EventSelection(owner="alice"), EventSelection(owner="alice", guid_prefix="0")])
async def test_full_page_of_an_owner_reveals_nothing_about_others(
    writer: Writer, database: Database, monkeypatch: pytest.MonkeyPatch, selection: EventSelection
) -> None:
    """A full page says that more follows only if the owner has more entries."""
    for module in (sqlite_reading, mongo_reading):
        monkeypatch.setattr(module, "PAGE_BYTES", 2000)
    await writer.create("alice", 2, metadata='{"a":"' + "x" * 1000 + '"}')
    await writer.create("bob", 3)

    page = await database.events.read(0, 100, selection)
    assert [number for number, *_ in page.entries] == [1, 2]
    assert page.looked_to == page.newest == 5
    await writer.create("alice", 1)
    page = await database.events.read(0, 100, selection)
    assert ([number for number, *_ in page.entries], page.looked_to, page.newest) == ([1, 2], 2, 6)


async def test_page_of_an_owner_ends_at_its_limit(writer: Writer, database: Database) -> None:
    for owner in ("alice", "bob", "alice", "bob", "alice", "bob"):
        await writer.create(owner, 1)
    for after, limit, expected, looked_to in (
        (0, 2, [1, 3], 3),
        (1, 1, [3], 3),
        (2, 2, [3, 5], 5),
        (2, 3, [3, 5], 6),
        (5, 1, [], 6),
    ):
        page = await database.events.read(after, limit, EventSelection(owner="alice"))
        assert ([number for number, *_ in page.entries], page.looked_to) == (expected, looked_to)


async def test_reader_that_is_gone_learns_a_place_of_its_owner(
    writer: Writer, database: Database, clock: FakeClock
) -> None:
    """`now` of the error names the newest entry of the owner, also if the log is cut off while the reader reads on."""
    log = database.events
    await writer.create("bob", 2)
    await writer.create("alice", 1)
    size_bytes, _ = await log.size()
    async with asyncio.timeout(READ_SECONDS):
        while (await log.bounds("bob")).floor < 1:
            await log.trim(0, size_bytes - 1, 1)
    bounds = await log.bounds()
    assert (bounds.floor, bounds.newest) == (1, 3)

    feed = EventFeed(log, policy=EventPolicy(), clock=clock, max_streams=1)
    for owner, number in ("bob", 2), (None, 3):
        with pytest.raises(EventsGone) as gone:
            await feed.read(Cursor(bounds.key, 0, 0), EventSelection(owner=owner), 10, "")
        now = cursors.decode(gone.value.now)
        assert now is not None
        assert now.unseal(bounds.key) == (bounds.key, number, await log.checksum(number))
