"""The quota of live records: exact, whoever creates at once, over one store or several on the same records."""

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
"""In which MongoDB answers hundreds of writes at once on the slowest of machines."""
USER = PutCommand.model_validate({"user": "a"})


class Time:
    """The time of every process, and of the store, which a test moves on."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.ahead_ms = 0

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._clock.advance(seconds=seconds)
        self.ahead_ms += round(seconds * 1000)


class Store:
    """A store that counts how often it is asked to tally, and to swap a ledger; and does as it is told."""

    def __init__(self, store: Database, time: "Time") -> None:
        self._store = store
        self.records, self.ledgers, self.fence = (
            Records(store.records, self),
            Ledgers(store.ledgers, self),
            Fence(store.fence, self),
        )
        self.receipts, self.api_keys, self.events = store.receipts, store.api_keys, store.events
        self.tallies = self.ledger_swaps = self.races = 0
        self.seen: list[int] | None = None
        """How many records are live after each swap, where that is to be looked at."""
        self.fails: Exception | None = None
        """What a swap of a record is told as, though it is done."""
        self.ledger_fails: Exception | None = None
        self.looks = 0
        """How often its clock was read."""
        self.clock_fails: Exception | None = None
        self.time = time
        self.deadlines: list[int | None] = []
        """The `not_after` of each swap."""
        self.pauses: list[Callable[[], Awaitable[object]]] = []
        """What happens, one each time, between the moment when a swap is sent and when the store gets it."""
        self.meanwhile: list[Callable[[], Awaitable[object]]] = []
        """What another process does, one each time, between a read for a write and its reservation."""

    async def store_id(self) -> str:
        return await self._store.store_id()

    async def ping(self) -> None:
        await self._store.ping()

    def on_claim(self, changed: Callable[[bool], None]) -> None:
        self._store.on_claim(changed)


class Records(DelegatingRecords):
    """The records of such a store."""

    def __init__(self, records: RecordRepository, store: Store) -> None:
        super().__init__(records)
        self._of = store

    async def get_for_update(self, guid: str, /) -> Record | None:
        found = await self._records.get_for_update(guid)
        if self._of.meanwhile:
            await self._of.meanwhile.pop()()
        return found

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        of = self._of
        if isinstance(of.fails, StoreUnavailable):
            raise of.fails
        of.deadlines.append(not_after)
        if of.pauses:
            await of.pauses.pop()()
        done = await self._records.swap(old, new, not_after=not_after and not_after - of.time.ahead_ms, origin=origin)
        if of.fails:
            raise of.fails
        if of.seen is not None:
            of.seen.append(await self._records.count(Selection(expire_from=1)))
        return done

    async def count_linearizable(self, selection: Selection) -> int:
        self._of.tallies += 1
        return await self._records.count_linearizable(selection)


class Ledgers:
    """The ledgers of such a store."""

    def __init__(self, ledgers: LedgerRepository, store: Store) -> None:
        self._ledgers, self._of = ledgers, store

    async def get(self, owner: str, /) -> QuotaLedger | None:
        return await self._ledgers.get(owner)

    async def swap(self, old: QuotaLedger | None, new: QuotaLedger | None) -> bool:
        self._of.ledger_swaps += 1
        if self._of.ledger_fails:
            raise self._of.ledger_fails
        if self._of.races:
            self._of.races -= 1
            return False
        return await self._ledgers.swap(old, new)


class Fence:
    """The fence of such a store, and its clock."""

    def __init__(self, fence: FenceStore, store: Store) -> None:
        self._fence, self._of = fence, store
        self.swap = fence.swap

    async def read(self) -> FenceReading:
        self._of.looks += 1
        if self._of.clock_fails:
            raise self._of.clock_fails
        sight = await self._fence.read()
        return sight._replace(now=sight.now + self._of.time.ahead_ms)


class Kept:
    """A store, the quota over it, and the service over both: what one process has."""

    def __init__(self, store: Store, kept: quota.Quota, clock: FakeClock) -> None:
        self.store = store
        self.quota = kept
        self.service = GuidService(
            store.records,
            LeaseClock(store.fence),
            clock=clock,
            generator=guid_generator.random_generator(guid_generator.guid_v4),
            policy=TERMS,
            quota=kept,
        )

    async def live(self, owner: str, clock: FakeClock) -> int:
        """Count what an owner has."""
        return await self.store.records.count(Selection(owner=owner, expire_from=clock.seconds + 1))


class Processes:
    """Opens the same store again and again, as other processes would, with the same quota or another."""

    def __init__(self, url: str, clock: FakeClock, stack: AsyncExitStack) -> None:
        self._url = url
        self._clock = clock
        self._stack = stack
        self.time = Time(clock)

    async def start(self, limit: int) -> Kept:
        """Start one more."""
        on_mongo = self._url.startswith("mongodb")
        opening = open_mongo(self._url, timeout_ms=MONGO_MS) if on_mongo else open_store(self._url, exclusive=False)
        opened = await self._stack.enter_async_context(opening)
        store = Store(opened, self.time)
        kept = await self._stack.enter_async_context(
            open_quota(store, lease_clock=LeaseClock(store.fence), clock=self._clock, quota=limit)
        )
        return Kept(store, kept, self._clock)


@pytest.fixture(params=["sqlite", "mongo"])
async def processes(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(request.getfixturevalue(f"{request.param}_url"), clock, stack)


async def created(services: Sequence[GuidService], count: int) -> list[str]:
    """Create so many at once, by turns; return the GUIDs of those that were, when all others were refused."""
    every = [services[place % len(services)].create(USER) for place in range(count)]
    answers = await asyncio.gather(*every, return_exceptions=True)
    wrong = [each for each in answers if isinstance(each, BaseException) and not isinstance(each, QuotaExceeded)]
    assert wrong == []
    return [each.guid for each in answers if isinstance(each, Record)]


async def until_taken_back(kept: Kept, owner: str = "") -> None:
    """Return when nothing is reserved."""
    while (found := await kept.store.ledgers.get(owner)) is not None and found.entries != "{}":
        await asyncio.sleep(0.01)


async def test_quota_holds_for_a_thousand_concurrent_creations(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(100)

    guids = await created([kept.service], 1000)

    assert len(guids) == len(set(guids)) == await kept.live("", clock) == 100
    assert kept.store.ledger_swaps < 20, "all that wait are admitted together"


async def test_quota_holds_for_creations_by_three_processes(processes: Processes, clock: FakeClock) -> None:
    every = [await processes.start(100) for _ in range(3)]

    guids = await created([kept.service for kept in every], 1000)

    assert len(guids) == len(set(guids)) == await every[0].live("", clock) == 100


async def test_each_owner_has_its_own_quota(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(3)

    for caller in (ALICE, BOB):
        assert len(await created([kept.service.acting_for(caller)], 10)) == 3
    assert [await kept.live(owner, clock) for owner in ("alice", "bob")] == [3, 3]


async def test_records_are_not_counted_without_a_quota(processes: Processes) -> None:
    kept = await processes.start(0)

    assert len(await created([kept.service], 10)) == 10
    assert (kept.store.tallies, kept.store.ledger_swaps) == (0, 0)


async def test_deletion_frees_a_place_at_once(processes: Processes) -> None:
    one, another = await processes.start(1), await processes.start(1)
    for _ in range(5):
        (guid,) = await created([one.service], 1)
        assert await created([another.service], 3) == []
        await another.service.delete(guid)
        (guid,) = await created([another.service], 1)
        await one.service.delete(guid)


async def test_expiry_frees_a_place_and_renewal_takes_one(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(2)
    first = await created([kept.service], 2)
    clock.advance(seconds=LIFETIME)
    second = await created([kept.service], 5)
    assert len(second) == 2

    for renewal in (
        kept.service.put(first[0], USER),
        kept.service.patch(first[1], PatchCommand.model_validate({"expire": clock.seconds + LIFETIME})),
    ):
        with pytest.raises(QuotaExceeded):
            await renewal
    await kept.service.delete(second[0])
    renewed = await asyncio.gather(*(kept.service.put(guid, USER) for guid in first), return_exceptions=True)
    assert [type(each) for each in renewed].count(QuotaExceeded) == 1
    assert await kept.live("", clock) == 2


async def test_creation_of_expired_record_takes_no_place(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(1)
    expired = PutCommand.model_validate({"user": "a", "expire": 0})

    await asyncio.gather(*(kept.service.create(expired) for _ in range(5)))
    (guid,) = await created([kept.service], 1)
    await kept.service.put(guid, expired)

    assert len(await created([kept.service], 2)) == 1


async def test_live_record_can_change_and_be_extended_at_the_quota(processes: Processes, clock: FakeClock) -> None:
    """Also where it is about to expire, and is reserved so that nobody takes its place meanwhile."""
    kept = await processes.start(1)
    (guid,) = await created([kept.service], 1)
    await kept.service.put(guid, PutCommand.model_validate({"user": "b"}))
    clock.advance(seconds=LIFETIME - LEASE_MS // 1000 + 1)
    await kept.service.put(guid, PutCommand.model_validate({"expire": clock.seconds + LIFETIME}))
    assert kept.store.ledger_swaps >= 2
    clock.advance(seconds=LEASE_MS // 1000)

    assert await created([kept.service], 3) == []
    assert await kept.live("", clock) == 1


@pytest.mark.slow
async def test_place_of_a_renewal_in_its_last_second_is_not_given_away(processes: Processes, clock: FakeClock) -> None:
    kept, other = await processes.start(1), await processes.start(1)
    old = record(clock(), expire=clock.seconds + 1)
    await kept.store.records.swap(None, old)
    renewed = old.model_copy(update={"expire": clock.seconds + 3600, "version": old.version + 1})

    async with kept.quota.reserve(old, renewed):
        clock.advance(seconds=2)
        assert await created([other.service], 1) == []
        assert await kept.store.records.swap(old, renewed)


@pytest.mark.slow
async def test_reservation_of_a_dead_process_lasts_thirty_seconds(processes: Processes, clock: FakeClock) -> None:
    kept, other = await processes.start(1), await processes.start(1)
    await kept.quota.reserve(None, record(clock())).__aenter__()  # and that is the last we hear of it

    assert await created([other.service], 1) == []
    clock.advance(seconds=LEASE_MS / 1000 - 1)
    assert await created([other.service], 1) == []
    clock.advance(seconds=1)
    assert len(await created([other.service], 2)) == 1


@pytest.mark.slow
async def test_write_of_unknown_outcome_holds_its_place_until_it_ends(processes: Processes, clock: FakeClock) -> None:
    """Whether it was done or not; then it is what is there that counts."""
    kept = await processes.start(2)
    kept.store.fails = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await kept.service.create(USER)
    kept.store.fails = None
    (record_,) = await kept.store.records.find(Selection(), "", 2)
    await kept.service.delete(record_.guid)

    assert len(await created([kept.service], 3)) == 1
    clock.advance(seconds=LEASE_MS / 1000)
    assert len(await created([kept.service], 3)) == 1


@pytest.mark.slow
async def test_stored_record_with_a_reservation_counts_once(processes: Processes, clock: FakeClock) -> None:
    kept, other = await processes.start(3), await processes.start(3)
    kept.store.fails = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await kept.service.create(USER)

    assert len(await created([other.service], 5)) == 2
    assert await kept.live("", clock) == 3


async def test_extended_and_new_records_count_once(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(2)
    (guid,) = await created([kept.service], 1)
    clock.advance(seconds=LIFETIME - 1)
    longer = PutCommand.model_validate({"expire": clock.seconds + LIFETIME})

    await asyncio.gather(kept.service.put(guid, longer), kept.service.create(USER))
    assert await created([kept.service], 1) == []


async def test_failed_write_returns_its_place(processes: Processes, clock: FakeClock) -> None:
    kept, other = await processes.start(1), await processes.start(1)
    kept.store.fails = StoreUnavailable("no")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await kept.service.create(USER)
    await until_taken_back(kept)

    assert len(await created([other.service], 2)) == 1


async def test_cancelled_waiter_leaves_no_reservation(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(1)
    await kept.quota.reserve(None, record(clock())).__aenter__()
    waits = asyncio.create_task(kept.service.create(USER))
    while not kept.store.tallies > 1:
        await asyncio.sleep(0)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    clock.advance(seconds=LEASE_MS / 1000)

    assert len(await created([kept.service], 2)) == 1


async def test_reservations_are_returned_after_the_write(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(10)
    guids = await created([kept.service], 5)
    await until_taken_back(kept)
    found = await kept.store.ledgers.get("")

    assert len(guids) == 5
    assert found is not None
    assert (found.room, found.quota) == (5, 10)


async def test_changes_past_the_ledger_are_found_without_early_counts(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(10)
    for _ in range(5):
        await kept.service.create(USER)
    assert kept.store.tallies == 1
    for place in range(4):
        await kept.store.records.swap(None, record(clock(), guid=f"{place:032X}"))
    clock.advance(seconds=ROOM_MS / 1000)

    assert len(await created([kept.service], 5)) == 1


async def test_changed_quota_causes_a_new_count(processes: Processes, clock: FakeClock) -> None:
    large, small = await processes.start(10), await processes.start(3)
    assert len(await created([large.service], 4)) == 4

    assert await created([small.service], 1) == []
    assert len(await created([large.service], 10)) == 6


async def test_lost_race_is_no_rejection(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(3)
    kept.store.races = 5

    assert len(await created([kept.service], 5)) == 3


async def test_unwritable_ledger_is_unavailable_and_changes_nothing(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(3)
    for error in (OutcomeUnknown("no answer"), StoreUnavailable("no")):
        kept.store.ledger_fails = error
        with pytest.raises(StoreUnavailable):
            await kept.service.create(USER)
    assert await kept.live("", clock) == 0
    kept.store.ledger_fails = None

    assert len(await created([kept.service], 5)) == 3


async def test_concurrent_creations_of_one_guid_take_one_place(processes: Processes, clock: FakeClock) -> None:
    every = [await processes.start(2) for _ in range(3)]

    written = await asyncio.gather(*(kept.service.put(GUID, USER) for kept in every for _ in range(10)))

    assert [each.created for each in written].count(True) == 1
    assert len(await created([every[0].service], 3)) == 1
    assert await every[0].live("", clock) == 2


async def storm(every: Sequence[Kept], works: Sequence[Coroutine[object, object, None]], limit: int) -> None:
    """Do all the works at once, and count after each write: there are never more live records than the limit."""
    for kept in every:
        kept.store.seen = []
    await asyncio.gather(*works)
    seen = [live for kept in every for live in kept.store.seen or ()]
    assert len(seen) >= limit, "the storm was looked at"
    assert max(seen) <= limit


async def put_or_refused(kept: Kept, guid: str) -> None:
    with suppress(QuotaExceeded):
        await kept.service.put(guid, USER)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_two_processes_on_the_same_guids_never_exceed_the_quota(processes: Processes, seed: int) -> None:
    every = [await processes.start(15) for _ in range(2)]
    guids = [f"{number:032X}" for number in range(40)]

    async def client(number: int) -> None:
        random = Random(f"{seed} {number}")
        for _ in range(40):
            kept, guid = random.choice(every), random.choice(guids)
            if random.random() < 0.6:
                await put_or_refused(kept, guid)
            else:
                with suppress(NotFound):
                    await kept.service.delete(guid)

    await storm(every, [client(number) for number in range(16)], 15)


@pytest.mark.slow
async def test_three_processes_on_same_guids_fill_the_quota_exactly(processes: Processes, clock: FakeClock) -> None:
    every = [await processes.start(100) for _ in range(3)]
    for trial in range(2):
        guids = [f"{trial * 1000 + number:032X}" for number in range(128)]
        works = [put_or_refused(kept, guid) for kept in every for guid in Random(trial).sample(guids, len(guids))]
        Random(trial).shuffle(works)
        await storm(every, works, 100)
        assert await every[0].live("", clock) == 100
        found = await every[0].store.records.find(Selection(), "", 1000)
        await asyncio.gather(*(every[0].service.delete(each.guid) for each in found))


async def test_rejection_due_to_another_process_causes_a_fresh_read(processes: Processes, clock: FakeClock) -> None:
    """What it makes is live already: to change it takes no place."""
    one, other = await processes.start(1), await processes.start(1)
    for guid, write in (("A" * 32, one.service.put), ("B" * 32, one.service.patch)):
        expired = record(clock(), guid=guid, expire=0)
        await other.store.records.swap(None, expired)
        alive = record(clock(), guid=guid, version=expired.version + 1)
        one.store.meanwhile = [partial(other.store.records.swap, expired, alive)]

        change = (PutCommand if write == one.service.put else PatchCommand).model_validate(
            {"user": "by the first", "expire": str(clock.seconds + 3600)}
        )
        await write(guid, change)  # type: ignore[arg-type]  # each with its own
        assert one.store.meanwhile == []

        found = await one.store.records.get(guid)
        assert found is not None
        assert found.user == "by the first"
        await other.service.delete(guid)


async def test_stalled_write_takes_no_place_of_another(processes: Processes, clock: FakeClock) -> None:
    """Its reservation is over by then; the store rejects the write, and it is refused by what is there."""
    kept, other = await processes.start(1), await processes.start(1)

    async def stand_still() -> None:
        processes.time.advance(LEASE_MS / 1000)
        assert len(await created([other.service], 2)) == 1

    kept.store.pauses = [stand_still]
    assert await created([kept.service], 1) == []
    assert kept.store.pauses == []
    assert await kept.live("", clock) == 1


@pytest.mark.slow
async def test_stalled_write_is_admitted_again_if_there_is_room(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(1)

    async def stand_still() -> None:
        processes.time.advance(LEASE_MS / 1000)

    kept.store.pauses = [stand_still] * 3
    assert len(await created([kept.service], 1)) == 1
    assert await kept.live("", clock) == 1


async def test_stalled_renewal_of_an_expired_record_obeys_the_quota(processes: Processes, clock: FakeClock) -> None:
    """It needed no reservation, as it was to live on for longer than one lasts."""
    kept, other = await processes.start(1), await processes.start(1)
    (guid,) = await created([kept.service], 1)

    async def stand_still() -> None:
        processes.time.advance(LIFETIME)
        assert len(await created([other.service], 2)) == 1

    kept.store.pauses = [stand_still]
    with pytest.raises(QuotaExceeded):
        await kept.service.put(guid, PutCommand.model_validate({"expire": clock.seconds + 2 * LIFETIME}))
    assert kept.store.pauses == []
    assert await kept.live("", clock) == 1


async def test_reserved_place_is_reused_only_once_its_write_is_late(processes: Processes, clock: FakeClock) -> None:
    """By the store's clock a write is too late before its reservation is over, by half of its time."""
    kept = await processes.start(1)
    before = (await kept.store.fence.read()).now
    async with kept.quota.reserve(None, record(clock())) as not_after:
        after = (await kept.store.fence.read()).now
        assert not_after is not None
        assert before < not_after <= after + LEASE_MS / 2


