"""Support for tests of a full event log with several owners."""

import asyncio
from itertools import count

from guidsvc.domain.events.selection import EventSelection
from guidsvc.store.contract import RecordRepository
from guidsvc.store.event_log import EventLog, Numbered
from tests.conftest import FakeClock
from tests.support.events import READ_SECONDS, until_newest
from tests.support.factories import record

SIZE_BYTES = 16 * 1024
"""Maximum size of the log in these tests."""
EVENT_BYTES = 1024
"""Approximate size of an event in these tests."""
_METADATA = '{"a":"' + "x" * (EVENT_BYTES - 200) + '"}'
_guids = count()


async def create_of(store: RecordRepository, log: EventLog, clock: FakeClock, owner: str, size_bytes: int) -> None:
    """Create GUIDs whose events take `size_bytes`, but at least one, and wait until the log has the events."""
    newest = await log.newest()
    events = max(1, size_bytes // EVENT_BYTES)
    for _ in range(events):
        new = record(clock(), guid=f"{next(_guids):032X}", owner=owner, metadata=_METADATA)
        assert await store.swap(None, new)
    await until_newest(log, newest + events)


async def trim_all(log: EventLog, *, before: int = 0, size_bytes: int = SIZE_BYTES, limit: int = 50) -> None:
    """Trim the log until it fits its size and nothing is left to trim."""
    async with asyncio.timeout(READ_SECONDS):
        while await log.trim(before, size_bytes, limit) or (await log.size())[0] > size_bytes:
            await asyncio.sleep(0.01)


async def own_entries(log: EventLog, owner: str, after: int) -> list[Numbered]:
    """Read the entries of an owner after a number, page by page."""
    found: list[Numbered] = []
    while True:
        page = await log.read(after, 5, EventSelection(owner=owner))
        found += page.entries
        if page.looked_to >= page.newest:
            return found
        after = page.looked_to
