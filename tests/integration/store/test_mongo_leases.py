"""Leases of the MongoDB event log: the death of their holder stops events for seconds, whatever MongoDB's clock did."""

import asyncio
import time

from guidsvc.store.mongo.events.lease import LEASE_SECONDS
from guidsvc.store.mongo.store import MongoStore
from tests.support.factories import record
from tests.support.mongo_documents import Documents

WAIT_SECONDS = 20.0
HOUR_MS = 3_600_000


def hold(documents: Documents, name: str, milliseconds: int) -> None:
    """Let another process, which has died, hold a lease for so long from now."""
    until = time.time_ns() // 1_000_000 + milliseconds
    documents["leases"].replace_one({"_id": name}, {"holder": "dead", "until": until}, upsert=True)


async def test_lease_from_a_clock_that_was_ahead_has_ended(store: MongoStore, documents: Documents, now: int) -> None:
    for name in ("sequencer", "scheduler"):
        hold(documents, name, HOUR_MS)

    await store.records.swap(None, record(now - 60_000, expire=now // 1000 - 5))
    async with asyncio.timeout(WAIT_SECONDS):
        while await store.events.newest() < 1:
            await asyncio.sleep(0.05)
        while await store.events.newest() < 2:
            await store.events.advance(now, 100)
            await asyncio.sleep(0.05)


async def test_lease_of_a_holder_with_a_faster_clock_holds(store: MongoStore, documents: Documents, now: int) -> None:
    """After a failover, the clock of the new primary may be behind that by which the holder got the lease."""
    hold(documents, "scheduler", int(1500 * LEASE_SECONDS))

    await store.records.swap(None, record(now - 60_000, expire=now // 1000 - 5))
    assert await store.events.advance(now, 100) == 0
    found = documents["leases"].find_one({"_id": "scheduler"})
    assert found is not None
    assert found["holder"] == "dead"
