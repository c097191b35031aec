"""The quota of live records is exact under concurrent creation, with one process or several on one store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from random import Random

import pytest

from guidsvc.domain import guid_generator
from guidsvc.domain.caller import Caller, scopes_of
from guidsvc.domain.commands import PatchCommand, PutCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.quota_ledger import LEASE_MS, ROOM_MS, QuotaLedger
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import NotFound, OutcomeUnknown, QuotaExceeded, StoreUnavailable
from guidsvc.services import quota
from guidsvc.services.guid_service import GuidService
from guidsvc.services.quota import LedgerQuota, open_quota
from guidsvc.store import open_store
from guidsvc.store.cache_fence import FenceReading, FenceStore
from guidsvc.store.contract import Database, LedgerRepository, RecordRepository
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from guidsvc.store.mongo.store import open_mongo
from tests.conftest import FakeClock
from tests.support.factories import GUID, record

LIFETIME = 3600
TERMS = RetentionPolicy(lifetime=LIFETIME, retention=7200)
ALICE, BOB = (Caller(name, scopes_of(["read", "write", "delete"]), name) for name in ("alice", "bob"))
MONGO_MS = 20_000
"""Enough for MongoDB to complete hundreds of concurrent writes on a slow machine."""
USER = PutCommand.model_validate({"user": "a"})


class SharedTime:
    """The time of all processes and of the store; a test advances it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.ahead_ms = 0

    def advance(self, seconds: float) -> None:
        """Advance both clocks."""
        self._clock.advance(seconds=seconds)
        self.ahead_ms += round(seconds * 1000)


class InstrumentedDatabase:
    """A database that counts tallies and ledger swaps, and fails or pauses on request."""

    def __init__(self, store: Database, time: "SharedTime") -> None:
        self._store = store
        self.records, self.ledgers, self.fence = (
            InstrumentedRecords(store.records, self),
            InstrumentedLedgers(store.ledgers, self),
            InstrumentedFence(store.fence, self),
        )
        self.receipts, self.api_keys, self.events = store.receipts, store.api_keys, store.events
        self.tallies = self.ledger_swaps = self.races = 0
        self.live_counts: list[int] | None = None
        """The number of live records after each swap, or None if it is not counted."""
        self.record_error: Exception | None = None
        """Raised by a swap of a record: before it if the store is unavailable, else after it."""
        self.ledger_error: Exception | None = None
        self.clock_reads = 0
        """The number of reads of the store's clock."""
        self.clock_error: Exception | None = None
        self.time = time
        self.deadlines: list[int | None] = []
        """The `not_after` of each swap of a record."""
        self.pauses: list[Callable[[], Awaitable[object]]] = []
        """Each is run once, between the request for a swap and its arrival at the store."""
        self.meanwhile: list[Callable[[], Awaitable[object]]] = []
        """Each is run once, as if by another process, between a read for a write and its reservation."""

    async def store_id(self) -> str:
        return await self._store.store_id()

    async def ping(self) -> None:
        await self._store.ping()

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        self._store.on_claim(changed)


class InstrumentedRecords(DelegatingRecords):
    """The records of an `InstrumentedDatabase`."""

    def __init__(self, records: RecordRepository, store: InstrumentedDatabase) -> None:
        super().__init__(records)
        self._database = store

    async def get_for_update(self, guid: str, /) -> Record | None:
        stored = await self._records.get_for_update(guid)
        if self._database.meanwhile:
            await self._database.meanwhile.pop()()
        return stored

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        database = self._database
        if isinstance(database.record_error, StoreUnavailable):
            raise database.record_error
        database.deadlines.append(not_after)
        if database.pauses:
            await database.pauses.pop()()
        is_swapped = await self._records.swap(
            old, new, not_after=not_after and not_after - database.time.ahead_ms, origin=origin
        )
        if database.record_error:
            raise database.record_error
        if database.live_counts is not None:
            database.live_counts.append(await self._records.count(Selection(expire_from=1)))
        return is_swapped

    async def count_linearizable(self, selection: Selection) -> int:
        self._database.tallies += 1
        return await self._records.count_linearizable(selection)