async def test_write_without_expiry_change_or_quota_has_no_deadline(processes: Processes) -> None:
    free, kept = await processes.start(0), await processes.start(3)
    for each, looks in ((free, 0), (kept, 1)):
        record_ = await each.service.create(USER)
        await each.service.put(record_.guid, PutCommand.model_validate({"user": "b"}))
        await each.service.delete(record_.guid)
        assert each.store.looks == looks
    assert free.store.deadlines == [None, None, None]
    assert [deadline is None for deadline in kept.store.deadlines] == [False, True, True]


async def test_store_with_unreadable_clock_admits_nothing(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(1)
    kept.store.clock_fails = StoreUnavailable("no")
    with pytest.raises(StoreUnavailable):
        await kept.service.create(USER)
    kept.store.clock_fails = None

    assert len(await created([kept.service], 2)) == 1


async def test_dry_run_predicts_rejections_and_reserves_nothing(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(3)
    (guid,) = await created([kept.service], 1)
    await until_taken_back(kept)
    before = await kept.store.ledgers.get("")

    with kept.service.dry_run() as rehearsed:
        assert len(await created([rehearsed], 5)) == 2
        await rehearsed.delete(guid)
        assert len(await created([rehearsed], 5)) == 1
    assert await kept.store.ledgers.get("") == before
    assert await kept.live("", clock) == 1
    assert len(await created([kept.service], 5)) == 2


async def test_completed_reservations_are_returned_at_shutdown(processes: Processes, clock: FakeClock) -> None:
    kept = await processes.start(3)
    ends = LedgerQuota(kept.store, lease_clock=LeaseClock(kept.store.fence), clock=clock, quota=3)
    async with ends.reserve(None, record(clock())):
        pass
    while ends._releases:
        await asyncio.sleep(0.01)
    async with ends.reserve(None, record(clock(), guid="0" * 32)):
        pass
    await ends.aclose()

    found = await kept.store.ledgers.get("")
    assert found is not None
    assert found.entries == "{}"


async def test_failed_return_of_reservations_does_not_delay_shutdown(
    processes: Processes, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await processes.start(3)
    monkeypatch.setattr(quota, "CLOSE_SECONDS", 0.1)
    ends = LedgerQuota(kept.store, lease_clock=LeaseClock(kept.store.fence), clock=clock, quota=3)
    async with ends.reserve(None, record(clock())):
        kept.store.ledger_fails = StoreUnavailable("no")
    await asyncio.wait_for(ends.aclose(), 5)
