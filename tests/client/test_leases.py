"""Leases through the client: renewed in the background, taken over, and never lost unnoticed."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from guidsvc_client import (
    AsyncClient,
    Client,
    Expired,
    GuidsvcError,
    LeaseHeld,
    LeaseLost,
    LifeLimit,
    NotFound,
    Record,
    Sent,
    Unreachable,
)
from guidsvc_client.clock import clock
from guidsvc_client.lease_state import LeaseState
from guidsvc_client.protocol import lease_flows
from guidsvc_client.protocol.lease_flows import Term, plan_of
from tests.conftest import ExpectedLogs
from tests.support.backing_servers import Service, wait_until
from tests.support.client_in_thread import client_of
from tests.support.network_proxy import Damage, Direction, Proxy, proxy

pytestmark = pytest.mark.slow
SECONDS = 60
"""Time limit of what must happen."""
PLAN = plan_of(uuid4(), {"ttl": 60})


@pytest.fixture
def early_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lease be renewed after half a second, so that it can last far longer than a busy machine takes."""
    renew_after(monkeypatch, 0.5)


def renew_after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    def early(version: int, expire: int, ends: float, renews: float, metadata: Mapping[str, Any]) -> Term:
        return Term(version, expire, ends, min(renews, clock() + seconds), metadata)

    monkeypatch.setattr(lease_flows, "Term", early)


async def work_until_lost(lease: Any) -> None:
    """Work in small steps, and check the lease before each; it must be lost within the time limit."""
    for _ in range(SECONDS * 20):
        lease.check()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def through_proxy(kind: str, running: Service) -> AsyncIterator[tuple[Proxy, Any]]:
    """Yield a proxy to the service, and a client that uses it."""
    async with (
        proxy(running.port, random.Random(7)) as network,
        client_of(kind, f"http://127.0.0.1:{network.port}") as client,
    ):
        yield network, client


async def test_lease_is_renewed_while_the_block_runs(guids: Any) -> None:
    async with guids.lease(ttl=8, user="worker 7", metadata={"host": "db-3"}) as lease:
        first = lease.token
        while lease.token == first:
            lease.check()
            await asyncio.sleep(0.05)
        record = await guids.get(lease.guid)
        assert (record.user, record.metadata["host"]) == ("worker 7", "db-3")
        assert lease.token > first
        assert 0 < lease.remaining_seconds <= 9
    with pytest.raises(NotFound):
        await guids.get(lease.guid)


async def test_lease_of_an_election_is_revoked_at_the_end(guids: Any) -> None:
    guid, tokens = uuid4(), []
    for _ in range(3):
        async with guids.lease(guid, ttl=30) as lease:
            with pytest.raises(LeaseHeld, match="holds the lease") as held:
                async with guids.lease(guid, ttl=30):
                    pass
            assert held.value.record.metadata["holder"]
            tokens.append(lease.token)
        with pytest.raises(Expired):
            await guids.get(guid)
    assert tokens == sorted(set(tokens))


async def test_lease_waits_for_its_holder(guids: Any) -> None:
    guid = uuid4()

    async def hold() -> float:
        async with guids.lease(guid, ttl=30, wait=SECONDS) as lease:
            begin = time.monotonic()
            await asyncio.sleep(0.2)
            lease.check()
            return begin

    begins = sorted(await asyncio.gather(*(hold() for _ in range(3))))
    assert all(later - earlier > 0.2 for earlier, later in pairwise(begins))


async def test_expired_lease_is_taken_over(guids: Any) -> None:
    dead = await guids.put(uuid4(), user="dead worker", ttl=1)
    async with guids.lease(dead.guid, ttl=30, wait=SECONDS) as lease:
        assert lease.token > dead.version


@pytest.mark.usefixtures("early_renewals")
@pytest.mark.parametrize("loss", ["deleted", "taken"])
async def test_loss_is_raised_where_the_work_is_done(guids: Any, loss: str) -> None:
    with pytest.raises(LeaseLost, match="it was deleted" if loss == "deleted" else "another client has it") as lost:
        async with guids.lease(ttl=60) as lease:
            await guids.delete(lease.guid)
            if loss == "taken":
                await guids.put(lease.guid, user="another", ttl=60)
            await work_until_lost(lease)
    assert lost.value.guid == lease.guid
    assert lease.is_lost
    assert lease.remaining_seconds == 0


