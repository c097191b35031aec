"""Writes that wait for a GUID are executed together, each with its own result, event and audit line."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import pytest

from guidsvc.api.parsing import body
from guidsvc.domain import lifecycle
from guidsvc.domain.caller import ANYONE, Caller
from guidsvc.domain.commands import PatchCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import Record
from guidsvc.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    GuidsvcError,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    QuotaExceeded,
    StoreUnavailable,
)
from guidsvc.runtime.admission import Admission
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.fairness.decoding_turns import MERGED_BYTES, READERS, DecodingTurns
from guidsvc.services import retention_quota
from guidsvc.services.quota import NO_QUOTA, Quota, open_quota
from guidsvc.services.retention_quota import STORED_PER_LIVE, open_quotas
from guidsvc.services.writes.record_writer import RecordWriter
from guidsvc.store import open_store
from guidsvc.store.contract import Database, Swap
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from guidsvc.telemetry import tracing
from guidsvc.telemetry.tracing import RequestTrace
from tests.conftest import FakeClock
from tests.support.factories import GUID, record
from tests.support.json_values import listing_body
from tests.support.turn_counter import TurnCounter

Change = Callable[[Record], Record]


class GatedRecords(DelegatingRecords):
    """The records of a store, whose first swap waits; counts the swaps of each call."""

    commits_chains = True

    def __init__(self, store: Database) -> None:
        super().__init__(store.records)
        self.database = store
        self.gate = asyncio.Event()
        self.calls: list[int] = []
        self.before_chain: Callable[[Sequence[Swap]], object] = lambda _: None

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        self.calls.append(1)
        await self.gate.wait()
        return await self._records.swap(old, new, not_after=not_after, origin=origin)

    async def swap_chain(self, swaps: Sequence[Swap]) -> Sequence[bool | GuidsvcError]:
        self.calls.append(len(swaps))
        result = self.before_chain(swaps)
        if asyncio.iscoroutine(result):
            result = await result
        return result if isinstance(result, list) else await self._records.swap_chain(swaps)


@pytest.fixture
async def records(clock: FakeClock, sqlite_url: str) -> AsyncIterator[GatedRecords]:
    """The records of a store, which has GUID."""
    async with open_store(sqlite_url, exclusive=True) as store:
        await store.records.swap(None, record(clock()))
        yield GatedRecords(store)


class Writers:
    """Requests that change GUID, each in a slot and with a trace of its own; the first is in progress."""

    def __init__(self, records: GatedRecords, clock: FakeClock, quota: Quota = NO_QUOTA) -> None:
        self.records = records
        self.admission = Admission(8, seconds=60, budget=60)
        self.audit: list[tuple[object, ...]] = []
        lease_clock = LeaseClock(records.database.fence)
        self.merged_bytes = 0
        self._writer = RecordWriter(
            records,
            lease_clock,
            clock=clock,
            quota=quota,
            audit=self._note,
            attempts=5,
            decoding_turns=DecodingTurns(),
        )
        self.scopes: list[CancelScope] = []
        self.tasks: list[asyncio.Task[Record]] = []

    def _note(self, action: str, changed: Record, _: Caller, outcome: str) -> None:
        trace = tracing.CURRENT.get()
        self.audit.append((trace and trace.request_id, action, changed.user, outcome))

    def begin(self, *changes: Change) -> None:
        """Start a request for each change."""
        for change in changes:
            self.scopes.append(CancelScope())
            self.tasks.append(asyncio.create_task(self._request(self.scopes[-1], change, f"r{len(self.tasks)}")))

    async def _request(self, scope: CancelScope, change: Change, request_id: str) -> Record:
        def make(old: Record | None, _now: int, _after: int) -> Record:
            if old is None:
                raise NotFound(GUID)
            return change(old)

        tracing.CURRENT.set(RequestTrace(request_id))
        async with self.admission.slot(scope, "alice"):
            return (await self._writer.write(GUID, make, ANYONE, merged_bytes=self.merged_bytes))[1]

    async def results(self) -> list[Record | BaseException]:
        """Wait until all but two writes wait for their turn; let the first continue, and return all results."""
        await until(lambda: self.admission.waiting == len(self.tasks) - 2)
        self.records.gate.set()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert (self.admission.in_progress, self.admission.waiting) == (0, 0)
        assert self._writer._turns._turns == {}
        assert [scope.shield_depth for scope in self.scopes] == [0] * len(self.scopes)
        return results

    async def stored(self) -> Record:
        found = await self.records.get(GUID)
        assert found is not None
        return found


@pytest.fixture
def writers(records: GatedRecords, clock: FakeClock) -> Writers:
    return Writers(records, clock)


@pytest.fixture
async def merging(writers: Writers) -> Writers:
    """Writers that merge large metadata, so that other tasks run while a chain is planned."""
    store, writers.merged_bytes = writers.records.database.records, 100
    large = renamed("old", metadata='{"a":"%s"}' % ("x" * 16_000))
    assert await store.swap(old := await writers.stored(), large(old))
    return writers


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def renamed(user: str, **fields: object) -> Change:
    """Return a change of the user, and of other fields."""
    return lambda old: old.model_copy(update={"user": user, "version": old.version + 1, **fields})


def rejected(old: Record) -> Record:
    """Reject the change of any version."""
    raise PreconditionFailed(GUID, old.version, b"x")


async def test_waiting_writes_are_executed_in_one_call(writers: Writers, clock: FakeClock) -> None:
    """One after the other, each would wait for the commits and the round trips of all before it."""
    writers.begin(*(renamed(f"user {number}") for number in range(20)))
    results = await writers.results()

    assert writers.records.calls == [1, 19]
    users = [f"user {number}" for number in range(20)]
    assert [each.user for each in results if isinstance(each, Record)] == users, "in order of arrival"
    assert [each.version for each in results if isinstance(each, Record)] == [clock() + 1 + n for n in range(20)]
    assert await writers.stored() == results[-1]
    assert writers.audit == [(f"r{number}", "update", users[number], "done") for number in range(20)]


async def test_each_write_of_a_chain_has_its_event(writers: Writers) -> None:
    writers.begin(*(renamed(f"user {number}") for number in range(5)))
    await writers.results()

    entries = await writers.records.database.events.history(GUID, 2**53, 100)
    requests = [each.entry.request_id for each in reversed(entries) if each.entry.kind == "updated"]
    assert requests == [f"r{number}" for number in range(5)]


async def test_write_is_decided_by_the_record_of_the_write_before(writers: Writers) -> None:
    seen: list[str] = []

    def unchanged(old: Record) -> Record:
        seen.append(old.user)
        return old

    writers.begin(renamed("a"), renamed("b"), rejected, unchanged, lambda old: lifecycle.delete(old, 0), rejected)
    first, second, failed, same, deleted, missing = await writers.results()

    assert isinstance(failed, PreconditionFailed)
    assert isinstance(second, Record)
    assert (failed.version, seen, same) == (second.version, ["b"], second)
    assert isinstance(deleted, Record)
    assert deleted.is_deleted
    assert isinstance(missing, NotFound), "it has no record to follow, and got a turn of its own"
    assert isinstance(first, Record)
    assert writers.records.calls == [1, 2]


async def test_chain_that_loses_its_race_is_computed_again(writers: Writers) -> None:
    """Another process writes between the plan and the swaps; even a rejection may no longer hold."""
    store = writers.records.database.records

    def of_other(old: Record) -> Record:
        if old.user != "other":
            raise PreconditionFailed(GUID, old.version, b"x")
        return old

    async def overtake(swaps: Sequence[Swap]) -> None:
        writers.records.before_chain = lambda _: None
        assert await store.swap(swaps[0].old, renamed("other")(swaps[0].old))  # type: ignore[arg-type]  # it is a record

    writers.records.before_chain = overtake
    writers.begin(renamed("a"), lambda old: old if old.user == "other" else renamed("b")(old), of_other, renamed("d"))
    _, second, third, fourth = await writers.results()

    assert [each.user for each in (second, third, fourth) if isinstance(each, Record)] == ["other", "other", "d"]
    assert [line[2] for line in writers.audit] == ["a", "d"]


async def test_error_of_a_write_leaves_those_after_it_undone(writers: Writers) -> None:
    """They are tried again: what they would have followed may not be stored."""
    store = writers.records.database.records
    unknown = OutcomeUnknown("no answer")

    async def fail(swaps: Sequence[Swap]) -> list[bool | GuidsvcError]:
        writers.records.before_chain = lambda _: None
        done = await store.swap_chain(swaps[:2])
        return [*done, unknown, *[False] * (len(swaps) - 3)]

    writers.records.before_chain = fail
    writers.begin(*(renamed(name) for name in "abcdef"), rejected)
    *results, last = await writers.results()

    assert results[3] is unknown
    assert [each.user for each in results if isinstance(each, Record)] == ["a", "b", "c", "e", "f"]
    assert isinstance(last, PreconditionFailed)
    assert [line[2:] for line in writers.audit] == [(name, "unknown" if name == "d" else "done") for name in "abcdef"]


async def test_chain_of_large_merges_is_executed_in_one_call(merging: Writers) -> None:
    merging.begin(*(renamed(f"user {number}") for number in range(20)))
    results = await merging.results()

    assert [each.user for each in results if isinstance(each, Record)] == [f"user {number}" for number in range(20)]
    assert merging.records.calls == [1, 19]


@pytest.mark.parametrize("ended", range(2, 9))
async def test_request_may_end_while_its_chain_is_planned(merging: Writers, ended: int) -> None:
    """Its write is executed if it was planned before that; those of the others are."""

    def end_next(old: Record) -> Record:
        disconnect = partial(merging.scopes[ended].cancel, is_disconnected=True)
        asyncio.get_running_loop().call_soon(disconnect)
        return renamed("ending")(old)

    changes = [renamed(f"user {number}") for number in range(10)]
    changes[ended - 1] = end_next
    merging.begin(*changes)
    results = await merging.results()

    own = results.pop(ended)
    assert isinstance(own, Record | ClientDisconnected)
    assert all(isinstance(each, Record) for each in results)
    assert await merging.stored() == results[-1]
    assert len(merging.audit) == 9 + isinstance(own, Record)


async def test_writes_survive_the_end_of_the_writer_that_plans_them(merging: Writers) -> None:
    def cancel_writer(old: Record) -> Record:
        merging.tasks[1].cancel()
        return renamed("cancelling")(old)

    merging.begin(renamed("a"), renamed("b"), renamed("c"), cancel_writer, *(renamed("d") for _ in range(9)))
    first, cancelled, *others = await merging.results()

    assert isinstance(first, Record)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [each.user for each in others if isinstance(each, Record)] == ["c", "cancelling", *["d"] * 9]
    assert "b" not in {line[2] for line in merging.audit}
    assert len(merging.audit) == 12


@pytest.mark.parametrize("error", [StoreUnavailable("no disk"), RuntimeError("a fault")])
async def test_error_of_the_store_is_that_of_each_write(writers: Writers, error: Exception) -> None:
    async def fail(_: Sequence[Swap]) -> None:
        raise error

    writers.records.before_chain = fail
    writers.begin(*(renamed(name) for name in "abcd"))
    first, *others = await writers.results()

    assert isinstance(first, Record)
    assert others == [error] * 3
    unknown = 0 if isinstance(error, GuidsvcError) else 3
    assert [line[3] for line in writers.audit] == ["done", *["unknown"] * unknown]


async def test_write_is_not_cancelled_while_another_executes_it(writers: Writers) -> None:
    """Its client has disconnected, but the write is done, and not reported as undone."""

    def disconnect(_: Sequence[Swap]) -> None:
        for scope in writers.scopes[1:]:
            scope.cancel(is_disconnected=True)

    writers.records.before_chain = disconnect
    writers.begin(*(renamed(name) for name in "abcd"))
    results = await writers.results()

    assert [each.user for each in results if isinstance(each, Record)] == ["a", "b", "c", "d"]


async def test_outcome_is_unknown_if_the_writer_is_cancelled(writers: Writers) -> None:
    async def interrupt(_: Sequence[Swap]) -> None:
        writers.records.before_chain = lambda _: None
        writers.tasks[1].cancel()
        writers.tasks[3].cancel()
        await asyncio.sleep(3600)

    writers.records.before_chain = interrupt
    writers.begin(*(renamed(name) for name in "abcd"), lambda old: old)
    _, second, third, fourth, fifth = await writers.results()

    assert isinstance(second, asyncio.CancelledError)
    assert isinstance(third, OutcomeUnknown)
    assert isinstance(fourth, asyncio.CancelledError)
    assert isinstance(fifth, Record)
    assert sorted(line[2:] for line in writers.audit) == [("a", "done"), *((name, "unknown") for name in "bcd")]


async def test_request_that_ends_in_a_failed_chain_waits_no_more(writers: Writers) -> None:
    """Another chain would execute its write past its time limit."""

    def lose(swaps: Sequence[Swap]) -> list[bool | GuidsvcError]:
        writers.records.before_chain = lambda _: None
        for scope in writers.scopes[2:4]:
            scope.cancel(is_disconnected=False)
        return [False] * len(swaps)

    writers.records.before_chain = lose
    writers.begin(*(renamed(name) for name in "abcdef"))
    results = await writers.results()

    assert [type(each) for each in results[2:4]] == [DeadlineExceeded] * 2
    assert [each.user for each in results if isinstance(each, Record)] == ["a", "b", "e", "f"]
    assert [line[2] for line in writers.audit] == ["a", "b", "e", "f"]


async def test_store_that_commits_no_chains_executes_each_write_alone(writers: Writers) -> None:
    """In a chain, the last would wait for the store as often as there are writes, long past its time limit."""
    records = writers.records
    records.commits_chains = False
    writers.begin(*(renamed(name) for name in "abcde"))
    await until(lambda: writers.admission.waiting == 3)
    records.gate.set()
    records.gate.clear()
    await until(lambda: records.calls == [1, 1])
    for scope in writers.scopes[2:4]:
        scope.cancel(is_disconnected=False)
    ended = await asyncio.wait_for(asyncio.gather(*writers.tasks[2:4], return_exceptions=True), 60)
    records.gate.set()
    results = await asyncio.gather(*writers.tasks, return_exceptions=True)

    assert [type(each) for each in ended] == [DeadlineExceeded] * 2, "while the second is executed"
    assert [each.user for each in results if isinstance(each, Record)] == ["a", "b", "e"]
    assert records.calls == [1, 1, 1]


async def test_end_of_the_request_that_executes_a_chain_is_its_own(writers: Writers) -> None:
    """It has ended while it waited for the cache, so nothing was sent to the store."""

    def end(_: Sequence[Swap]) -> None:
        writers.records.before_chain = lambda _: None
        raise DeadlineExceeded("the request took longer than its time limit")

    writers.records.before_chain = end
    writers.begin(*(renamed(name) for name in "abcde"), lambda old: old)
    _, ended, *others = await writers.results()

    assert isinstance(ended, DeadlineExceeded)
    assert [each.user for each in others if isinstance(each, Record)] == ["c", "d", "e", "e"]


async def test_writer_that_is_cancelled_passes_its_turn_on(writers: Writers) -> None:
    writers.begin(*(renamed(name) for name in "abcde"))
    await until(lambda: writers.admission.waiting == 3)
    for cancelled in (1, 2):
        writers.tasks[cancelled].cancel()
    await asyncio.wait(writers.tasks[1:3])
    await until(lambda: writers.admission.waiting == 1)
    writers.records.gate.set()
    results = await asyncio.gather(*writers.tasks, return_exceptions=True)

    assert [each.user for each in results if isinstance(each, Record)] == ["a", "d", "e"]
    assert writers.records.calls == [1, 2]


async def test_unexpected_error_is_raised_to_its_own_request(writers: Writers) -> None:
    def fail(_: Record) -> Record:
        raise RuntimeError("a fault")

    writers.begin(renamed("a"), renamed("b"), fail, renamed("d"), renamed("e"))
    results = await writers.results()

    assert isinstance(results[2], RuntimeError)
    assert [each.user for each in results if isinstance(each, Record)] == ["a", "b", "d", "e"]
    assert writers.records.calls == [1, 1, 2], "the one that fails ends the chain"


async def test_write_that_needs_a_place_under_the_quota_ends_a_chain(records: GatedRecords, clock: FakeClock) -> None:
    lease_clock = LeaseClock(records.database.fence)
    async with open_quota(records.database, lease_clock=lease_clock, clock=clock, quota=10) as quota:
        writers = Writers(records, clock, quota)
        longer = clock.seconds + 3601
        writers.begin(*(renamed(name) for name in "abc"), renamed("d", expire=longer), renamed("e"))
        results = await writers.results()

    assert [each.user for each in results if isinstance(each, Record)] == ["a", "b", "c", "d", "e"]
    assert records.calls == [1, 2, 2]


async def test_deletion_in_a_chain_makes_room_at_once(
    records: GatedRecords, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even during the time for which a full owner is rejected without a count."""
    monkeypatch.setattr(retention_quota, "FULL_SECONDS", 60.0)
    monkeypatch.setattr(retention_quota, "MAX_FULL_SECONDS", 60.0)
    expired = [record(clock(), guid=f"{number:032X}", expire=1) for number in range(1, STORED_PER_LIVE)]
    for each in expired:
        assert await records.database.records.swap(None, each)
    lease_clock, new = LeaseClock(records.database.fence), record(clock(), guid="E" * 32, expire=1)
    async with open_quotas(records.database, lease_clock=lease_clock, clock=clock, quota=1) as quota:
        with pytest.raises(QuotaExceeded):
            async with quota.reserve(None, new):
                pass
        writers = Writers(records, clock, quota)
        writers.begin(renamed("a"), renamed("b"), lambda old: lifecycle.delete(old, clock()))
        await writers.results()
        assert records.calls == [1, 2], "the deletion was in a chain"
        async with quota.reserve(None, new):
            pass


