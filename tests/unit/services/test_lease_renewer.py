"""Renewals whose write is delayed, on each store and each cache: none takes effect after the lease has expired."""

import asyncio
from typing import Any

import pytest

from guidsvc.domain.commands import PutCommand, RenewCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.leases.renewal import Renewal
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import Record
from guidsvc.errors import Expired
from guidsvc.services.guid_service import GuidService
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from tests.conftest import FakeClock
from tests.support.factories import GUID

TTL = 60
LEFT_MS = 400
"""What is left of the lease when the renewal decides, in milliseconds."""


class DelayedRecords(DelegatingRecords):
    """Records whose first swap waits until it may go on."""

    def __init__(self, records: RecordRepository) -> None:
        super().__init__(records)
        self.has_begun, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.deadlines: list[int | None] = []

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        self.deadlines.append(not_after)
        self.has_begun.set()
        await self.may_go_on.wait()
        return await self._records.swap(old, new, not_after=not_after, origin=origin)


def service_of(records: RecordRepository, database: Database, clock: FakeClock) -> GuidService:
    """Return a service over these records."""
    return GuidService(
        records,
        LeaseClock(database.fence),
        clock=clock,
        generator=lambda _: GUID,
        policy=RetentionPolicy(lifetime=3600, retention=600),
    )


async def delayed_renewal(
    store: RecordRepository, database: Database, clock: FakeClock, **members: Any
) -> tuple[DelayedRecords, "asyncio.Task[Renewal]"]:
    """Begin a renewal shortly before the expiry, and return once its write is delayed."""
    await service_of(store, database, clock).put(GUID, PutCommand.model_validate({"user": "a", "ttl": TTL}))
    clock.advance(seconds=TTL - LEFT_MS / 1000)
    records = DelayedRecords(store)
    asked = RenewCommand.model_validate({"ttl": TTL} | members)
    renewal = asyncio.create_task(service_of(records, database, clock).renew(GUID, asked))
    await asyncio.wait_for(records.has_begun.wait(), 30)
    return records, renewal


async def until_store_passes(database: Database, milliseconds: int) -> None:
    """Wait until the clock of the store has passed this time."""
    while (await database.fence.read()).now <= milliseconds:
        await asyncio.sleep(0.01)


async def test_delayed_renewal_does_not_revive_the_lease(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """It is 410, and the record stays as it was, although nobody else has changed it."""
    begun = (await database.fence.read()).now
    records, renewal = await delayed_renewal(store, database, clock)
    (deadline,) = records.deadlines
    assert deadline is not None
    assert begun < deadline <= (await database.fence.read()).now + LEFT_MS
    before = await store.get(GUID)
    await until_store_passes(database, deadline)
    clock.advance(seconds=1)
    records.may_go_on.set()

    with pytest.raises(Expired):
        await renewal
    assert await store.get(GUID) == before


async def test_delayed_renewal_with_revive_takes_effect(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    records, renewal = await delayed_renewal(store, database, clock, revive=True)
    clock.advance(seconds=1)
    records.may_go_on.set()

    assert (await renewal).renewed
    assert records.deadlines == [None]
    assert await store.get(GUID) == (await renewal).record


async def test_renewal_in_the_last_moments_takes_effect(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """The store may refuse attempts that it gets too late, but the time stands still for the service: it retries."""
    records, renewal = await delayed_renewal(store, database, clock)
    records.may_go_on.set()

    assert (await renewal).renewed
    assert await store.get(GUID) == (await renewal).record