class InstrumentedLedgers:
    """The ledgers of an `InstrumentedDatabase`."""

    def __init__(self, ledgers: LedgerRepository, store: InstrumentedDatabase) -> None:
        self._ledgers, self._database = ledgers, store

    async def get(self, owner: str, /) -> QuotaLedger | None:
        return await self._ledgers.get(owner)

    async def swap(self, old: QuotaLedger | None, new: QuotaLedger | None) -> bool:
        self._database.ledger_swaps += 1
        if self._database.ledger_error:
            raise self._database.ledger_error
        if self._database.races:
            self._database.races -= 1
            return False
        return await self._ledgers.swap(old, new)


class InstrumentedFence:
    """The fence and the clock of an `InstrumentedDatabase`."""

    def __init__(self, fence: FenceStore, store: InstrumentedDatabase) -> None:
        self._fence, self._database = fence, store
        self.swap = fence.swap

    async def read(self) -> FenceReading:
        self._database.clock_reads += 1
        if self._database.clock_error:
            raise self._database.clock_error
        reading = await self._fence.read()
        return reading._replace(now=reading.now + self._database.time.ahead_ms)


class Process:
    """The store, the quota and the service of one process."""

    def __init__(self, store: InstrumentedDatabase, quota_: quota.Quota, clock: FakeClock) -> None:
        self.store = store
        self.quota = quota_
        self.service = GuidService(
            store.records,
            LeaseClock(store.fence),
            clock=clock,
            generator=guid_generator.random_generator(guid_generator.guid_v4),
            policy=TERMS,
            quota=quota_,
        )

    async def live(self, owner: str, clock: FakeClock) -> int:
        """Count the live records of an owner."""
        return await self.store.records.count(Selection(owner=owner, expire_from=clock.seconds + 1))


class Processes:
    """Open the same store repeatedly, as several processes would, each with its own quota."""

    def __init__(self, url: str, clock: FakeClock, stack: AsyncExitStack) -> None:
        self._url = url
        self._clock = clock
        self._stack = stack
        self.time = SharedTime(clock)

    async def start(self, limit: int) -> Process:
        """Start another process with this quota."""
        on_mongo = self._url.startswith("mongodb")
        opening = open_mongo(self._url, timeout_ms=MONGO_MS) if on_mongo else open_store(self._url, exclusive=False)
        opened = await self._stack.enter_async_context(opening)
        store = InstrumentedDatabase(opened, self.time)
        quota_ = await self._stack.enter_async_context(
            open_quota(store, lease_clock=LeaseClock(store.fence), clock=self._clock, quota=limit)
        )
        return Process(store, quota_, self._clock)


