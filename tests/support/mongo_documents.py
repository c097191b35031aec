"""Support for tests of the event log on MongoDB: direct access to its documents, and entries that fill it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pymongo.database import Database

from guidsvc.domain.events.entry import Kind
from guidsvc.store.event_log import Numbered
from guidsvc.store.mongo.store import MongoStore
from tests.support.events import numbered_after
from tests.support.factories import record

Documents = Database[dict[str, Any]]
WAIT_SECONDS = 20.0


async def wait_until_drained(documents: Documents) -> None:
    """Wait until all outboxes are empty."""
    async with asyncio.timeout(WAIT_SECONDS):
        while documents["records"].count_documents({"g.pending": {"$gt": 0}}):
            await asyncio.sleep(0.01)


async def check_entries(store: MongoStore, count: int) -> list[tuple[Kind, int]]:
    """Check that the numbers of the entries have no gap; return the kind and version of each."""
    entries = await numbered_after(store.events, 0, count)
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    return [(entry.entry.kind, entry.entry.version) for entry in entries]


async def advance_all(store: MongoStore, now: int) -> int:
    """Execute all due steps; return the number of records."""
    count = 0
    while batch := await store.events.advance(now, 100):
        count += batch
    return count


async def create_varied_records(store: MongoStore, now: int, count: int = 10) -> Sequence[Numbered]:
    """Create records one after the other; return their entries. The records differ in all fields of a selection."""
    for number in range(count):
        new = record(now + number, guid=f"{number:032X}", user=f"user {number % 2}", owner=f"owner {number % 3}")
        await store.records.swap(None, new)
        await numbered_after(store.events, 0, number + 1)
    return await numbered_after(store.events, 0, count)
