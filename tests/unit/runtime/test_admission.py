"""Slots are shared by callers: each gets one in turn, has a bounded part of the queue, and none takes all."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from guidsvc.errors import Overloaded
from guidsvc.runtime.admission import QUEUE, Admission
from guidsvc.runtime.cancel_scope import CancelScope
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.factories import GUID
from tests.support.gated_store import run_ready_tasks
from tests.support.http_client import Client
from tests.support.metrics import scrape, value
from tests.support.secured_service import SecuredService


class Work:
    """Requests that take slots and last until they are ended."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._ends: list[asyncio.Event] = []
        self.running: list[str] = []
        self.started: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, callers: str, *, patient: bool = False) -> None:
        """Start a request for each of these callers; return when the admitted ones have their slots."""
        self.tasks += [asyncio.create_task(self._do(caller, patient=patient)) for caller in callers]
        await run_ready_tasks()

    async def end_first(self) -> None:
        """End the request that has held its slot the longest."""
        self._ends.pop(0).set()
        await run_ready_tasks()

    async def end_all(self) -> None:
        while self._ends:
            await self.end_first()

    async def _do(self, caller: str, *, patient: bool) -> None:
        end = asyncio.Event()
        async with self._admission.slot(CancelScope(), caller, patient=patient):
            self.running.append(caller)
            self.started.append(caller)
            self._ends.append(end)
            await end.wait()
            self.running.remove(caller)


def assert_empty(admission: Admission) -> None:
    """Fail if ended requests left a slot, a waiter, or an entry of a caller."""
    assert (admission.in_progress, admission.waiting) == (0, 0)
    assert admission._slots._held_slots == {}
    assert len(admission._waiting._groups) == 0


async def test_callers_get_free_slots_in_turn() -> None:
    admission = Admission(1, seconds=60)
    work = Work(admission)
    await work.begin("eeeeabb")
    await work.end_all()
    assert "".join(work.started) == "eeabebe"
    assert_empty(admission)


