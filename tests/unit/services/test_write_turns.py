"""Writers that wait for another writer of their GUID leave their slots to other callers, and get them back in turn."""

import asyncio
import json
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from guidsvc.api.parsing import body
from guidsvc.domain.commands import PatchCommand, PutCommand
from guidsvc.domain.events.entry import NO_ORIGIN, Origin
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import MAX_METADATA_BYTES, Record
from guidsvc.errors import DeadlineExceeded, Overloaded
from guidsvc.runtime.admission import QUEUE, Admission
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.services.guid_service import GuidService
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.delegating import DelegatingRecords
from guidsvc.store.lease import LeaseClock
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.factories import GUID
from tests.support.json_values import listing_body, metadata_body

OTHER, THIRD = GUID[::-1], "C" * 32


class GatedRecords(DelegatingRecords):
    """The records of a store; swaps of each GUID wait for its gate."""

    def __init__(self, store: Database) -> None:
        super().__init__(store.records)
        self.fence = store.fence
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.arrived: list[str] = []

    async def swap(
        self, old: Record | None, new: Record | None, *, not_after: int | None = None, origin: Origin = NO_ORIGIN
    ) -> bool:
        assert new is not None
        self.arrived.append(new.user)
        await self.gates[new.guid].wait()
        return await self._records.swap(old, new, not_after=not_after, origin=origin)


@pytest.fixture
async def records(clock: FakeClock, sqlite_url: str) -> AsyncIterator[GatedRecords]:
    async with open_store(sqlite_url, exclusive=True) as store:
        yield GatedRecords(store)