async def test_loss_that_only_the_release_finds_is_raised(guids: Any) -> None:
    with pytest.raises(LeaseLost, match="another client has it"):
        async with guids.lease(ttl=60) as lease:
            await guids.delete(lease.guid)
            taken = await guids.put(lease.guid, user="another", ttl=60)
    assert await guids.get(lease.guid) == taken, "the lease of the successor is left alone"
    with pytest.raises(LeaseLost, match=r"was deleted|another client"):
        async with guids.lease(ttl=60) as lease:
            await guids.delete(lease.guid)


@pytest.mark.usefixtures("early_renewals")
async def test_change_of_another_client_does_not_lose_the_lease(guids: Any) -> None:
    def note(record: Record) -> Record:
        return record.replace(metadata={**record.metadata, "note": "still there?"})

    async with guids.lease(ttl=60) as lease:
        changed = await guids.update(lease.guid, note)
        begin = time.monotonic()
        while lease.token <= changed.version:
            lease.check()
            assert time.monotonic() < begin + SECONDS
            await asyncio.sleep(0.05)


async def test_cut_network_loses_the_lease_in_time(kind: str, running: Service) -> None:
    async with through_proxy(kind, running) as (network, guids):
        with pytest.raises(LeaseLost) as lost:
            async with guids.lease(ttl=2) as lease:
                begin = time.monotonic()
                with network.black_hole(*Direction):
                    await work_until_lost(lease)
        assert time.monotonic() - begin < SECONDS / 2
        assert "its time has run out" in str(lost.value)
        assert isinstance(lost.value.__cause__, GuidsvcError | asyncio.CancelledError | None)


async def test_lease_ends_no_later_than_it_was_granted(kind: str, running: Service) -> None:
    """Its life counts from before the request, whose response may come late."""
    async with through_proxy(kind, running) as (network, guids):
        sent: list[float] = []
        noting = guids.with_options(on_request=lambda _: sent.append(clock()))
        with network.slow(0.4):
            async with noting.lease(ttl=30) as lease:
                assert clock() + lease.remaining_seconds <= sent[0] + 30 + 1e-6


@pytest.mark.usefixtures("early_renewals")
async def test_lost_responses_do_not_lose_the_lease(kind: str, running: Service) -> None:
    async with through_proxy(kind, running) as (network, guids):
        with network.damaging(Damage.SWALLOWED, max_count=1):
            async with guids.lease(ttl=60) as lease:  # whose creation is answered at the second attempt
                begin, token = time.monotonic(), lease.token
                with network.damaging(Damage.SWALLOWED, max_count=1):
                    while lease.token == token:
                        lease.check()
                        assert time.monotonic() < begin + SECONDS
                        await asyncio.sleep(0.05)
                    assert network.resets >= 1
        async with AsyncClient(running.url) as direct:
            with pytest.raises(NotFound):
                await direct.get(lease.guid)


@pytest.mark.usefixtures("early_renewals")
async def test_lease_survives_a_short_outage(kind: str, running: Service) -> None:
    async with through_proxy(kind, running) as (network, guids), guids.lease(ttl=60) as lease:
        token = lease.token
        with network.black_hole(*Direction):
            network.reset()
            await asyncio.sleep(1)
        begin = time.monotonic()
        while lease.token == token:
            lease.check()
            assert time.monotonic() < begin + SECONDS
            await asyncio.sleep(0.05)


