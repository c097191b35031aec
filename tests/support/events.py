"""Read entries from an event log, and write records that add entries."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from guidsvc.domain.events.entry import Entry
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.record import DELETED_EXPIRE, Record
from guidsvc.store.event_log import EventLog, Numbered
from guidsvc.store.sqlite.store import SqliteStore
from tests.conftest import FakeClock
from tests.support.factories import record

ALL = EventSelection()
READ_SECONDS = 30.0
HOUR = 3600


async def numbered_after(log: EventLog, after: int, count: int) -> Sequence[Numbered]:
    """Wait for `count` entries after a number, and return them: a store may append them slightly later."""
    async with asyncio.timeout(READ_SECONDS):
        while len(entries := (await log.read(after, 10_000, ALL)).entries) < count:
            await asyncio.sleep(0.01)
    return entries


async def entries_after(log: EventLog, after: int, count: int) -> list[Entry]:
    """Wait for `count` entries after a number, and return them without their numbers."""
    return [entry for _, entry, _ in await numbered_after(log, after, count)]


async def every_entry(log: EventLog) -> list[Numbered]:
    """Read all entries from the floor on, page by page."""
    entries: list[Numbered] = []
    after = (await log.bounds()).floor
    while True:
        page = await log.read(after, 500, ALL)
        entries += page.entries
        if page.looked_to == after:
            return entries
        after = page.looked_to


async def until_newest(log: EventLog, number: int) -> None:
    """Wait until the newest entry has this number, or a higher one."""
    async with asyncio.timeout(READ_SECONDS):
        while await log.newest() < number:
            await asyncio.sleep(0.01)


def kinds_and_versions(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    """Return the kind and version of each entry."""
    return [(entry.kind, entry.version) for entry in entries]


def next_version(old: Record, at: int, **fields: object) -> Record:
    """Return the next version of a record, written at this time in Unix milliseconds."""
    return old.model_copy(update={"version": max(old.version + 1, at), "updated": at, **fields})


def tombstone(old: Record, at: int) -> Record:
    """Return the tombstone of a record that is deleted at this time in Unix milliseconds."""
    return next_version(old, at, expire=DELETED_EXPIRE, user="deleted", metadata=None, purge_at=at // 1000 + 60)


def new_records(clock: FakeClock, count: int, **fields: object) -> list[Record]:
    """Return records with different GUIDs."""
    return [record(clock(), guid=f"{number:032X}", **fields) for number in range(count)]


async def create(store: SqliteStore, records: list[Record]) -> None:
    """Store new records."""
    assert set(await asyncio.gather(*(store.records.swap(None, new) for new in records))) <= {True}


async def advance_all(store: SqliteStore, now: int) -> None:
    """Execute all due steps."""
    while await store.events.advance(now, 200):
        pass


async def kind_counts(store: SqliteStore) -> Counter[str]:
    """Count the entries by kind."""
    return Counter(entry.kind for _, entry, _ in await every_entry(store.events))


def expired_record(clock: FakeClock, **fields: object) -> Record:
    """Return a record that was written an hour ago and has expired by the clock of every host."""
    written = clock() - HOUR * 1000
    times = {"expire": clock.seconds - 10, "purge_at": clock.seconds + HOUR}
    return record(written, **(times | fields))