class Writers:
    """Requests that put a GUID, each in a slot of its caller."""

    def __init__(self, records: GatedRecords, admission: Admission, clock: FakeClock) -> None:
        policy = RetentionPolicy(lifetime=3600, retention=600)
        self.admission = admission
        self._service = GuidService(
            records,
            LeaseClock(records.fence),
            clock=clock,
            generator=lambda _: GUID,
            policy=policy,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def put(self, guid: str, user: str) -> None:
        await self._service.put(guid, PutCommand(user=user))

    async def patch(self, text: str) -> None:
        """Read a new copy of a body, as a request has, and apply the patch to GUID."""
        await self._service.patch(GUID, body.parse(text.encode(), PatchCommand, {"guid": GUID}))

    async def put_body(self, text: str) -> None:
        """Read a new copy of a body, and PUT it to GUID."""
        await self._service.put(GUID, body.parse(text.encode(), PutCommand, {"guid": GUID}))

    def begin(self, caller: str, work: Callable[[], Awaitable[object]]) -> "asyncio.Task[None]":
        """Start a request of a caller."""

        async def request() -> None:
            async with self.admission.slot(CancelScope(), caller):
                await work()

        self.tasks.append(asyncio.create_task(request()))
        return self.tasks[-1]

    def begin_puts(self, caller: str, guid: str, count: int) -> "list[asyncio.Task[None]]":
        return [self.begin(caller, lambda user=f"{caller} {n}": self.put(guid, user)) for n in range(count)]  # type: ignore[misc]

    def assert_empty(self) -> None:
        """Check that ended requests left nothing behind."""
        assert (self.admission.in_progress, self.admission.waiting) == (0, 0)
        assert self.admission._without_slot == Counter()
        assert self.admission._slots._held_slots == {}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def wait_until_unfinished(requests: "list[asyncio.Task[None]]", count: int) -> None:
    """Wait until only this many requests are unfinished."""
    await until(lambda: sum(not request.done() for request in requests) == count)


async def test_writers_of_a_few_guids_leave_slots_to_others(records: GatedRecords, clock: FakeClock) -> None:
    """Two owners have twenty writers each; all wait for one write that the store does not complete."""
    writers = Writers(records, Admission(8, share=0.75, seconds=60, budget=60), clock)
    writers.begin_puts("alice", GUID, 20)
    writers.begin_puts("bob", OTHER, 20)
    await until(lambda: writers.admission.waiting == 36 and len(records.arrived) == 2)
    assert writers.admission.in_progress == 4, "the first and the next writer of each GUID"

    records.gates[THIRD].set()
    await writers.begin("carol", lambda: writers.put(THIRD, "carol"))
    records.gates[GUID].set()
    records.gates[OTHER].set()
    await asyncio.gather(*writers.tasks)
    for caller in ("alice", "bob"):
        of_caller = [user for user in records.arrived if user.startswith(caller)]
        assert of_caller == [f"{caller} {number}" for number in range(20)], "in order of arrival"
    writers.assert_empty()


async def test_waiting_writers_of_a_caller_are_bounded(
    records: GatedRecords, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """As in the queue, a caller may take half of the free room: half of all, the next caller half of the rest."""
    expected_logs.add("overloaded, rejecting requests")
    writers, room = Writers(records, Admission(6, seconds=60, budget=60), clock), 2 * QUEUE * 6
    for caller, guid, divisor in (("alice", GUID, 2), ("bob", OTHER, 4)):
        await wait_until_unfinished(writers.begin_puts(caller, guid, room), room // divisor + 2)
    assert (writers.admission.in_progress, writers.admission.waiting) == (4, room // 2 + room // 4)
    rejected = [task for task in writers.tasks if task.done()]
    assert {type(task.exception()) for task in rejected} == {Overloaded}
    for gate in (GUID, OTHER):
        records.gates[gate].set()
    await asyncio.wait(writers.tasks)
    assert all(task in rejected or task.exception() is None for task in writers.tasks)
    writers.assert_empty()


async def test_waiting_writer_keeps_its_time_limit(records: GatedRecords, clock: FakeClock) -> None:
    writers = Writers(records, Admission(4, seconds=60, budget=0.2), clock)
    requests = writers.begin_puts("alice", GUID, 4)
    await wait_until_unfinished(requests, 1)
    for request in requests[1:]:
        assert isinstance(request.exception(), DeadlineExceeded)
    records.gates[GUID].set()
    await asyncio.gather(*requests, return_exceptions=True)
    writers.assert_empty()


async def test_batch_and_waiting_writer_do_not_block_each_other(records: GatedRecords, clock: FakeClock) -> None:
    """An operation of a batch waits in its slot, so no writer may hold its GUID's lock while waiting for a slot."""
    writers = Writers(records, Admission(3, seconds=60, budget=60), clock)
    writers.begin_puts("alice", GUID, 1)
    await until(lambda: len(records.arrived) == 1)
    writers.begin("carol", lambda: asyncio.gather(*(writers.put(GUID, f"part {n}") for n in range(3))))
    await until(lambda: writers.admission.in_progress == 2)
    writers.begin_puts("bob", GUID, 3)
    await until(lambda: writers.admission.waiting == 2)
    assert writers.admission.in_progress == 3, "the batch keeps its slot, and one of bob's writers is next"
    records.gates[GUID].set()
    await asyncio.gather(*writers.tasks)
    assert len(records.arrived) == 7
    writers.assert_empty()


WAITING = 40
"""PATCHes that wait for their turn in the tests below."""
REQUEST_BYTES = 12 * 1024
"""Memory of a request in these tests, without its body."""
PATCHES = {
    "objects": (listing_body("{}", 5_400), MAX_METADATA_BYTES),
    "too many objects": (listing_body("{}", 6_100), 0),
    "too many numbers": (listing_body("1e15", 13_000), 0),
    "null": (metadata_body(json.dumps(dict.fromkeys(map(hex, range(4_500))))), 64 * 1024),
    "wide text": (metadata_body(f'{{"a":"\U0001f600{"x" * 16_000}"}}'), MAX_METADATA_BYTES),
}
"""Bodies of PATCHes that take many times their size once they are decoded, or rendered; the most that each may take."""


@pytest.mark.parametrize(("method", "shape"), [*(("patch", shape) for shape in PATCHES), ("put_body", "wide text")])
async def test_waiting_change_takes_no_more_than_its_text(
    records: GatedRecords, clock: FakeClock, method: str, shape: str
) -> None:
    """Thousands may wait, without a slot, and only the bytes of their bodies are counted."""
    writers, (text, most_bytes) = Writers(records, Admission(64, seconds=60, budget=60), clock), PATCHES[shape]
    send = getattr(writers, method)
    records.gates[GUID].set()
    await writers.put(GUID, "a")
    records.gates[GUID].clear()
    writers.begin_puts("alice", GUID, 2)
    await until(lambda: len(records.arrived) == 2)
    tracemalloc.start()
    try:
        memory_before, _ = tracemalloc.get_traced_memory()
        changes = [writers.begin("alice", lambda: send(text)) for _ in range(WAITING)]
        await until(lambda: writers.admission.waiting == WAITING)
        taken_bytes = (tracemalloc.get_traced_memory()[0] - memory_before) / WAITING
    finally:
        tracemalloc.stop()
    for change in changes:
        change.cancel()
    records.gates[GUID].set()
    await asyncio.wait(writers.tasks)
    assert taken_bytes < most_bytes + REQUEST_BYTES
    writers.assert_empty()