async def test_one_caller_uses_all_slots_but_only_half_of_the_queue(
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs.add("overloaded, rejecting requests")
    admission = Admission(2, seconds=60)
    work = Work(admission)
    await work.begin("e" * (2 + 2 * QUEUE))
    assert (admission.in_progress, admission.waiting) == (2, 2 * QUEUE)
    assert admission.is_full_for("e")
    with pytest.raises(Overloaded):
        await admission.slot(CancelScope(), "e").__aenter__()
    await work.begin("a" * QUEUE)
    assert admission.waiting == 3 * QUEUE, "half of the remaining queue"
    assert admission.is_full_for("a")
    assert not admission.is_full_for("b")
    await work.end_all()
    assert set(work.started[2:5]) == {"e", "a"}
    assert_empty(admission)


async def test_many_callers_fill_the_queue_and_no_more() -> None:
    admission = Admission(1, seconds=60)
    work = Work(admission)
    callers = "".join(map(chr, range(1000, 1000 + 3 * QUEUE)))
    await work.begin("e")
    for caller in callers:
        if not admission.is_full_for(caller):
            await work.begin(caller)
    assert admission.waiting == 2 * QUEUE
    assert admission.is_full_for(None)
    await work.end_all()
    assert_empty(admission)


async def test_caller_over_its_queue_time_is_rejected_alone() -> None:
    admission = Admission(1, seconds=3.0)
    work = Work(admission)
    await work.begin("ee")
    async with asyncio.timeout(30):
        while not admission.is_full_for("e"):  # until the first has waited too long
            assert admission.waiting == 1
            await asyncio.sleep(0.01)
    assert not admission.is_full_for("a")
    assert not admission.is_full_for(None)
    await work.begin("a")
    assert admission.waiting == 2
    await work.end_all()
    assert "".join(work.started) == "eea"


async def test_caller_leaves_slots_to_others() -> None:
    admission = Admission(4, seconds=60, share=0.75)
    work = Work(admission)
    await work.begin("eeeeee")
    assert work.running == ["e"] * 3
    assert not admission.try_acquire(scope_of("e"))
    await work.begin("a")
    assert work.running == ["e"] * 3 + ["a"], "the slot is granted at once"
    await work.end_all()
    assert_empty(admission)


def scope_of(caller: str) -> CancelScope:
    scope = CancelScope()
    scope.caller = caller
    return scope


async def test_slot_taken_before_authentication_counts_to_its_caller() -> None:
    admission = Admission(4, seconds=60, share=0.5)
    scopes = [CancelScope() for _ in range(4)]
    assert all(map(admission.try_acquire, scopes))
    assert [admission.begin(scope, "e") for scope in scopes] == [True, True, False, False]
    assert admission.in_progress == 2, "slots over its share are free for others"
    other_scope = CancelScope()
    assert admission.begin(other_scope, "a")
    for scope in [*scopes, other_scope]:
        admission.end(scope)
    assert_empty(admission)


async def test_slot_of_another_caller_is_not_used() -> None:
    admission = Admission(1, seconds=60, share=0.5)
    scope = scope_of("a")
    assert admission.try_acquire(scope)
    assert admission.begin(scope, "b")
    admission.end(scope)
    assert_empty(admission)


@pytest.mark.parametrize("has_turn", [True, False])
async def test_cancelled_request_passes_its_turn_to_the_same_caller(*, has_turn: bool) -> None:
    admission = Admission(1, seconds=60)
    work = Work(admission)
    await work.begin("eaab")
    if has_turn:
        work._ends.pop(0).set()
        while work.running:  # the slot has been granted to the first of a, which has not run since
            await asyncio.sleep(0)
    work.tasks[1].cancel()
    if not has_turn:
        work._ends.pop(0).set()
    await run_ready_tasks(10)
    await work.end_all()
    assert sorted(work.started) == ["a", "b", "e"]
    assert_empty(admission)


async def test_waiting_parts_of_one_caller_leave_the_room_of_others() -> None:
    """Parts of a running stream or batch wait without limit; that must not reject new requests of others."""
    admission = Admission(1)
    work = Work(admission)
    await work.begin("a")
    await work.begin("s" * (2 * QUEUE + 1), patient=True)
    assert admission.is_full_for("s")
    assert not admission.is_full_for("b")
    await work.end_all()
    await asyncio.gather(*work.tasks)
    assert not admission.is_full_for("s")


async def test_expired_request_leaves_the_queue(expected_logs: ExpectedLogs) -> None:
    expected_logs.add("overloaded, rejecting requests")
    admission = Admission(1, seconds=0.2)
    work = Work(admission)
    await work.begin("e")
    await work.begin("ab")
    await work.begin("c", patient=True)
    results = await asyncio.gather(*work.tasks[1:3], return_exceptions=True)
    assert [type(result) for result in results] == [Overloaded, Overloaded]
    assert (admission.waiting, admission.expired) == (1, 2)
    await work.end_all()
    assert work.started == ["e", "c"]
    assert_empty(admission)


# Over sockets

ONE_GUID = ("PUT", f"/guid/{GUID}")
"""A write that needs no handler."""
CREATION = ("POST", "/guid")
"""A write that needs a handler."""
Headers = Mapping[str, str]


@contextmanager
def blocked_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """Block all writes within the block, until the yielded function is called."""
    with closing(sqlite3.connect(folder / "guidsvc.db", isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        yield lambda: lock.execute("ROLLBACK")


TwoCallers = tuple[Client, Headers, Headers]
ServeTwo = Callable[..., AbstractAsyncContextManager[TwoCallers]]


@pytest.fixture
def serve_two(serving: Serving, sqlite_url: str, clock: FakeClock) -> ServeTwo:
    """Serve two callers: owners of keys, or addresses without access control."""

    @asynccontextmanager
    async def serve(*, by: str, **settings: object) -> AsyncIterator[TwoCallers]:
        access = {"access": "keys", "public_metrics": True} if by == "owner" else {"trusted_proxies": "127.0.0.1"}
        async with serving(**access, **settings) as client:
            if by == "address":
                yield client, {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
                return
            secured = SecuredService(client, sqlite_url, clock)
            evil, bob = [(await secured.create_key(owner)).headers for owner in ("evil", "bob")]
            for headers in (evil, bob):  # the first request of a key looks it up
                assert (await client.ask("GET", "/guid", headers=headers)).status == 200
            yield client, evil, bob

    return serve


async def wait_until_queued(client: Client, requests: Sequence["asyncio.Task[Any]"]) -> None:
    """Wait until each of these requests has a slot, waits for one, or has its response."""
    queued = -1.0
    while queued < sum(not request.done() for request in requests):
        samples = await scrape(client)
        queued = sum(value(samples, f"guidsvc_requests_{name}") for name in ("in_progress", "waiting"))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["owner", "address"])
@pytest.mark.parametrize("write", [ONE_GUID, CREATION], ids=["plain", "handler"])
async def test_overload_by_one_caller_affects_no_other(
    serve_two: ServeTwo, tmp_path: Path, expected_logs: ExpectedLogs, by: str, write: tuple[str, str]
) -> None:
    expected_logs.add("overloaded, rejecting requests")
    finished: list[str] = []
    numbers = count()

    async def ask(client: Client, caller: str, headers: Headers) -> int:
        method, path = write
        other_guid = path.replace(GUID, GUID[::-1]) if caller == "bob" else path
        status = (
            await client.ask(method, other_guid, headers=headers, json={"user": f"{caller} {next(numbers)}"})
        ).status
        if status < 300:
            finished.append(caller)
        return status

    async with serve_two(by=by, max_in_progress=1, queue_timeout=5) as (client, evil, bob):
        with blocked_disk(tmp_path) as release:
            overload = [asyncio.create_task(ask(client, "evil", evil)) for _ in range(3)]
            await wait_until_queued(client, overload)
            while not any(task.done() for task in overload):  # until the first of them has waited for long
                overload.append(asyncio.create_task(ask(client, "evil", evil)))
                await asyncio.sleep(0.15)
            bob_request = asyncio.create_task(ask(client, "bob", bob))
            await wait_until_queued(client, [*overload, bob_request])
            release()
        assert await bob_request < 300
        assert 503 in await asyncio.gather(*overload)
    assert finished.count("evil") >= 3
    assert finished.index("bob") <= 2, "after the running request and at most one more of the other caller"


async def test_owner_with_slow_writes_leaves_slots_to_others(serve_two: ServeTwo, tmp_path: Path) -> None:
    async with serve_two(by="owner", max_in_progress=4) as (client, evil, bob):
        with blocked_disk(tmp_path) as release:
            writes = [
                asyncio.create_task(client.ask(*ONE_GUID, headers=evil, json={"user": "evil"})) for _ in range(20)
            ]
            await wait_until_queued(client, writes)
            assert (await client.ask("GET", "/guid", headers=bob)).status == 200
            assert not any(task.done() for task in writes)
            release()
        assert {reply.status for reply in await asyncio.gather(*writes)} == {200, 201}
