"""Idempotent requests over real stores are executed once, despite concurrent repetition and crashes."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any, NamedTuple, Protocol

import pytest
from pydantic_core import to_json

from guidsvc.domain import guid_generator, lifecycle
from guidsvc.domain.commands import PatchCommand, PutCommand, RenewCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.preconditions import UNCONDITIONAL
from guidsvc.domain.receipt import Receipt
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import (
    GuidsvcError,
    IdempotencyMismatch,
    InProgress,
    InvalidRequest,
    LeaseExpired,
    OutcomeUnknown,
    QuotaExceeded,
    StoreReadOnly,
    StoreUnavailable,
)
from guidsvc.http.errors import TooLarge, UnsupportedMediaType
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import KEPT_SECONDS, GuidFactory, Idempotency, Request, RequestBody
from guidsvc.services.quota import NO_QUOTA, Quota, open_quota
from guidsvc.services.receipts.lease import MAX_ANSWER_BYTES
from guidsvc.services.receipts.quota import pack
from guidsvc.services.writes.write_attempt import begin_write
from guidsvc.store import open_store
from guidsvc.store.cache_fence import FenceReader, FenceReading
from guidsvc.store.contract import Database, RecordRepository, Swap
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from guidsvc.store.mongo.store import open_mongo
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.factories import GUID, record

REQUEST = Request(caller="", key="a key", fingerprint="f" * 64)

MONGO_MS = 20_000
"""Enough to store the largest receipts on a slow machine."""


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


class RecordedWork:
    """Work that records the GUID it drew on each run, and then awaits `then`."""

    def __init__(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        self.drawn: list[str] = []
        self.answer: bytes | None = None
        """The response, if it is not that of each run."""
        self._then = then

    async def __call__(self, draws: GuidFactory | None) -> bytes:
        assert draws is not None
        self.drawn.append(draws(0)(0))
        if self._then is not None:
            await self._then()
        return self.answer or to_json({"guid": self.drawn[-1], "answer": len(self.drawn)})


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


def receipt(clock: FakeClock, **fields: object) -> Receipt:
    defaults: dict[str, object] = {
        "key": "0" * 64,
        "fingerprint": "1" * 64,
        "attempt": 1,
        "leased_until": clock(),
        "seed": "2" * 32,
        "claimed": clock(),
        "purge_at": clock.seconds + 100,
    }
    return Receipt.model_validate(defaults | fields)


# Stores


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
    results = await asyncio.gather(*(backend.receipts.swap(None, receipt(clock, seed=f"{n:032x}")) for n in range(50)))

    assert results.count(True) == 1


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
    started, finished = receipt(clock), receipt(clock, key="9" * 64, answer="{}")
    async with open_store(url, exclusive=False) as store:
        await store.receipts.swap(None, started)
        await store.receipts.swap(None, finished)

    async with open_store(url, exclusive=True) as store:
        assert await store.receipts.get(started.key) == started.model_copy(update={"leased_until": 0})
        assert await store.receipts.get(finished.key) == finished


# Requests


async def test_request_is_executed_once_and_replayed(idempotency: Idempotency, clock: FakeClock) -> None:
    work = RecordedWork()

    response = await idempotency.once(REQUEST, work)
    clock.advance(seconds=KEPT_SECONDS - 1)
    replay = await idempotency.once(REQUEST, work)

    assert response == (to_json({"guid": work.drawn[0], "answer": 1}), False)
    assert replay == (response[0], True)
    assert len(work.drawn) == 1


async def test_key_is_free_after_24_hours(idempotency: Idempotency, clock: FakeClock) -> None:
    work = RecordedWork()

    await idempotency.once(REQUEST, work)
    clock.advance(seconds=KEPT_SECONDS)
    _, replayed = await idempotency.once(REQUEST._replace(fingerprint="e" * 64), work)

    assert not replayed
    assert len(set(work.drawn)) == 2, "the second run has another seed"


async def test_key_belongs_to_one_request_of_one_caller(idempotency: Idempotency) -> None:
    work = RecordedWork()
    await idempotency.once(REQUEST, work)

    with pytest.raises(IdempotencyMismatch):
        await idempotency.once(REQUEST._replace(fingerprint="e" * 64), work)
    _, replayed = await idempotency.once(REQUEST._replace(caller="another"), work)
    assert not replayed


async def test_one_of_two_concurrent_requests_must_retry(idempotency: Idempotency) -> None:
    may_finish = asyncio.Event()

    async def wait() -> None:
        await may_finish.wait()

    work = RecordedWork(wait)
    requests = [asyncio.create_task(idempotency.once(REQUEST, work)) for _ in range(2)]
    rejected, waiting = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
    with pytest.raises(InProgress):
        rejected.pop().result()
    with pytest.raises(InProgress):
        await idempotency.once(REQUEST, work)
    with pytest.raises(IdempotencyMismatch):
        await idempotency.once(REQUEST._replace(fingerprint="e" * 64), work)
    may_finish.set()
    response, _ = await waiting.pop()
    assert await idempotency.once(REQUEST, work) == (response, True)
    assert len(work.drawn) == 1


async def test_request_without_changes_leaves_no_receipt(idempotency: Idempotency, backend: Database) -> None:
    errors: list[BaseException] = [InvalidRequest(), StoreUnavailable("no"), OutcomeUnknown("of the quota")]
    errors += [TooLarge(), UnsupportedMediaType("POST", "no", ()), ValueError("a fault"), asyncio.CancelledError()]
    for error, repeatable in itertools.product(errors, (True, False)):
        request = REQUEST._replace(repeatable=repeatable)
        with pytest.raises(type(error)):
            await idempotency.once(request, RecordedWork(raising(error)))
        assert await backend.receipts.get(request.name) is None


@pytest.mark.parametrize("error", [OutcomeUnknown("?"), ValueError("a fault"), asyncio.CancelledError()], ids=repr)
async def test_uncertain_request_is_repeated_with_the_same_seed(idempotency: Idempotency, error: BaseException) -> None:
    async def write() -> None:
        begin_write()
        raise error

    first_run, second_run = RecordedWork(write), RecordedWork()

    with pytest.raises(type(error)):
        await idempotency.once(REQUEST, first_run)
    with pytest.raises(InvalidRequest):  # a later attempt without changes keeps the first receipt
        await idempotency.once(REQUEST, RecordedWork(raising(InvalidRequest())))
    await idempotency.once(REQUEST, second_run)

    assert first_run.drawn == second_run.drawn


class Resumable:
    """A request whose first response leaves a part unknown, and what executes that part again."""

    def __init__(self, then: Callable[[], Awaitable[None]]) -> None:
        self.works, self.again = RecordedWork(), RecordedWork(then)

    async def resume(self, answer: bytes) -> RequestBody | None:
        return self._again if answer in {b"?", b"still ?"} else None

    async def first(self, draws: GuidFactory | None) -> bytes:
        begin_write()
        await self.works(draws)
        return b"?"

    async def _again(self, draws: GuidFactory | None) -> bytes:
        begin_write()
        return await self.again(draws)


async def test_repetition_completes_response_with_an_unknown_part(idempotency: Idempotency) -> None:
    for repeatable in (True, False):
        request, part = REQUEST._replace(key=str(repeatable), repeatable=repeatable), Resumable(do_nothing)
        assert await idempotency.once(request, part.first, resume=part.resume) == (b"?", False)
        answer, replayed = await idempotency.once(request, part.first, resume=part.resume)
        assert (answer != b"?", replayed) == (True, False)
        assert await idempotency.once(request, part.first, resume=part.resume) == (answer, True)
        assert part.works.drawn == part.again.drawn, "the same seed, and each once"


async def test_failed_completion_repeats_the_response_as_it_was(idempotency: Idempotency) -> None:
    """That nothing was changed is true of the completion alone."""
    part = Resumable(raising(StoreUnavailable("no")))
    await idempotency.once(REQUEST, part.first, resume=part.resume)
    for _ in range(2):
        assert await idempotency.once(REQUEST, part.first, resume=part.resume) == (b"?", True)
    assert await idempotency.once(REQUEST, part.first) == (b"?", True)
    assert len(part.again.drawn) == 2


async def test_unavailable_repetition_leaves_the_outcome_unknown(idempotency: Idempotency) -> None:
    """The first attempt may have created the record."""

    async def write() -> None:
        begin_write()
        raise OutcomeUnknown("no answer")

    first = RecordedWork(write)
    for is_creation in (True, False):
        request = REQUEST._replace(key=f"a creation: {is_creation}", is_creation=is_creation)
        with pytest.raises(OutcomeUnknown):
            await idempotency.once(request, first)
        with pytest.raises(OutcomeUnknown) as unknown:
            await idempotency.once(request, RecordedWork(raising(StoreUnavailable("no"))))
        assert unknown.value.is_repeatable
        assert unknown.value.guid == (first.drawn[-1] if is_creation else None)
        again = RecordedWork()
        await idempotency.once(request, again)
        assert again.drawn == first.drawn[-1:]


async def test_repetition_that_cannot_be_claimed_is_no_rejection(
    sqlite_url: str, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """The store has become read-only after the first attempt."""
    expected_logs.add("receipt not written")
    async with open_store(sqlite_url, exclusive=True) as store:

        class ReadOnlyReceipts:
            """Receipts of a store that may reject writes."""

            get, usage, purge = store.receipts.get, store.receipts.usage, store.receipts.purge
            is_read_only = False

            async def swap(self, old: Receipt | None, new: Receipt | None) -> bool:
                if self.is_read_only:
                    raise StoreReadOnly("the disk is read-only")
                return await store.receipts.swap(old, new)

        receipts, part = ReadOnlyReceipts(), Resumable(do_nothing)
        idempotency = Idempotency(receipts, LeaseClock(store.fence), clock=clock, seeded=seeded)

        async def write() -> None:
            begin_write()
            receipts.is_read_only = True
            raise OutcomeUnknown("no answer")

        await idempotency.once(REQUEST, part.first, resume=part.resume)
        creation, work = REQUEST._replace(key="a creation", is_creation=True), RecordedWork(write)
        with pytest.raises(OutcomeUnknown):
            await idempotency.once(creation, work)
        with pytest.raises(InProgress):
            await idempotency.once(creation, work)
        clock.advance(seconds=10)
        with pytest.raises(OutcomeUnknown) as unknown:
            await idempotency.once(creation, work)
        assert unknown.value.guid == work.drawn[0]
        assert await idempotency.once(REQUEST, part.first, resume=part.resume) == (b"?", True)
        with pytest.raises(StoreReadOnly):
            await idempotency.once(REQUEST._replace(key="a new request"), work)
        assert part.again.drawn == []


async def test_completion_by_a_dead_process_is_taken_over(
    idempotency: Idempotency, backend: Database, clock: FakeClock
) -> None:
    part = Resumable(do_nothing)
    await idempotency.once(REQUEST, part.first, resume=part.resume)
    stored = await backend.receipts.get(REQUEST.name)
    assert stored is not None
    await idempotency._claim_again(stored)  # and never heard of again

    with pytest.raises(InProgress):
        await idempotency.once(REQUEST, part.first, resume=part.resume)
    clock.advance(seconds=10)
    _, replayed = await idempotency.once(REQUEST, part.first, resume=part.resume)
    assert not replayed
    assert part.works.drawn == part.again.drawn


async def test_long_completion_renews_its_lease(backend: Database, clock: FakeClock) -> None:
    idempotency = Idempotency(
        backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded, lease_seconds=0.3
    )

    async def wait() -> None:
        clock.advance(seconds=60)
        while (held := await backend.receipts.get(REQUEST.name)) is None or held.leased_until <= clock():
            await asyncio.sleep(0)
        with pytest.raises(InProgress):
            await idempotency.once(REQUEST, part.first, resume=part.resume)

    part = Resumable(wait)
    await idempotency.once(REQUEST, part.first, resume=part.resume)
    _, replayed = await idempotency.once(REQUEST, part.first, resume=part.resume)
    assert not replayed


async def test_lease_of_a_dead_process_ends_and_another_takes_over(
    idempotency: Idempotency, backend: Database, clock: FakeClock
) -> None:
    first_run, second_run = RecordedWork(), RecordedWork()
    await idempotency._claim(REQUEST)  # this process is never heard of again
    stored = await backend.receipts.get(REQUEST.name)
    assert stored is not None

    with pytest.raises(InProgress):
        await idempotency.once(REQUEST, first_run)
    clock.advance(seconds=10)
    await idempotency.once(REQUEST, second_run)

    assert second_run.drawn == [seeded(bytes.fromhex(stored.seed), 0, stored.claimed)(0)]


async def test_request_that_could_undo_later_changes_is_not_repeated(
    idempotency: Idempotency, clock: FakeClock
) -> None:
    request, work = REQUEST._replace(repeatable=False), RecordedWork()
    await idempotency._claim(request)  # this process is never heard of again

    with pytest.raises(InProgress):
        await idempotency.once(request, work)
    clock.advance(seconds=10)
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await idempotency.once(request, work)
    assert work.drawn == []


async def test_long_request_renews_its_lease(backend: Database, clock: FakeClock) -> None:
    idempotency = Idempotency(
        backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded, lease_seconds=0.3
    )

    async def wait() -> None:
        claimed = await backend.receipts.get(REQUEST.name)
        assert claimed is not None
        clock.advance(seconds=60)
        while (renewed := await backend.receipts.get(REQUEST.name)) is not None and renewed.leased_until <= clock():
            await asyncio.sleep(0)
        with pytest.raises(InProgress):
            await idempotency.once(REQUEST, RecordedWork())

    work = RecordedWork(wait)
    response, _ = await idempotency.once(REQUEST, work)
    assert await idempotency.once(REQUEST, work) == (response, True)


async def test_oversized_response_is_stored_in_a_shorter_form(idempotency: Idempotency) -> None:
    too_long = os.urandom(MAX_ANSWER_BYTES).hex().encode()
    for repeatable in (True, False):
        request, part = REQUEST._replace(key=str(repeatable), repeatable=repeatable), Resumable(do_nothing)

        async def work(_: GuidFactory | None) -> bytes:
            return too_long

        response, _ = await idempotency.once(request, work, lambda: [too_long, b"a shorter form", b"the shortest"])
        assert response == too_long
        assert await idempotency.once(request, work) == (b"a shorter form", True)
        resumed = request._replace(key=f"resumed {repeatable}")
        await idempotency.once(resumed, part.first, resume=part.resume)
        part.again.answer = too_long
        assert await idempotency.once(resumed, part.first, lambda: [b"short"], part.resume) == (too_long, False)
        assert await idempotency.once(resumed, part.first, resume=part.resume) == (b"short", True)


async def test_response_of_which_no_form_fits_is_not_acknowledged(
    idempotency: Idempotency, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("response does not fit into its receipt")
    runs = 0

    async def work(_: GuidFactory | None) -> bytes:
        nonlocal runs
        runs += 1
        return os.urandom(MAX_ANSWER_BYTES).hex().encode()

    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="send it again"):
            await idempotency.once(REQUEST, work)
    assert runs == 2

    part = Resumable(do_nothing)
    await idempotency.once(REQUEST._replace(key="resumed", repeatable=False), part.first, resume=part.resume)
    part.again.answer = os.urandom(MAX_ANSWER_BYTES).hex().encode()
    with pytest.raises(OutcomeUnknown, match="send it again"):
        await idempotency.once(REQUEST._replace(key="resumed", repeatable=False), part.first, resume=part.resume)

    unrepeatable = REQUEST._replace(key="another", repeatable=False)
    await idempotency.once(unrepeatable, work)
    with pytest.raises(OutcomeUnknown):
        await idempotency.once(unrepeatable, work)
    assert runs == 3


async def test_largest_response_is_stored_in_any_script(idempotency: Idempotency) -> None:
    for character in ("x", "🜁", '"'):
        request = REQUEST._replace(key=character)
        # Half compresses well; the incompressible half is close to the limit.
        reply = to_json(character * 100_000 + os.urandom(MAX_ANSWER_BYTES // 2).hex())
        assert MAX_ANSWER_BYTES * 0.6 < len(pack(reply)) <= MAX_ANSWER_BYTES

        async def work(_: GuidFactory | None, reply: bytes = reply) -> bytes:
            return reply

        assert await idempotency.once(request, work) == (reply, False)
        assert await idempotency.once(request, work) == (reply, True)


async def test_stored_response_counts_in_bytes(idempotency: Idempotency, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(idempotency._room, "add", lambda _, size: sizes.append(size))
    reply = to_json("🜁" * 200)

    async def work(_: GuidFactory | None) -> bytes:
        return reply

    await idempotency.once(REQUEST, work)
    assert (len(reply), sizes[-1]) == (802, 4096), "202 characters would not need a page"


async def test_request_with_unstorable_response_is_not_acknowledged(
    sqlite_url: str, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """Otherwise a repetition could create the record again after its client deleted it."""
    expected_logs.add("receipt not written")
    async with open_store(sqlite_url, exclusive=True) as store:

        class UnwritableReceipts:
            """Receipts that can be claimed but not completed."""

            get, usage, purge = store.receipts.get, store.receipts.usage, store.receipts.purge

            async def swap(self, old: Receipt | None, new: Receipt | None) -> bool:
                if old is not None:
                    raise StoreUnavailable("the disk is full")
                return await store.receipts.swap(old, new)

        idempotency = Idempotency(UnwritableReceipts(), LeaseClock(store.fence), clock=clock, seeded=seeded)
        with pytest.raises(OutcomeUnknown, match="send it again"):
            await idempotency.once(REQUEST, RecordedWork())
        response, replayed = await idempotency.once(REQUEST._replace(key="named", repeatable=False), RecordedWork())
        assert (b'"answer":1' in response, replayed) == (True, False), "an unrepeatable request is acknowledged"


async def test_completion_with_unstorable_response_is_not_acknowledged(
    sqlite_url: str, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """Not even that of a request which may not be repeated as a whole: its unknown part is repeated."""
    expected_logs.add("receipt not written")
    async with open_store(sqlite_url, exclusive=True) as store:

        class Full:
            """Receipts that take one response, and no more."""

            get, usage, purge = store.receipts.get, store.receipts.usage, store.receipts.purge
            is_full = False

            async def swap(self, old: Receipt | None, new: Receipt | None) -> bool:
                if self.is_full and new is not None and new.answer not in {None, "?"}:
                    raise StoreUnavailable("the disk is full")
                return await store.receipts.swap(old, new)

        receipts, part = Full(), Resumable(do_nothing)
        idempotency = Idempotency(receipts, LeaseClock(store.fence), clock=clock, seeded=seeded)
        request = REQUEST._replace(repeatable=False)
        await idempotency.once(request, part.first, resume=part.resume)
        receipts.is_full = True
        with pytest.raises(OutcomeUnknown, match="send it again"):
            await idempotency.once(request, part.first, resume=part.resume)
        receipts.is_full = False
        await idempotency.once(request, part.first, resume=part.resume)
        assert [*part.works.drawn * 2] == part.again.drawn


# Stalled processes


class StallingProcess:
    """The store and the clock of a process that stalls after it has sent a write, while time goes on."""

    def __init__(self, store: Database, clock: FakeClock) -> None:
        self.clock = clock
        self.seconds = 0.0
        self.receipts = store.receipts
        self.records = RecordsOfStallingProcess(store.records, self)
        self.fence = FenceOfStallingProcess(store.fence, self)
        self.meanwhile: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Each is run once, during a stall that is longer than a lease."""

    def timer(self) -> float:
        return self.seconds


