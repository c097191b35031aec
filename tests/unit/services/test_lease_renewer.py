"""Delayed renewals, on each store and each cache: none takes effect after the lease has expired."""

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
REMAINING_MS = 400
"""The remaining time of the lease when the renewal decides, in milliseconds."""


class DelayedRecords(DelegatingRecords):
    """Records whose first swap waits for permission to continue."""

    def __init__(self, records: RecordRepository) -> None:
        super().__init__(records)
        self.has_begun, self.may_continue = asyncio.Event(), asyncio.Event()
        self.deadlines: list[int | None] = []

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        self.deadlines.append(not_after)
        self.has_begun.set()
        await self.may_continue.wait()
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
    """Start a renewal shortly before the expiry; return once its write is delayed."""
    await service_of(store, database, clock).put(GUID, PutCommand.model_validate({"user": "a", "ttl": TTL}))
    clock.advance(seconds=TTL - REMAINING_MS / 1000)
    records = DelayedRecords(store)
    command = RenewCommand.model_validate({"ttl": TTL} | members)
    renewal = asyncio.create_task(service_of(records, database, clock).renew(GUID, command))
    await asyncio.wait_for(records.has_begun.wait(), 30)
    return records, renewal


async def until_store_passes(database: Database, milliseconds: int) -> None:
    """Wait until the clock of the store has passed this time."""
    while (await database.fence.read()).now <= milliseconds:
        await asyncio.sleep(0.01)


async def test_delayed_renewal_does_not_revive_the_lease(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """The renewal fails with 410, and the record is unchanged, although no other write changed it."""
    started = (await database.fence.read()).now
    records, renewal = await delayed_renewal(store, database, clock)
    (deadline,) = records.deadlines
    assert deadline is not None
    assert started < deadline <= (await database.fence.read()).now + REMAINING_MS
    stored = await store.get(GUID)
    await until_store_passes(database, deadline)
    clock.advance(seconds=1)
    records.may_continue.set()

    with pytest.raises(Expired):
        await renewal
    assert await store.get(GUID) == stored


async def test_delayed_renewal_with_revive_takes_effect(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    records, renewal = await delayed_renewal(store, database, clock, revive=True)
    clock.advance(seconds=1)
    records.may_continue.set()

    assert (await renewal).renewed
    assert records.deadlines == [None]
    assert await store.get(GUID) == (await renewal).record


async def test_renewal_in_the_last_moments_takes_effect(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    """The store may reject late attempts, but the service's clock is stopped, so it retries."""
    records, renewal = await delayed_renewal(store, database, clock)
    records.may_continue.set()

    assert (await renewal).renewed
    assert await store.get(GUID) == (await renewal).record


async def test_delayed_put_that_must_not_revive_leaves_the_lease(
    store: RecordRepository, database: Database, clock: FakeClock
) -> None:
    started = (await database.fence.read()).now
    await service_of(store, database, clock).put(GUID, PutCommand.model_validate({"user": "a", "ttl": TTL}))
    clock.advance(seconds=TTL - REMAINING_MS / 1000)
    records = DelayedRecords(store)
    command = PutCommand.model_validate({"ttl": TTL, "revive": False})
    put = asyncio.create_task(service_of(records, database, clock).put(GUID, command))
    await asyncio.wait_for(records.has_begun.wait(), 30)
    (deadline,) = records.deadlines
    assert deadline is not None
    assert started < deadline
    await until_store_passes(database, deadline)
    clock.advance(seconds=1)
    records.may_continue.set()

    with pytest.raises(Expired):
        await put