async def test_block_that_ends_during_a_renewal_is_released(
    kind: str, running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service has renewed the lease, and the response is under way."""
    renew_after(monkeypatch, 1.1)  # in another second, so that the renewal moves the expiry
    guid = uuid4()
    async with through_proxy(kind, running) as (network, guids), AsyncClient(running.url) as direct:
        async with guids.lease(guid, ttl=600) as lease:
            with network.black_hole(Direction.TO_CLIENT):
                begin, token = time.monotonic(), lease.token
                while (await direct.get(guid)).version == token:
                    assert time.monotonic() < begin + SECONDS
                    await asyncio.sleep(0.02)
        with pytest.raises(Expired):
            await direct.get(guid)


async def test_failed_release_is_logged(kind: str, running: Service, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("not released; it expires by itself")
    async with through_proxy(kind, running) as (network, guids), AsyncClient(running.url) as direct:
        with ExitStack() as cut:
            async with guids.lease(uuid4(), ttl=8) as lease:
                cut.enter_context(network.dropping())
        assert (await direct.get(lease.guid)).version == lease.token


async def test_release_by_a_closed_client_is_logged(kind: str, running: Service, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("not released; it expires by itself")
    guids = client_of(kind, running.url)
    async with guids.lease(uuid4(), ttl=60) as lease:
        await (guids.aclose() if kind == "async" else guids.close())
    async with AsyncClient(running.url) as direct:
        assert (await direct.get(lease.guid)).version == lease.token


async def test_error_of_a_hook_in_the_release_is_logged(
    kind: str, running: Service, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("not released; it expires by itself")
    faults: list[Exception] = []

    def fail(_: object) -> None:
        if faults:
            raise faults[0]

    async with client_of(kind, running.url, on_request=fail) as guids:
        with pytest.raises(KeyError, match="of the work"):
            async with guids.lease(uuid4(), ttl=60):
                faults.append(ZeroDivisionError("of the hook"))
                raise KeyError("of the work")


async def test_lease_can_be_acquired_again_after_its_block(guids: Any) -> None:
    for guid in (None, uuid4()):
        lease, tokens = guids.lease(guid, ttl=30), []
        for _ in range(2):
            async with lease:
                lease.check()
                assert (await guids.get(lease.guid)).version == lease.token
                tokens.append(lease.token)
        assert tokens[0] < tokens[1]
        with pytest.raises((NotFound, Expired)):
            await guids.get(lease.guid)


async def test_lease_is_not_acquired_twice_at_once(guids: Any) -> None:
    guid = uuid4()
    async with guids.lease(guid, ttl=60) as lease:
        with pytest.raises(RuntimeError, match="used by another block"):
            async with lease:
                pass
        lease.check()
        assert (await guids.get(lease.guid)).version == lease.token
        rejected = guids.lease(guid, ttl=60)
        with pytest.raises(LeaseHeld):
            async with rejected:
                pass
    async with rejected:  # nothing remains of the failed attempt
        rejected.check()


async def test_block_takes_over_what_the_last_one_could_not_release(
    kind: str, running: Service, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("not released; it expires by itself")
    async with through_proxy(kind, running) as (network, guids), AsyncClient(running.url) as direct:
        lease = guids.lease(uuid4(), ttl=20)
        with ExitStack() as cut:
            async with lease:
                cut.enter_context(network.dropping())
        left = await direct.get(lease.guid)
        async with lease:
            assert lease.token > left.version
            assert (await direct.get(lease.guid)).metadata != left.metadata, "each block has its own holder"


async def test_lease_that_is_deleted_as_it_is_taken_over_is_created(kind: str, running: Service) -> None:
    methods: list[str] = []

    def delete_before_the_takeover(sent: Sent) -> None:
        methods.append(sent.method)
        if methods == ["PUT", "GET", "PUT"]:
            direct.delete(dead.guid)

    with Client(running.url) as direct:
        dead = direct.put(uuid4(), user="dead worker", ttl=1)
        wait_until(lambda: direct.list(user="dead worker", state="expired").total() > 0, "the expiry")
        async with (
            client_of(kind, running.url, on_request=delete_before_the_takeover) as guids,
            guids.lease(dead.guid, ttl=60) as lease,
        ):
            assert methods == ["PUT", "GET", "PUT", "PUT"]
            assert direct.get(dead.guid).version == lease.token


async def test_error_of_the_block_is_not_hidden(guids: Any) -> None:
    with pytest.raises(KeyError) as raised:
        async with guids.lease(ttl=30):
            raise KeyError("of the work")
    assert not hasattr(raised.value, "__notes__")
    with pytest.raises(KeyError) as noted:
        async with guids.lease(ttl=30) as lease:
            await guids.delete(lease.guid)
            raise KeyError("of the work")
    assert "is lost" in noted.value.__notes__[0]


async def test_lease_is_not_used_before_it_is_acquired(guids: Any) -> None:
    with pytest.raises(RuntimeError, match="not acquired yet"):
        guids.lease(ttl=30).check()


@pytest.mark.parametrize("ttl", [0, -1, timedelta(0)])
async def test_lease_without_a_life_is_rejected_unsent(guids: Any, ttl: Any) -> None:
    with pytest.raises(ValueError, match="less than a second"):
        guids.lease(ttl=ttl)


async def test_lease_that_cannot_be_acquired_raises_why(kind: str, running: Service) -> None:
    async with client_of(kind, "http://127.0.0.1:1", retries=0) as guids:
        with pytest.raises(Unreachable):
            async with guids.lease(ttl=30):
                pass


# Of the sync client


async def test_thread_that_outlasts_its_block_leaves_the_next_alone(
    running: Service, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("not released in time")
    threads: list[threading.Thread] = []
    is_next = threading.Event()

    def hold_up(_: Sent) -> None:
        thread = threading.current_thread()
        if thread.name.startswith("lease ") and not threads:  # the first renewal, which then fails; a release follows
            threads.append(thread)
            is_next.wait(SECONDS)

    async with AsyncClient(running.url) as direct, client_of("sync", running.url, on_request=hold_up) as guids:
        lease = guids.lease(uuid4(), ttl=6)
        async with lease:
            await asyncio.to_thread(wait_until, lambda: bool(threads), "a renewal")
        async with lease:
            held = await direct.get(lease.guid)
            is_next.set()
            await asyncio.to_thread(threads[0].join)
            lease.check()
            assert (await direct.get(lease.guid)).metadata == held.metadata


async def test_interruption_as_the_block_begins_releases_the_lease(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_thread = threading.Thread.start

    def interrupted_start(thread: threading.Thread) -> None:
        start_thread(thread)
        if thread.name.startswith("lease "):
            raise KeyboardInterrupt

    with Client(running.url) as guids:
        lease = guids.lease(uuid4(), ttl=60, user="interrupted")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted_start)
            with pytest.raises(KeyboardInterrupt), lease:
                pass
        wait_until(lambda: guids.list(user="interrupted", state="expired").total() == 1, "the release")


# Of the async client


async def test_loss_cancels_the_block_where_it_waits(running: Service) -> None:
    async with AsyncClient(running.url) as guids:
        begin = time.monotonic()
        with pytest.raises(LeaseLost) as lost:
            async with guids.lease(ttl=2) as lease:
                await guids.delete(lease.guid)
                await asyncio.sleep(SECONDS)
        assert time.monotonic() - begin < SECONDS / 2
        assert isinstance(lost.value.__cause__, asyncio.CancelledError | GuidsvcError)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # nothing is left that would cancel this


async def test_loss_of_a_block_hides_no_cancellation_of_the_next(running: Service) -> None:
    async def work() -> None:
        with pytest.raises(LeaseLost):
            async with lease:
                await guids.delete(lease.guid)
                await asyncio.sleep(SECONDS)
        async with lease:
            task.cancel()
            await asyncio.sleep(SECONDS)

    async with AsyncClient(running.url) as guids:
        lease = guids.lease(ttl=2)
        task = asyncio.create_task(work())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1


async def test_cut_network_cancels_the_block(running: Service) -> None:
    async with through_proxy("async", running) as (network, guids):
        begin = time.monotonic()
        with pytest.raises(LeaseLost, match="its time has run out"):
            async with guids.lease(ttl=2):
                with network.black_hole(*Direction):
                    await asyncio.sleep(SECONDS)
        assert time.monotonic() - begin < SECONDS / 2


async def test_cancellation_from_outside_releases_the_lease(running: Service) -> None:
    async with AsyncClient(running.url) as guids:
        guid, is_held = uuid4(), asyncio.Event()

        async def work() -> None:
            async with guids.lease(guid, ttl=60):
                is_held.set()
                await asyncio.sleep(SECONDS)

        task = asyncio.create_task(work())
        await asyncio.wait_for(is_held.wait(), SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(Expired):
            await guids.get(guid)


# The state of a lease


def test_late_renewal_does_not_revive_a_lost_lease() -> None:
    state = LeaseState(PLAN, Term(1, 1, ends=clock() - 0.001, renews=0.0))
    state.extend(Term(2, 2, ends=clock() + 60, renews=clock() + 30))

    assert state.is_lost
    with pytest.raises(LeaseLost, match="its time has run out"):
        state.check()


def test_lease_that_ended_in_time_is_not_lost_later() -> None:
    state = LeaseState(PLAN, Term(1, 1, ends=clock() + 0.05, renews=0.0))
    state.end()
    while clock() < state.term.ends:
        time.sleep(0.01)
    assert not state.is_lost


def test_limit_of_the_life_stops_renewals() -> None:
    state = LeaseState(PLAN, Term(1, 1, ends=clock() + 60, renews=0.0))
    state.fail(Unreachable("no connection"))
    assert state.seconds_until_renewal < 1
    state.fail(LifeLimit({"type": "", "title": "", "status": 409, "code": "life-limit"}, {}))
    assert state.seconds_until_renewal > 50
    assert not state.is_lost