@pytest.fixture(params=["sqlite", "mongo"])
async def processes(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(request.getfixturevalue(f"{request.param}_url"), clock, stack)


async def create_concurrently(services: Sequence[GuidService], count: int) -> list[str]:
    """Create `count` records concurrently, spread over the services; return the GUIDs of those not rejected."""
    creations = [services[number % len(services)].create(USER) for number in range(count)]
    outcomes = await asyncio.gather(*creations, return_exceptions=True)
    errors = [
        outcome for outcome in outcomes if isinstance(outcome, BaseException) and not isinstance(outcome, QuotaExceeded)
    ]
    assert errors == []
    return [outcome.guid for outcome in outcomes if isinstance(outcome, Record)]


async def wait_until_released(process: Process, owner: str = "") -> None:
    """Wait until nothing is reserved."""
    while (ledger := await process.store.ledgers.get(owner)) is not None and ledger.entries != "{}":
        await asyncio.sleep(0.01)


async def test_quota_holds_for_a_thousand_concurrent_creations(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(100)

    guids = await create_concurrently([process.service], 1000)

    assert len(guids) == len(set(guids)) == await process.live("", clock) == 100
    assert process.store.ledger_swaps < 20, "waiting writes are admitted together"


async def test_quota_holds_for_creations_by_three_processes(processes: Processes, clock: FakeClock) -> None:
    all_processes = [await processes.start(100) for _ in range(3)]

    guids = await create_concurrently([process.service for process in all_processes], 1000)

    assert len(guids) == len(set(guids)) == await all_processes[0].live("", clock) == 100


async def test_each_owner_has_its_own_quota(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(3)

    for caller in (ALICE, BOB):
        assert len(await create_concurrently([process.service.acting_for(caller)], 10)) == 3
    assert [await process.live(owner, clock) for owner in ("alice", "bob")] == [3, 3]


async def test_records_are_not_counted_without_a_quota(processes: Processes) -> None:
    process = await processes.start(0)

    assert len(await create_concurrently([process.service], 10)) == 10
    assert (process.store.tallies, process.store.ledger_swaps) == (0, 0)


async def test_deletion_frees_a_place_at_once(processes: Processes) -> None:
    first, second = await processes.start(1), await processes.start(1)
    for _ in range(5):
        (guid,) = await create_concurrently([first.service], 1)
        assert await create_concurrently([second.service], 3) == []
        await second.service.delete(guid)
        (guid,) = await create_concurrently([second.service], 1)
        await first.service.delete(guid)


async def test_expiry_frees_a_place_and_renewal_takes_one(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(2)
    first = await create_concurrently([process.service], 2)
    clock.advance(seconds=LIFETIME)
    second = await create_concurrently([process.service], 5)
    assert len(second) == 2

    for renewal in (
        process.service.put(first[0], USER),
        process.service.patch(first[1], PatchCommand.model_validate({"expire": clock.seconds + LIFETIME})),
    ):
        with pytest.raises(QuotaExceeded):
            await renewal
    await process.service.delete(second[0])
    renewed = await asyncio.gather(*(process.service.put(guid, USER) for guid in first), return_exceptions=True)
    assert [type(each) for each in renewed].count(QuotaExceeded) == 1
    assert await process.live("", clock) == 2


async def test_creation_of_expired_record_takes_no_place(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(1)
    expired = PutCommand.model_validate({"user": "a", "expire": 0})

    await asyncio.gather(*(process.service.create(expired) for _ in range(5)))
    (guid,) = await create_concurrently([process.service], 1)
    await process.service.put(guid, expired)

    assert len(await create_concurrently([process.service], 2)) == 1


async def test_live_record_can_change_and_be_extended_at_the_quota(processes: Processes, clock: FakeClock) -> None:
    """Also shortly before it expires; then it is reserved so that no other record takes its place."""
    process = await processes.start(1)
    (guid,) = await create_concurrently([process.service], 1)
    await process.service.put(guid, PutCommand.model_validate({"user": "b"}))
    clock.advance(seconds=LIFETIME - LEASE_MS // 1000 + 1)
    await process.service.put(guid, PutCommand.model_validate({"expire": clock.seconds + LIFETIME}))
    assert process.store.ledger_swaps >= 2
    clock.advance(seconds=LEASE_MS // 1000)

    assert await create_concurrently([process.service], 3) == []
    assert await process.live("", clock) == 1


@pytest.mark.slow
async def test_place_of_a_renewal_in_its_last_second_is_not_given_away(processes: Processes, clock: FakeClock) -> None:
    process, other = await processes.start(1), await processes.start(1)
    old = record(clock(), expire=clock.seconds + 1)
    await process.store.records.swap(None, old)
    renewed = old.model_copy(update={"expire": clock.seconds + 3600, "version": old.version + 1})

    async with process.quota.reserve(old, renewed):
        clock.advance(seconds=2)
        assert await create_concurrently([other.service], 1) == []
        assert await process.store.records.swap(old, renewed)


@pytest.mark.slow
async def test_reservation_of_a_dead_process_lasts_thirty_seconds(processes: Processes, clock: FakeClock) -> None:
    process, other = await processes.start(1), await processes.start(1)
    await process.quota.reserve(None, record(clock())).__aenter__()  # this process is never heard of again

    assert await create_concurrently([other.service], 1) == []
    clock.advance(seconds=LEASE_MS / 1000 - 1)
    assert await create_concurrently([other.service], 1) == []
    clock.advance(seconds=1)
    assert len(await create_concurrently([other.service], 2)) == 1


@pytest.mark.slow
async def test_write_of_unknown_outcome_holds_its_place_until_it_ends(processes: Processes, clock: FakeClock) -> None:
    """Whether the store applied it or not; after that, the stored records count."""
    process = await processes.start(2)
    process.store.record_error = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await process.service.create(USER)
    process.store.record_error = None
    (record_,) = await process.store.records.find(Selection(), "", 2)
    await process.service.delete(record_.guid)

    assert len(await create_concurrently([process.service], 3)) == 1
    clock.advance(seconds=LEASE_MS / 1000)
    assert len(await create_concurrently([process.service], 3)) == 1


@pytest.mark.slow
async def test_stored_record_with_a_reservation_counts_once(processes: Processes, clock: FakeClock) -> None:
    process, other = await processes.start(3), await processes.start(3)
    process.store.record_error = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await process.service.create(USER)

    assert len(await create_concurrently([other.service], 5)) == 2
    assert await process.live("", clock) == 3


async def test_extended_and_new_records_count_once(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(2)
    (guid,) = await create_concurrently([process.service], 1)
    clock.advance(seconds=LIFETIME - 1)
    longer = PutCommand.model_validate({"expire": clock.seconds + LIFETIME})

    await asyncio.gather(process.service.put(guid, longer), process.service.create(USER))
    assert await create_concurrently([process.service], 1) == []


async def test_failed_write_returns_its_place(processes: Processes, clock: FakeClock) -> None:
    process, other = await processes.start(1), await processes.start(1)
    process.store.record_error = StoreUnavailable("no")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await process.service.create(USER)
    await wait_until_released(process)

    assert len(await create_concurrently([other.service], 2)) == 1


async def test_cancelled_waiter_leaves_no_reservation(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(1)
    await process.quota.reserve(None, record(clock())).__aenter__()
    waiter = asyncio.create_task(process.service.create(USER))
    while not process.store.tallies > 1:
        await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    clock.advance(seconds=LEASE_MS / 1000)

    assert len(await create_concurrently([process.service], 2)) == 1


async def test_reservations_are_returned_after_the_write(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(10)
    guids = await create_concurrently([process.service], 5)
    await wait_until_released(process)
    ledger = await process.store.ledgers.get("")

    assert len(guids) == 5
    assert ledger is not None
    assert (ledger.room, ledger.quota) == (5, 10)


async def test_changes_past_the_ledger_are_found_without_early_counts(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(10)
    for _ in range(5):
        await process.service.create(USER)
    assert process.store.tallies == 1
    for number in range(4):
        await process.store.records.swap(None, record(clock(), guid=f"{number:032X}"))
    clock.advance(seconds=ROOM_MS / 1000)

    assert len(await create_concurrently([process.service], 5)) == 1


async def test_changed_quota_causes_a_new_count(processes: Processes, clock: FakeClock) -> None:
    large, small = await processes.start(10), await processes.start(3)
    assert len(await create_concurrently([large.service], 4)) == 4

    assert await create_concurrently([small.service], 1) == []
    assert len(await create_concurrently([large.service], 10)) == 6


async def test_lost_race_is_no_rejection(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(3)
    process.store.races = 5

    assert len(await create_concurrently([process.service], 5)) == 3


async def test_unwritable_ledger_is_unavailable_and_changes_nothing(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(3)
    for error in (OutcomeUnknown("no answer"), StoreUnavailable("no")):
        process.store.ledger_error = error
        with pytest.raises(StoreUnavailable):
            await process.service.create(USER)
    assert await process.live("", clock) == 0
    process.store.ledger_error = None

    assert len(await create_concurrently([process.service], 5)) == 3


async def test_concurrent_creations_of_one_guid_take_one_place(processes: Processes, clock: FakeClock) -> None:
    all_processes = [await processes.start(2) for _ in range(3)]

    written = await asyncio.gather(*(process.service.put(GUID, USER) for process in all_processes for _ in range(10)))

    assert [stored.created for stored in written].count(True) == 1
    assert len(await create_concurrently([all_processes[0].service], 3)) == 1
    assert await all_processes[0].live("", clock) == 2


async def run_and_check_limit(
    all_processes: Sequence[Process], writes: Sequence[Coroutine[object, object, None]], limit: int
) -> None:
    """Run the writes concurrently; check that no count after a write exceeds the limit."""
    for process in all_processes:
        process.store.live_counts = []
    await asyncio.gather(*writes)
    live_counts = [live for process in all_processes for live in process.store.live_counts or ()]
    assert len(live_counts) >= limit, "too few counts were taken"
    assert max(live_counts) <= limit


async def put_unless_rejected(process: Process, guid: str) -> None:
    with suppress(QuotaExceeded):
        await process.service.put(guid, USER)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_two_processes_on_the_same_guids_never_exceed_the_quota(processes: Processes, seed: int) -> None:
    all_processes = [await processes.start(15) for _ in range(2)]
    guids = [f"{number:032X}" for number in range(40)]

    async def client(number: int) -> None:
        random = Random(f"{seed} {number}")
        for _ in range(20):
            process, guid = random.choice(all_processes), random.choice(guids)
            if random.random() < 0.6:
                await put_unless_rejected(process, guid)
            else:
                with suppress(NotFound):
                    await process.service.delete(guid)

    await run_and_check_limit(all_processes, [client(number) for number in range(16)], 15)


@pytest.mark.slow
async def test_three_processes_on_same_guids_fill_the_quota_exactly(processes: Processes, clock: FakeClock) -> None:
    all_processes = [await processes.start(40) for _ in range(3)]
    for trial in range(2):
        guids = [f"{trial * 1000 + number:032X}" for number in range(52)]
        writes = [
            put_unless_rejected(process, guid)
            for process in all_processes
            for guid in Random(trial).sample(guids, len(guids))
        ]
        Random(trial).shuffle(writes)
        await run_and_check_limit(all_processes, writes, 40)
        assert await all_processes[0].live("", clock) == 40
        stored = await all_processes[0].store.records.find(Selection(), "", 1000)
        await asyncio.gather(*(all_processes[0].service.delete(item.guid) for item in stored))


async def test_rejection_due_to_another_process_causes_a_fresh_read(processes: Processes, clock: FakeClock) -> None:
    """The other process has made the record live already, so a change needs no further place."""
    process, other = await processes.start(1), await processes.start(1)
    for guid, write in (("A" * 32, process.service.put), ("B" * 32, process.service.patch)):
        expired = record(clock(), guid=guid, expire=0)
        await other.store.records.swap(None, expired)
        live = record(clock(), guid=guid, version=expired.version + 1)
        process.store.meanwhile = [partial(other.store.records.swap, expired, live)]

        change = (PutCommand if write == process.service.put else PatchCommand).model_validate(
            {"user": "by the first", "expire": str(clock.seconds + 3600)}
        )
        await write(guid, change)  # type: ignore[arg-type]  # each method gets its own kind of command
        assert process.store.meanwhile == []

        stored = await process.store.records.get(guid)
        assert stored is not None
        assert stored.user == "by the first"
        await other.service.delete(guid)


async def test_stalled_write_takes_no_place_of_another(processes: Processes, clock: FakeClock) -> None:
    """Its reservation has ended by then. The store rejects the write, and the stored records reject the retry."""
    process, other = await processes.start(1), await processes.start(1)

    async def stall() -> None:
        processes.time.advance(LEASE_MS / 1000)
        assert len(await create_concurrently([other.service], 2)) == 1

    process.store.pauses = [stall]
    assert await create_concurrently([process.service], 1) == []
    assert process.store.pauses == []
    assert await process.live("", clock) == 1


@pytest.mark.slow
async def test_stalled_write_is_admitted_again_if_there_is_room(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(1)

    async def stall() -> None:
        processes.time.advance(LEASE_MS / 1000)

    process.store.pauses = [stall] * 3
    assert len(await create_concurrently([process.service], 1)) == 1
    assert await process.live("", clock) == 1


async def test_stalled_renewal_of_an_expired_record_obeys_the_quota(processes: Processes, clock: FakeClock) -> None:
    """It needs no reservation, because the record lives longer than a reservation lasts."""
    process, other = await processes.start(1), await processes.start(1)
    (guid,) = await create_concurrently([process.service], 1)

    async def stall() -> None:
        processes.time.advance(LIFETIME)
        assert len(await create_concurrently([other.service], 2)) == 1

    process.store.pauses = [stall]
    with pytest.raises(QuotaExceeded):
        await process.service.put(guid, PutCommand.model_validate({"expire": clock.seconds + 2 * LIFETIME}))
    assert process.store.pauses == []
    assert await process.live("", clock) == 1


async def test_reserved_place_is_reused_only_once_its_write_is_late(processes: Processes, clock: FakeClock) -> None:
    """The store's deadline of a write is earlier than the end of its reservation, by half the lease."""
    process = await processes.start(1)
    before = (await process.store.fence.read()).now
    async with process.quota.reserve(None, record(clock())) as not_after:
        after = (await process.store.fence.read()).now
        assert not_after is not None
        assert before < not_after <= after + LEASE_MS / 2


async def test_write_without_expiry_change_or_quota_has_no_deadline(processes: Processes) -> None:
    unlimited, limited = await processes.start(0), await processes.start(3)
    for process, clock_reads in ((unlimited, 0), (limited, 1)):
        record_ = await process.service.create(USER)
        await process.service.put(record_.guid, PutCommand.model_validate({"user": "b"}))
        await process.service.delete(record_.guid)
        assert process.store.clock_reads == clock_reads
    assert unlimited.store.deadlines == [None, None, None]
    assert [deadline is None for deadline in limited.store.deadlines] == [False, True, True]


async def test_store_with_unreadable_clock_admits_nothing(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(1)
    process.store.clock_error = StoreUnavailable("no")
    with pytest.raises(StoreUnavailable):
        await process.service.create(USER)
    process.store.clock_error = None

    assert len(await create_concurrently([process.service], 2)) == 1


async def test_dry_run_predicts_rejections_and_reserves_nothing(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(3)
    (guid,) = await create_concurrently([process.service], 1)
    await wait_until_released(process)
    before = await process.store.ledgers.get("")

    with process.service.dry_run() as dry_run:
        assert len(await create_concurrently([dry_run], 5)) == 2
        await dry_run.delete(guid)
        assert len(await create_concurrently([dry_run], 5)) == 1
    assert await process.store.ledgers.get("") == before
    assert await process.live("", clock) == 1
    assert len(await create_concurrently([process.service], 5)) == 2


async def test_completed_reservations_are_returned_at_shutdown(processes: Processes, clock: FakeClock) -> None:
    process = await processes.start(3)
    ledger_quota = LedgerQuota(process.store, lease_clock=LeaseClock(process.store.fence), clock=clock, quota=3)
    async with ledger_quota.reserve(None, record(clock())):
        pass
    while ledger_quota._releases:
        await asyncio.sleep(0.01)
    async with ledger_quota.reserve(None, record(clock(), guid="0" * 32)):
        pass
    await ledger_quota.aclose()

    ledger = await process.store.ledgers.get("")
    assert ledger is not None
    assert ledger.entries == "{}"


async def test_failed_return_of_reservations_does_not_delay_shutdown(
    processes: Processes, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await processes.start(3)
    monkeypatch.setattr(quota, "CLOSE_SECONDS", 0.1)
    ledger_quota = LedgerQuota(process.store, lease_clock=LeaseClock(process.store.fence), clock=clock, quota=3)
    async with ledger_quota.reserve(None, record(clock())):
        process.store.ledger_error = StoreUnavailable("no")
    await asyncio.wait_for(ledger_quota.aclose(), 5)