class FenceOfStallingProcess(NamedTuple):
    """The clock of the store, which also goes on."""

    inner: FenceReader
    process: StallingProcess

    async def read(self) -> FenceReading:
        reading = await self.inner.read()
        return reading._replace(now=reading.now + round(self.process.seconds * 1000))


class RecordsOfStallingProcess(DelegatingRecords):
    """The records as the stalling process sees them."""

    def __init__(self, records: RecordRepository, process: StallingProcess) -> None:
        super().__init__(records)
        self._process = process

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        await self._stall()
        return await self._records.swap(old, new, not_after=self._by_store(not_after), origin=origin)

    async def swap_many(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        await self._stall()
        return await self._records.swap_many(
            [each._replace(not_after=self._by_store(each.not_after)) for each in swaps]
        )

    async def _stall(self) -> None:
        process = self._process
        if process.meanwhile:
            process.seconds += 11
            process.clock.advance(seconds=11)
            await asyncio.create_task(process.meanwhile.pop()(), context=Context())  # it is not part of the request

    def _by_store(self, not_after: int | None) -> int | None:
        return not_after and not_after - round(self._process.seconds * 1000)


class HasRecords(Protocol):
    """The part of a database that a service needs."""

    @property
    def records(self) -> RecordRepository: ...

    @property
    def fence(self) -> FenceReader: ...


def service_of(store: HasRecords, clock: FakeClock, quota: Quota = NO_QUOTA) -> GuidService:
    """Return a service on these records."""
    return GuidService(
        store.records,
        LeaseClock(store.fence),
        clock=clock,
        generator=guid_generator.random_generator(guid_generator.guid_v4),
        policy=lifecycle.RetentionPolicy(lifetime=3600, retention=600),
        quota=quota,
    )


class CreateRecord:
    """The work of a request that creates a record."""

    def __init__(self, store: HasRecords, clock: FakeClock, quota: Quota = NO_QUOTA) -> None:
        self._service = service_of(store, clock, quota)

    async def __call__(self, draws: GuidFactory | None) -> bytes:
        assert draws is not None
        return (await self._service.create(PutCommand(user="once"), generator=draws(0))).guid.encode()

    async def delete(self, guid: str) -> None:
        await self._service.delete(guid)


async def test_stalled_request_executed_elsewhere_is_not_repeated(backend: Database, clock: FakeClock) -> None:
    """It does not undo the deletion of the record either."""
    stalling, create = StallingProcess(backend, clock), CreateRecord(backend, clock)
    stalled, successor = (
        Idempotency(database.receipts, LeaseClock(database.fence, timer=stalling.timer), clock=clock, seeded=seeded)
        for database in (stalling, backend)
    )
    created_guids: list[str] = []

    async def meanwhile() -> None:
        response, _ = await successor.once(REQUEST, create)
        await create.delete(response.decode())
        created_guids.append(response.decode())

    stalling.meanwhile = [meanwhile]
    with pytest.raises(LeaseExpired):
        await stalled.once(REQUEST, CreateRecord(stalling, clock))

    assert (stored := await backend.records.get(created_guids[0])) is not None
    assert stored.is_deleted
    response, replayed = await stalled.once(REQUEST, create)
    assert (response.decode(), replayed) == (created_guids[0], True)


async def test_stalled_request_without_successor_continues(backend: Database, clock: FakeClock) -> None:
    stalling = StallingProcess(backend, clock)
    idempotency = Idempotency(
        stalling.receipts, LeaseClock(stalling.fence, timer=stalling.timer), clock=clock, seeded=seeded
    )
    stalling.meanwhile = [do_nothing] * 3

    response, replayed = await idempotency.once(REQUEST, CreateRecord(stalling, clock))

    assert not replayed
    assert [stored.guid for stored in await backend.records.find(Selection(), "", 10)] == [response.decode()]


async def do_nothing() -> None:
    pass


Change = Callable[[GuidService], Awaitable[object]]
"""A change of the record of `GUID`."""


async def put_together(service: GuidService) -> None:
    """Put the record, as a batch does, and raise the error of the write."""
    (result,) = await service.put_together([(GUID, PutCommand(user="late"), UNCONDITIONAL)])
    if isinstance(result, Exception):
        raise result
    if result is None:
        await service.put(GUID, PutCommand(user="late"))


CHANGES: Mapping[str, Change] = {
    "put": lambda service: service.put(GUID, PutCommand(user="late")),
    "put_together": put_together,
    "patch": lambda service: service.patch(GUID, PatchCommand(user="late")),
    "renew": lambda service: service.renew(GUID, RenewCommand(ttl=100_000)),
    "delete": lambda service: service.delete(GUID),
}


@pytest.mark.parametrize("has_changed", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_stalled_change_is_not_done_after_its_claim(
    backend: Database, clock: FakeClock, change: Change, has_changed: bool
) -> None:
    """A retry has reported an unknown outcome, so the client has read the record, and may have changed it."""
    stalling, service = StallingProcess(backend, clock), service_of(backend, clock)
    stalled_service = service_of(stalling, clock)
    stalled, other = (
        Idempotency(database.receipts, LeaseClock(database.fence, timer=stalling.timer), clock=clock, seeded=seeded)
        for database in (stalling, backend)
    )
    request = REQUEST._replace(repeatable=False)
    await service.put(GUID, PutCommand(user="before"))
    seen: list[Record] = []

    async def work(_: GuidFactory | None) -> bytes:
        await change(stalled_service)
        return b"done"

    async def meanwhile() -> None:
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await other.once(request, work)
        if has_changed:
            await service.put(GUID, PutCommand(user="since"))
        seen.append((await service.get(GUID)).record)

    stalling.meanwhile = [meanwhile]
    with pytest.raises(LeaseExpired):
        await stalled.once(request, work)
    assert [(await service.get(GUID)).record] == seen


async def test_expired_claim_that_is_renewed_in_time_goes_on(backend: Database, clock: FakeClock) -> None:
    """The renewal of the claim was sent before a retry could end the claim, so the retry must wait."""
    idempotency = Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded)
    request = REQUEST._replace(repeatable=False)
    claimed, _ = await idempotency._claim(request)
    clock.advance(seconds=10)

    class RenewedReceipts:
        """Receipts of which one is renewed between the read and the write of a retry."""

        get, usage, purge = backend.receipts.get, backend.receipts.usage, backend.receipts.purge

        async def swap(self, old: Receipt | None, new: Receipt | None) -> bool:
            renewed = claimed.model_copy(update={"attempt": claimed.attempt + 1, "leased_until": clock() + 10_000})
            assert await backend.receipts.swap(claimed, renewed)
            return await backend.receipts.swap(old, new)

    retry = Idempotency(RenewedReceipts(), LeaseClock(backend.fence), clock=clock, seeded=seeded)
    with pytest.raises(InProgress):
        await retry.once(request, RecordedWork())
    assert (await backend.receipts.get(request.name) or claimed).leased_until > clock()


async def test_repeated_request_at_the_quota_finds_its_own_records(backend: Database, clock: FakeClock) -> None:
    """Its own record fills the quota, which must not reject the repetition."""
    claimed, _ = await Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded)._claim(
        REQUEST
    )
    guid = seeded(bytes.fromhex(claimed.seed), 0, claimed.claimed)(0)
    assert await backend.records.swap(None, record(clock(), guid=guid))
    clock.advance(seconds=10)
    async with open_quota(backend, lease_clock=LeaseClock(backend.fence), clock=clock, quota=1) as quota:
        create = CreateRecord(backend, clock, quota)
        response, _ = await Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded).once(
            REQUEST, create
        )
        assert response.decode() == guid
        with pytest.raises(QuotaExceeded):
            await Idempotency(backend.receipts, LeaseClock(backend.fence), clock=clock, seeded=seeded).once(
                REQUEST._replace(key="another"), create
            )
