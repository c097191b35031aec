"""The contract of the event log, kept by every store: a restored log rejects the cursors of what it does not have."""

import asyncio

import pytest

from guidsvc.domain.events import cursor as cursors
from guidsvc.domain.events.cursor import Cursor
from guidsvc.domain.events.entry import Kind
from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.domain.record import Record
from guidsvc.errors import EventsGone
from guidsvc.services.events.feed import EventFeed
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.event_log import EventLog
from tests.conftest import FakeClock
from tests.support.events import HOUR, every_entry, expired_record, until_newest
from tests.support.factories import record
from tests.support.store_copies import copy_of

WAIT_SECONDS = 30.0
WARNING = 30 * 60


@pytest.fixture(params=["sqlite", "mongo"])
def store_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("mongo_url" if request.param == "mongo" else "sqlite_url")
    return url


def due(clock: FakeClock, kind: Kind) -> Record:
    """Return a record of which an entry of this kind is the next one due."""
    seconds = clock.seconds
    match kind:
        case "expiring":
            return expired_record(clock, expire=seconds + WARNING // 2, purge_at=seconds + HOUR)
        case "expired":
            return expired_record(clock)
        case _:
            return expired_record(clock, expire=seconds - 60, purge_at=seconds - 10)


async def place_after(store: Database, number: int) -> Cursor:
    """Return the place after the newest entry, once it has this number, as a reader learns it from the entry."""
    await until_newest(store.events, number)
    newest = (await every_entry(store.events))[-1]
    assert newest.number == number
    return Cursor((await store.events.bounds()).key, number, newest.checksum)


async def advance(log: EventLog, clock: FakeClock) -> None:
    """Do what is due of one record, once this process may."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await log.advance(clock(), 1):
            await asyncio.sleep(0.01)


async def reason_of(store: Database, clock: FakeClock, place: Cursor) -> str | None:
    """Return why the feed does not go on at a place; None if it does."""
    feed = EventFeed(store.events, policy=EventPolicy(), clock=clock, max_streams=1)
    sealed = cursors.decode(place.encode())
    try:
        assert await feed.start(sealed, is_now=False) == place
    except EventsGone as error:
        return error.reason
    return None


@pytest.mark.parametrize("kind", ["expiring", "expired", "purged"])
async def test_restored_log_rejects_events_it_repeats(store_url: str, clock: FakeClock, kind: Kind) -> None:
    """What time does to a record happens again after the restore, with the same id and the same number."""
    policy = EventPolicy(warn_before=(WARNING,))
    async with open_store(store_url, exclusive=False, events=policy) as store:
        await store.records.swap(None, due(clock, kind))
        before = await place_after(store, 1)
    restore = copy_of(store_url)

    async def happen(guid: str) -> list[str]:
        await store.records.swap(None, record(clock(), guid=guid))
        await until_newest(store.events, 2)
        await advance(store.events, clock)
        await until_newest(store.events, 4 if kind == "purged" else 3)  # after its expiry
        return [each.entry.id for each in await every_entry(store.events)]

    async with open_store(store_url, exclusive=False, events=policy) as store:
        lost = await happen("0" * 32)
        after = await place_after(store, len(lost))
        assert await reason_of(store, clock, after) is None
    restore()
    clock.advance(seconds=1)

    async with open_store(store_url, exclusive=False, events=policy) as store:
        assert await reason_of(store, clock, after) == "rewound"
        repeated = await happen("1" * 32)
        assert repeated[:1] + repeated[2:] == lost[:1] + lost[2:]
        assert lost[-1].partition("-")[2].count(kind) == 1
        assert await reason_of(store, clock, after) == "rewound"
        assert await reason_of(store, clock, before) is None, "the backup has what this reader saw"
