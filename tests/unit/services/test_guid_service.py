"""GuidService over a real store, including lost races."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from guidsvc.domain.caller import ADMIN, SCOPES, Caller
from guidsvc.domain.commands import ListQuery, PutCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.events.schedule import MARGIN_SECONDS
from guidsvc.domain.lifecycle import CREATION_SECONDS, TOMBSTONE_SECONDS, RetentionPolicy
from guidsvc.domain.record import Record
from guidsvc.errors import Contention, Expired, InvalidRequest, NotFound
from guidsvc.services.guid_service import GuidService
from guidsvc.store import open_store
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from tests.conftest import FakeClock
from tests.support.factories import GUID

POLICY = RetentionPolicy(lifetime=3600, retention=600)
ATTEMPTS = 5


class RacingRecords(DelegatingRecords):
    """The records of a store; the first `races` swaps lose against another writer."""

    def __init__(self, store: Database, races: int) -> None:
        super().__init__(store.records)
        self.fence, self.events = store.fence, store.events
        self.races = races

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        if self.races:
            self.races -= 1
            return False
        return await self._records.swap(old, new, not_after=not_after, origin=origin)


class StallingRecords(DelegatingRecords):
    """Records whose swaps record their deadline and wait for `goes_on`."""

    def __init__(self, records: RecordRepository) -> None:
        super().__init__(records)
        self.reached, self.resume = asyncio.Event(), asyncio.Event()
        self.deadlines: list[int | None] = []

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        self.deadlines.append(not_after)
        self.reached.set()
        await self.resume.wait()
        return await self._records.swap(old, new, not_after=not_after, origin=origin)


@pytest.fixture
async def racing_records(sqlite_url: str) -> AsyncIterator[RacingRecords]:
    async with open_store(sqlite_url, exclusive=True) as store:
        yield RacingRecords(store, races=0)


@pytest.fixture
def service(racing_records: RacingRecords, clock: FakeClock) -> GuidService:
    numbers = itertools.count()
    return GuidService(
        racing_records,
        LeaseClock(racing_records.fence),
        clock=clock,
        generator=lambda now: f"{next(numbers) // 2:032X}",
        policy=POLICY,
        attempts=ATTEMPTS,
    )


def put_command(**members: object) -> PutCommand:
    """Return a PUT command with these members."""
    return PutCommand.model_validate(members)


async def test_put_creates_and_then_updates(service: GuidService) -> None:
    first = await service.put(GUID, put_command(user="a"))
    second = await service.put(GUID, put_command(user="b"))

    assert (first.created, second.created) == (True, False)
    assert (await service.get(GUID)).record == second.record


async def test_put_without_change_keeps_the_version_and_writes_nothing(
    racing_records: RacingRecords, service: GuidService, clock: FakeClock
) -> None:
    first = await service.put(GUID, put_command(user="a"))
    clock.advance(seconds=5)
    racing_records.races = 1

    assert (await service.put(GUID, put_command(user="a"))).record == first.record
    assert racing_records.races == 1


async def test_colliding_guid_is_drawn_again(service: GuidService) -> None:
    guids = [(await service.create(put_command(user="a"))).guid for _ in range(3)]

    assert guids == [f"{number:032X}" for number in range(3)], "the generator returns each number twice"


async def test_two_services_on_one_store_lose_no_write(racing_records: RacingRecords, clock: FakeClock) -> None:
    services = [
        GuidService(
            racing_records, LeaseClock(racing_records.fence), clock=clock, generator=lambda _: GUID, policy=POLICY
        )
        for _ in range(5)
    ]
    puts = [service.put(GUID, put_command(user=f"rival {number}")) for number in range(10) for service in services]
    results = await asyncio.gather(*puts)

    assert len({result.record.version for result in results}) <= 50
    assert [result.created for result in results].count(True) == 1
    assert (await services[0].get(GUID)).record.version == max(result.record.version for result in results)


async def test_service_gives_up_when_every_drawn_guid_is_taken(
    racing_records: RacingRecords, service: GuidService
) -> None:
    racing_records.races = ATTEMPTS

    with pytest.raises(Contention):
        await service.create(put_command(user="a"))


async def test_record_expires_is_renewed_and_ends_with_its_retention(service: GuidService, clock: FakeClock) -> None:
    await service.put(GUID, put_command(user="a"))
    clock.advance(seconds=3600)
    with pytest.raises(Expired):
        await service.get(GUID)
    renewed = await service.put(GUID, put_command(metadata={"b": 1}))
    assert (renewed.created, renewed.record.user) == (False, "a")
    assert (await service.get(GUID)).record == renewed.record
    clock.advance(seconds=3600 + 600)
    with pytest.raises(NotFound):
        await service.get(GUID)


async def test_stored_record_past_retention_is_created_anew(service: GuidService, clock: FakeClock) -> None:
    await service.put(GUID, put_command(user="a", expire=0))
    clock.advance(seconds=600)

    with pytest.raises(InvalidRequest):
        await service.put(GUID, put_command())
    with pytest.raises(NotFound):
        await service.delete(GUID)
    recreated = await service.put(GUID, put_command(user="b"))
    assert recreated.created
    assert recreated.record.created == clock()


async def test_expired_record_can_be_deleted(service: GuidService) -> None:
    await service.put(GUID, put_command(user="a", expire=0))
    await service.delete(GUID)

    with pytest.raises(NotFound):
        await service.get(GUID)


async def test_version_rises_across_deletion_in_one_millisecond(service: GuidService) -> None:
    first = (await service.put(GUID, put_command(user="a"))).record
    second = (await service.put(GUID, put_command(user="b"))).record
    await service.delete(GUID)
    third = (await service.put(GUID, put_command(user="c"))).record

    assert first.version < second.version < third.version


async def test_version_rises_over_a_deleted_record_as_clock_goes_back(
    racing_records: RacingRecords, clock: FakeClock
) -> None:
    service = GuidService(
        racing_records,
        LeaseClock(racing_records.fence),
        clock=clock,
        generator=lambda _: GUID,
        policy=RetentionPolicy(lifetime=1, retention=0),
    )
    clock.advance(seconds=0.5)
    first = await service.put(GUID, put_command(user="a", expire=0))
    clock.advance(seconds=-0.1)
    recreated = await service.put(GUID, put_command(user="b", expire=0))

    assert (first.created, recreated.created) == (True, True)
    assert recreated.record.version > first.record.version


async def test_late_creation_has_version_above_concurrent_deletions(
    racing_records: RacingRecords, clock: FakeClock
) -> None:
    rival = GuidService(
        racing_records, LeaseClock(racing_records.fence), clock=clock, generator=lambda _: GUID, policy=POLICY
    )
    stalled = StallingRecords(racing_records)
    creation = asyncio.create_task(
        GuidService(
            stalled, LeaseClock(racing_records.fence), clock=clock, generator=lambda _: GUID, policy=POLICY
        ).put(GUID, put_command(user="late"))
    )
    await stalled.reached.wait()
    clock.advance(seconds=1)
    await rival.put(GUID, put_command(user="first"))
    deleted = (await rival.put(GUID, put_command(user="second"))).record
    await rival.delete(GUID)
    clock.advance(seconds=-1)
    stalled.resume.set()

    created = await creation
    assert created.created
    assert created.record.version > deleted.version
    assert (await rival.get(GUID)).record == created.record


async def test_creation_takes_effect_soon_or_never(racing_records: RacingRecords, clock: FakeClock) -> None:
    """Soon: long before the tombstones of concurrent deletions are removed."""
    stalled = StallingRecords(racing_records)
    stalled.resume.set()
    service = GuidService(
        stalled, LeaseClock(racing_records.fence), clock=clock, generator=lambda _: GUID, policy=POLICY
    )
    now = (await racing_records.fence.read()).now

    await service.put(GUID, put_command(user="a"))
    await service.put(GUID, put_command(user="b"))

    creation, update = stalled.deadlines
    assert update is None
    assert creation is not None
    assert creation - now <= CREATION_SECONDS * 1000 <= TOMBSTONE_SECONDS * 1000 / 2


async def test_deleted_record_is_unlisted_uncounted_and_free_to_all(
    racing_records: RacingRecords, service: GuidService
) -> None:
    user_scopes, all_scopes = frozenset(SCOPES) - {ADMIN}, frozenset(SCOPES)
    owner_service, other_service, admin = (
        service.acting_for(Caller(owner, scopes, "key:1"))
        for owner, scopes in (("mine", user_scopes), ("theirs", user_scopes), ("admin", all_scopes))
    )
    await owner_service.put(GUID, put_command(user="a", metadata={"secret": 1}))
    await owner_service.delete(GUID)

    for caller_service in (owner_service, other_service, admin):
        for query in (ListQuery(state="live"), ListQuery(state="expired"), ListQuery(state="all")):
            assert (await caller_service.find(query)).records == []
            assert await caller_service.count(query) == 0
        with pytest.raises(NotFound):
            await caller_service.get(GUID)
        with pytest.raises(NotFound):
            await caller_service.delete(GUID)
    assert (tombstone := await racing_records.get(GUID)) is not None
    assert "secret" not in tombstone.model_dump_json()

    assert (await other_service.put(GUID, put_command(user="b"))).record.owner == "theirs"


async def test_tombstone_is_removed_after_a_while(
    racing_records: RacingRecords, service: GuidService, clock: FakeClock
) -> None:
    await service.put(GUID, put_command(user="a"))
    await service.delete(GUID)

    assert await racing_records.events.advance((clock.seconds + TOMBSTONE_SECONDS) * 1000, 10) == 0
    assert await racing_records.events.advance((clock.seconds + TOMBSTONE_SECONDS + MARGIN_SECONDS) * 1000, 10) == 1
    assert await racing_records.get(GUID) is None


async def test_lost_race_is_repeated_with_a_fresh_read(racing_records: RacingRecords, service: GuidService) -> None:
    await service.put(GUID, put_command(user="a"))
    racing_records.races = 3
    assert (await service.put(GUID, put_command(user="b"))).record.user == "b"
    racing_records.races = 3
    await service.delete(GUID)
    assert racing_records.races == 0


async def test_write_that_never_wins_ends_as_unavailable(racing_records: RacingRecords, service: GuidService) -> None:
    await service.put(GUID, put_command(user="a"))

    racing_records.races = ATTEMPTS
    with pytest.raises(Contention):
        await service.put(GUID, put_command(user="b"))
    racing_records.races = ATTEMPTS
    with pytest.raises(Contention):
        await service.delete(GUID)


async def test_thousand_racing_puts_create_once_and_lose_nothing(service: GuidService) -> None:
    results = await asyncio.gather(*(service.put(GUID, put_command(user=f"rival {number}")) for number in range(1000)))

    assert [result.created for result in results].count(True) == 1
    versions = [result.record.version for result in results]
    assert len(set(versions)) == len(versions), "each put has its own version"


async def test_writes_of_other_owners_do_not_wait_for_the_lock(racing_records: RacingRecords, clock: FakeClock) -> None:
    """They would delay the owner's writes. They fail while one of the owner's writes is in flight."""
    stalled, user_scopes = StallingRecords(racing_records), frozenset(SCOPES) - {ADMIN}
    service = GuidService(
        stalled, LeaseClock(racing_records.fence), clock=clock, generator=lambda _: GUID, policy=POLICY
    )
    owner_service, other_service = (
        service.acting_for(Caller(owner, user_scopes, "key:1")) for owner in ("mine", "theirs")
    )
    stalled.resume.set()
    await owner_service.put(GUID, put_command(user="a"))
    stalled.resume.clear()
    stalled.reached.clear()
    update = asyncio.create_task(owner_service.put(GUID, put_command(user="b")))
    await stalled.reached.wait()
    for _ in range(3):
        with pytest.raises(NotFound):
            await asyncio.wait_for(other_service.put(GUID, put_command(user="c")), 5)
        with pytest.raises(NotFound):
            await asyncio.wait_for(other_service.delete(GUID), 5)
    stalled.resume.set()
    assert (await update).record.user == "b"
