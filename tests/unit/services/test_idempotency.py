"""Requests that may be sent again, over real stores: done once, whoever comes twice and whatever dies in between."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

import pytest
from pydantic_core import to_json

from guidsvc.domain import guid_generator, lifecycle
from guidsvc.domain.commands import PutCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.receipt import Receipt
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import (
    IdempotencyMismatch,
    InProgress,
    InvalidRequest,
    LeaseExpired,
    OutcomeUnknown,
    QuotaExceeded,
    StoreUnavailable,
)
from guidsvc.http.errors import TooLarge, UnsupportedMediaType
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import KEPT_SECONDS, GuidFactory, Idempotency, Request
from guidsvc.services.quota import NO_QUOTA, Quota, open_quota
from guidsvc.services.receipts.lease import MAX_ANSWER_BYTES
from guidsvc.services.receipts.quota import pack
from guidsvc.services.writes.write_attempt import begin_write
from guidsvc.store import open_store
from guidsvc.store.cache_fence import FenceReader, FenceReading
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from guidsvc.store.mongo.store import open_mongo
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.factories import record

REQUEST = Request(caller="", key="a key", fingerprint="f" * 64)

MONGO_MS = 20_000
"""In which the largest receipts are kept by the slowest of machines."""


@pytest.fixture(params=["sqlite", "mongo"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    url = request.getfixturevalue(f"{request.param}_url")
    on_mongo = request.param == "mongo"
    opened = open_mongo(url, timeout_ms=MONGO_MS) if on_mongo else open_store(url, exclusive=False)
    async with opened as store:
        yield store


def seeded(seed: bytes, index: int, at: int) -> guid_generator.GuidGenerator:
    return guid_generator.seeded(guid_generator.guid_v4, seed, index, at)


@pytest.fixture
def idempotency(backend: Database, clock: FakeClock) -> Idempotency:
    return Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded)


class Works:
    """Work that notes what it drew each time it was done, and then does as it is told."""

    def __init__(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        self.drawn: list[str] = []
        self._then = then

    async def __call__(self, draws: GuidFactory | None) -> bytes:
        assert draws is not None
        self.drawn.append(draws(0)(0))
        if self._then is not None:
            await self._then()
        return to_json({"guid": self.drawn[-1], "answer": len(self.drawn)})


def fails(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


def receipt(clock: FakeClock, **fields: object) -> Receipt:
    plain: dict[str, object] = {
        "key": "0" * 64,
        "fingerprint": "1" * 64,
        "attempt": 1,
        "leased_until": clock(),
        "seed": "2" * 32,
        "claimed": clock(),
        "purge_at": clock.seconds + 100,
    }
    return Receipt.model_validate(plain | fields)


# The store's part


async def test_receipt_is_stored_as_put_and_changed_by_its_attempt(backend: Database, clock: FakeClock) -> None:
    first = receipt(clock)
    second = receipt(clock, attempt=2, answer='"Zürich\\u0000"')

    assert await backend.receipts.get(first.key) is None
    assert await backend.receipts.swap(None, first)
    assert not await backend.receipts.swap(None, second)
    assert await backend.receipts.get(first.key) == first
    assert await backend.receipts.swap(first, second)
    assert not await backend.receipts.swap(first, None)
    assert await backend.receipts.get(first.key) == second
    assert await backend.receipts.swap(second, None)
    assert await backend.receipts.get(first.key) is None


async def test_one_of_fifty_receipt_claims_wins(backend: Database, clock: FakeClock) -> None:
    won = await asyncio.gather(*(backend.receipts.swap(None, receipt(clock, seed=f"{n:032x}")) for n in range(50)))

    assert won.count(True) == 1


async def test_due_receipts_are_purged(backend: Database, clock: FakeClock) -> None:
    due = clock.seconds + 3600
    for number in range(3):
        await backend.receipts.swap(None, receipt(clock, key=f"{number:064x}", purge_at=due + number))
    clock.advance(seconds=3700)

    assert await backend.receipts.purge(due + 2, 1) == 1
    assert await backend.receipts.purge(due + 2, 5) == 1
    assert await backend.receipts.get(f"{2:064x}") is not None


@pytest.mark.parametrize("kind", ["sqlite", "mongo"])
async def test_exclusive_store_releases_leases_of_dead_processes(
    request: pytest.FixtureRequest, clock: FakeClock, kind: str
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    begun, done = receipt(clock), receipt(clock, key="9" * 64, answer="{}")
    async with open_store(url, exclusive=False) as store:
        await store.receipts.swap(None, begun)
        await store.receipts.swap(None, done)

    async with open_store(url, exclusive=True) as store:
        assert await store.receipts.get(begun.key) == begun.model_copy(update={"leased_until": 0})
        assert await store.receipts.get(done.key) == done


# Requests


async def test_request_is_executed_once_and_replayed(idempotency: Idempotency, clock: FakeClock) -> None:
    works = Works()

    first = await idempotency.once(REQUEST, works)
    clock.advance(seconds=KEPT_SECONDS - 1)
    second = await idempotency.once(REQUEST, works)

    assert first == (to_json({"guid": works.drawn[0], "answer": 1}), False)
    assert second == (first[0], True)
    assert len(works.drawn) == 1


async def test_key_is_free_after_24_hours(idempotency: Idempotency, clock: FakeClock) -> None:
    works = Works()

    await idempotency.once(REQUEST, works)
    clock.advance(seconds=KEPT_SECONDS)
    _, replayed = await idempotency.once(REQUEST._replace(fingerprint="e" * 64), works)

    assert not replayed
    assert len(set(works.drawn)) == 2, "another seed"


async def test_key_belongs_to_one_request_of_one_caller(idempotency: Idempotency) -> None:
    works = Works()
    await idempotency.once(REQUEST, works)

    with pytest.raises(IdempotencyMismatch):
        await idempotency.once(REQUEST._replace(fingerprint="e" * 64), works)
    _, replayed = await idempotency.once(REQUEST._replace(caller="another"), works)
    assert not replayed


async def test_one_of_two_concurrent_requests_must_retry(idempotency: Idempotency) -> None:
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    works = Works(wait)
    both = [asyncio.create_task(idempotency.once(REQUEST, works)) for _ in range(2)]
    done, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(InProgress):
        done.pop().result()
    with pytest.raises(InProgress):
        await idempotency.once(REQUEST, works)
    with pytest.raises(IdempotencyMismatch):
        await idempotency.once(REQUEST._replace(fingerprint="e" * 64), works)
    go_on.set()
    answer, _ = await waiting.pop()
    assert await idempotency.once(REQUEST, works) == (answer, True)
    assert len(works.drawn) == 1


async def test_request_without_changes_leaves_no_receipt(idempotency: Idempotency, backend: Database) -> None:
    errors: list[BaseException] = [InvalidRequest(), StoreUnavailable("no"), OutcomeUnknown("of the quota")]
    errors += [TooLarge(), UnsupportedMediaType("POST", "no", ()), ValueError("a fault"), asyncio.CancelledError()]
    for error, repeatable in itertools.product(errors, (True, False)):
        request = REQUEST._replace(repeatable=repeatable)
        with pytest.raises(type(error)):
            await idempotency.once(request, Works(fails(error)))
        assert await backend.receipts.get(request.name) is None


@pytest.mark.parametrize("error", [OutcomeUnknown("?"), ValueError("a fault"), asyncio.CancelledError()], ids=repr)
async def test_uncertain_request_is_repeated_with_the_same_seed(idempotency: Idempotency, error: BaseException) -> None:
    async def write() -> None:
        begin_write()
        raise error

    first, second = Works(write), Works()

    with pytest.raises(type(error)):
        await idempotency.once(REQUEST, first)
    with pytest.raises(InvalidRequest):  # and a later attempt that does nothing does not forget the first
        await idempotency.once(REQUEST, Works(fails(InvalidRequest())))
    await idempotency.once(REQUEST, second)

    assert first.drawn == second.drawn


async def test_lease_of_a_dead_process_ends_and_another_takes_over(
    idempotency: Idempotency, backend: Database, clock: FakeClock
) -> None:
    first, second = Works(), Works()
    await idempotency._claim(REQUEST)  # and never heard of again
    held = await backend.receipts.get(REQUEST.name)
    assert held is not None

    with pytest.raises(InProgress):
        await idempotency.once(REQUEST, first)
    clock.advance(seconds=10)
    await idempotency.once(REQUEST, second)

    assert second.drawn == [seeded(bytes.fromhex(held.seed), 0, held.claimed)(0)]


async def test_request_that_could_undo_later_changes_is_not_repeated(
    idempotency: Idempotency, clock: FakeClock
) -> None:
    request, works = REQUEST._replace(repeatable=False), Works()
    await idempotency._claim(request)  # and never heard of again

    with pytest.raises(InProgress):
        await idempotency.once(request, works)
    clock.advance(seconds=10)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await idempotency.once(request, works)
    assert works.drawn == []


async def test_long_request_renews_its_lease(backend: Database, clock: FakeClock) -> None:
    idempotency = Idempotency(
        backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded, lease_seconds=0.3
    )

    async def wait() -> None:
        first = await backend.receipts.get(REQUEST.name)
        assert first is not None
        clock.advance(seconds=60)
        while (held := await backend.receipts.get(REQUEST.name)) is not None and held.leased_until <= clock():
            await asyncio.sleep(0)
        with pytest.raises(InProgress):
            await idempotency.once(REQUEST, Works())

    works = Works(wait)
    answer, _ = await idempotency.once(REQUEST, works)
    assert await idempotency.once(REQUEST, works) == (answer, True)


async def test_oversized_response_is_not_stored(idempotency: Idempotency) -> None:
    done = 0

    async def work(_: GuidFactory | None) -> bytes:
        nonlocal done
        done += 1
        return os.urandom(MAX_ANSWER_BYTES).hex().encode()

    for _ in range(2):
        _, replayed = await idempotency.once(REQUEST, work)
        assert not replayed
    assert done == 2

    other = REQUEST._replace(key="another", repeatable=False)
    await idempotency.once(other, work)
    with pytest.raises(OutcomeUnknown):
        await idempotency.once(other, work)
    assert done == 3


async def test_largest_response_is_stored_in_any_script(idempotency: Idempotency) -> None:
    for character in ("x", "🜁", '"'):
        request = REQUEST._replace(key=character)
        # Much that is packed easily, and about as much as there may be of what is not.
        reply = to_json(character * 100_000 + os.urandom(MAX_ANSWER_BYTES // 2).hex())
        assert MAX_ANSWER_BYTES * 0.6 < len(pack(reply)) <= MAX_ANSWER_BYTES

        async def work(_: GuidFactory | None, reply: bytes = reply) -> bytes:
            return reply

        assert await idempotency.once(request, work) == (reply, False)
        assert await idempotency.once(request, work) == (reply, True)


async def test_stored_response_counts_in_bytes(idempotency: Idempotency, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(idempotency._room, "add", lambda _, size: sizes.append(size))
    reply = to_json("🜁" * 500)

    async def work(_: GuidFactory | None) -> bytes:
        return reply

    await idempotency.once(REQUEST, work)
    assert sizes[-1] == len(reply) == 2002


async def test_request_with_unstorable_response_is_not_acknowledged(
    sqlite_url: str, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """Else its client could delete what it created, and a repetition would create it again."""
    expected_logs.add("receipt not written")
    async with open_store(sqlite_url, exclusive=True) as store:

        class Forgetful:
            """Receipts that can be claimed, and no more."""

            get, usage, purge = store.receipts.get, store.receipts.usage, store.receipts.purge

            async def swap(self, old: Receipt | None, new: Receipt | None) -> bool:
                if old is not None:
                    raise StoreUnavailable("the disk is full")
                return await store.receipts.swap(old, new)

        idempotency = Idempotency(Forgetful(), LeaseClock(store.fence), clock=clock, seeded=seeded)
        with pytest.raises(OutcomeUnknown, match="send it again"):
            await idempotency.once(REQUEST, Works())
        answer, replayed = await idempotency.once(REQUEST._replace(key="named", repeatable=False), Works())
        assert (b'"answer":1' in answer, replayed) == (True, False), "it is never done again"


# Processes that stand still


class StandingStill:
    """A store as a process sees it that stands still, once, when it has sent a write; and the time, which goes on."""

    def __init__(self, store: Database, clock: FakeClock) -> None:
        self.clock = clock
        self.seconds = 0.0
        self.receipts = store.receipts
        self.records = RecordsStandingStill(store.records, self)
        self.fence = FenceStandingStill(store.fence, self)
        self.meanwhile: list[Callable[[], Awaitable[None]]] = []
        """What others do, one each time that it stands still for longer than a lease."""

    def timer(self) -> float:
        return self.seconds


class FenceStandingStill(NamedTuple):
    """The clock of the store, which goes on too."""

    inner: FenceReader
    process: StandingStill

    async def read(self) -> FenceReading:
        sight = await self.inner.read()
        return sight._replace(now=sight.now + round(self.process.seconds * 1000))


class RecordsStandingStill(DelegatingRecords):
    """The records as that process sees them."""

    def __init__(self, records: RecordRepository, process: StandingStill) -> None:
        super().__init__(records)
        self._process = process

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        process = self._process
        if process.meanwhile:
            process.seconds += 11
            process.clock.advance(seconds=11)
            await process.meanwhile.pop()()
        real = not_after and not_after - round(process.seconds * 1000)
        return await self._records.swap(old, new, not_after=real, origin=origin)


class HasRecords(Protocol):
    """The part of a database that a service needs."""

    @property
    def records(self) -> RecordRepository: ...

    @property
    def fence(self) -> FenceReader: ...


class Creates:
    """The work of a request that creates a record."""

    def __init__(self, store: HasRecords, clock: FakeClock, quota: Quota = NO_QUOTA) -> None:
        terms = lifecycle.RetentionPolicy(lifetime=3600, retention=600)
        self._service = GuidService(
            store.records,
            LeaseClock(store.fence),
            clock=clock,
            generator=guid_generator.random_generator(guid_generator.guid_v4),
            policy=terms,
            quota=quota,
        )

    async def __call__(self, draws: GuidFactory | None) -> bytes:
        assert draws is not None
        return (await self._service.create(PutCommand(user="once"), generator=draws(0))).guid.encode()

    async def delete(self, guid: str) -> None:
        await self._service.delete(guid)


async def test_stalled_request_executed_elsewhere_is_not_repeated(backend: Database, clock: FakeClock) -> None:
    """Nor does it undo the deletion of what the other created."""
    slow, works = StandingStill(backend, clock), Creates(backend, clock)
    late, other = (
        Idempotency(each.receipts, LeaseClock(each.fence, timer=slow.timer), clock=clock, seeded=seeded)
        for each in (slow, backend)
    )
    done: list[str] = []

    async def meanwhile() -> None:
        answer, _ = await other.once(REQUEST, works)
        await works.delete(answer.decode())
        done.append(answer.decode())

    slow.meanwhile = [meanwhile]
    with pytest.raises(LeaseExpired):
        await late.once(REQUEST, Creates(slow, clock))

    assert (left := await backend.records.get(done[0])) is not None
    assert left.is_deleted
    answer, replayed = await late.once(REQUEST, works)
    assert (answer.decode(), replayed) == (done[0], True)


async def test_stalled_request_without_successor_continues(backend: Database, clock: FakeClock) -> None:
    slow = StandingStill(backend, clock)
    idempotency = Idempotency(slow.receipts, LeaseClock(slow.fence, timer=slow.timer), clock=clock, seeded=seeded)
    slow.meanwhile = [nothing] * 3

    answer, replayed = await idempotency.once(REQUEST, Creates(slow, clock))

    assert not replayed
    assert [found.guid for found in await backend.records.find(Selection(), "", 10)] == [answer.decode()]


async def nothing() -> None:
    pass


async def test_repeated_request_at_the_quota_finds_its_own_records(backend: Database, clock: FakeClock) -> None:
    """Its own record uses the last place; that is no reason to refuse it."""
    held, _ = await Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded)._claim(REQUEST)
    guid = seeded(bytes.fromhex(held.seed), 0, held.claimed)(0)
    assert await backend.records.swap(None, record(clock(), guid=guid))
    clock.advance(seconds=10)
    async with open_quota(backend, lease_clock=LeaseClock(backend.fence), clock=clock, quota=1) as quota:
        works = Creates(backend, clock, quota)
        answer, _ = await Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded).once(
            REQUEST, works
        )
        assert answer.decode() == guid
        with pytest.raises(QuotaExceeded):
            await Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded).once(
                REQUEST._replace(key="another"), works
            )