async def test_long_queue_is_executed_in_several_chains(writers: Writers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guidsvc.services.writes.write_chain.LONGEST", 3)
    writers.begin(*(renamed(f"user {number}") for number in range(11)))
    await writers.results()

    assert writers.records.calls == [1, 4, 4, 2]


async def test_rejected_patch_of_a_chain_leaves_nothing_decoded(writers: Writers, clock: FakeClock) -> None:
    """Until the swaps of the chain are done, which may wait for other caches."""
    decoded = listing_body("{}", 5_400)
    command = body.parse(decoded.encode(), PatchCommand, {"guid": GUID})
    policy, taken_bytes = RetentionPolicy(lifetime=3600, retention=600), []

    def patched(old: Record) -> Record:
        return lifecycle.patch(old, command, clock(), policy)

    writers.records.before_chain = lambda _: taken_bytes.append(tracemalloc.get_traced_memory()[0])
    writers.begin(renamed("a"), renamed("b", metadata='{"b":"%s"}' % ("x" * 16_000)), *[patched] * 20)
    await until(lambda: writers.admission.waiting == len(writers.tasks) - 2)
    tracemalloc.start()
    try:
        results = await writers.results()
    finally:
        tracemalloc.stop()
    assert [type(each) for each in results[2:]] == [InvalidRequest] * 20
    assert len(taken_bytes) == 1
    assert taken_bytes[0] < 20 * len(decoded)


@pytest.mark.parametrize("is_rejected", [False, True])
async def test_few_large_patches_of_a_chain_are_merged_in_a_turn(writers: Writers, *, is_rejected: bool) -> None:
    """Although little metadata is stored: merging a patch costs as much as merging stored metadata of its size."""
    counter = TurnCounter()
    merge = counter.counted(rejected if is_rejected else renamed("b"))
    writers.merged_bytes = MERGED_BYTES // 2
    writers.begin(renamed("a"), renamed("b"), *[merge] * 30)
    async with counter.following_turns():
        results = await writers.results()
    assert sum(isinstance(each, PreconditionFailed) for each in results) == (30 if is_rejected else 0)
    assert 1 <= counter.most <= 2 * READERS
