"""Whose a lease is: a holder never takes the writes of another program for its own, and what is uncertain is lost.

The steps of a lease run one by one against the real service, without a block, so that others may act between them.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any
from uuid import uuid4

import pytest

from guidsvc_client import (
    Client,
    Expired,
    GuidsvcError,
    InternalError,
    LeaseHeld,
    LeaseLost,
    LifeLimit,
    PreconditionFailed,
    Record,
    Sent,
)
from guidsvc_client.clock import clock
from guidsvc_client.lease_state import LeaseState
from guidsvc_client.problems import unknown_outcome
from guidsvc_client.protocol import lease_flows
from guidsvc_client.protocol.lease_flows import Plan, Term, plan_of
from tests.support.backing_servers import Service, wait_until
from tests.support.client_in_thread import client_of
from tests.support.network_proxy import Damage, proxy

SECONDS = 60
"""Time limit of what must happen."""
TAKEOVERS: dict[str, dict[str, Any]] = {
    "by leader.py of old": {"user": "B", "ttl": 60},
    "for longer": {"user": "A", "ttl": 600},
    "by a program that names no user": {"ttl": 60},
    "with other metadata": {"user": "A", "ttl": 60, "metadata": {"holder": "B"}},
}
"""Programs that take over a lease. A PUT merges, so most of them leave the holder in the metadata."""


@pytest.fixture
def direct(running: Service) -> Iterator[Client]:
    with Client(running.url) as client:
        yield client


def planned(**metadata: Any) -> Plan:
    return plan_of(uuid4(), {"ttl": 60, "user": "A", "metadata": metadata}).for_next_block()


def acquired(client: Client, **metadata: Any) -> tuple[Plan, Term]:
    """Acquire a lease of an election."""
    plan = planned(**metadata)
    return plan, client._session.run(lease_flows.acquire(plan))


def renewed(client: Client, plan: Plan, term: Term, *, is_in_doubt: bool = False) -> Term:
    return client._session.run(lease_flows.renew(plan, term, is_in_doubt=is_in_doubt))


def released(client: Client, plan: Plan, term: Term, *, is_in_doubt: bool = False) -> None:
    client._session.run(lease_flows.release(plan, term, is_in_doubt=is_in_doubt))


def take_over(direct: Client, guid: str, change: dict[str, Any]) -> Record:
    """Revoke a lease as an operator, and take it over as another program."""
    direct.put(guid, expire=0)
    return direct.put(guid, **change)


def expired_record(direct: Client, guid: str) -> Record:
    """Return the record of a GUID that is not valid."""
    (record,) = (each for each in direct.list(state="expired", full=True) if each.guid == guid)
    return record


def renew_later(direct: Client, plan: Plan, term: Term) -> Record:
    """Renew as the holder itself, which gets no response. A renewal moves the expiry once a second has passed."""
    wait_until(lambda: direct.renew(plan.guid, ttl=60).expire > term.expire, "a renewal", seconds=SECONDS)
    return direct.get(plan.guid)


@pytest.mark.parametrize("takeover", TAKEOVERS)
@pytest.mark.parametrize("attempt", [renewed, released])
def test_lease_of_another_program_is_left_alone(
    direct: Client, takeover: str, attempt: Callable[[Client, Plan, Term], object]
) -> None:
    plan, term = acquired(direct)
    wait_for_another_second(term)
    taken = take_over(direct, plan.guid, TAKEOVERS[takeover])
    with pytest.raises(LeaseLost):
        attempt(direct, plan, term)
    assert direct.get(plan.guid) == taken


def wait_for_another_second(term: Term) -> None:
    """Wait until a takeover for as long as the term ends in another second."""
    wait_until(lambda: time.time() > term.expire - 60, "the next second", seconds=SECONDS)


@pytest.mark.parametrize("takeover", ["by leader.py of old", "for longer", "with other metadata"])
def test_lease_taken_over_after_a_lost_renewal_is_lost(direct: Client, takeover: str) -> None:
    plan, term = acquired(direct)
    renew_later(direct, plan, term)
    taken = take_over(direct, plan.guid, TAKEOVERS[takeover])
    for step in (renewed, released):
        with pytest.raises(LeaseLost):
            step(direct, plan, term, is_in_doubt=True)
    assert direct.get(plan.guid) == taken


def test_renewal_whose_response_was_lost_is_recognised(direct: Client) -> None:
    plan, term = acquired(direct, hosts=("db-3", "db-4"), ratio=1.0)
    lost = renew_later(direct, plan, term)
    assert renewed(direct, plan, term, is_in_doubt=True).version >= (lost.version or 0)
    released(direct, plan, term, is_in_doubt=True)
    assert expired_record(direct, plan.guid).metadata == {"hosts": ["db-3", "db-4"], "ratio": 1.0}


def test_recognised_renewal_stays_known_if_the_next_fails(direct: Client) -> None:
    """A repetition has met the version of the lost renewal. The renewal of that version is rejected."""
    plan, term = acquired(direct)
    state = LeaseState(plan, term)
    lost = renew_later(direct, plan, term)
    with pytest.raises(PreconditionFailed) as rejection:
        direct.put(plan.guid, user="A", if_match=term.version)
    at_limit = LifeLimit({"type": "", "title": "", "status": 409, "code": "life-limit"}, {})
    renewal = state.renewal()
    next(renewal)
    renewal.throw(unknown_outcome(rejection.value))
    with pytest.raises(LifeLimit):
        renewal.throw(at_limit)
    state.fail(at_limit)
    assert (state.term.version, state.term.ends) == (lost.version, term.ends)
    direct._session.run(state.release())


def test_renewal_that_failed_in_the_service_is_recognised(direct: Client) -> None:
    """An internal error does not say whether anything has changed."""
    plan, term = acquired(direct)
    state = LeaseState(plan, term)
    renew_later(direct, plan, term)
    state.fail(InternalError({"type": "", "title": "", "status": 500, "code": "internal"}, {}))
    state.extend(direct._session.run(state.renewal()))
    direct._session.run(state.release())
    assert not state.is_lost


def test_another_expiry_without_a_doubt_is_a_loss(direct: Client) -> None:
    """An operator has revoked the lease, and made it valid again; or another program has renewed it."""
    plan, term = acquired(direct)
    renew_later(direct, plan, term)
    for step in (renewed, released):
        with pytest.raises(LeaseLost):
            step(direct, plan, term)


def test_revoked_lease_is_lost(direct: Client) -> None:
    for is_in_doubt in (False, True):
        plan, term = acquired(direct)
        revoked = direct.put(plan.guid, expire=0)
        for step in (renewed, released):
            with pytest.raises(LeaseLost):
                step(direct, plan, term, is_in_doubt=is_in_doubt)
        assert expired_record(direct, plan.guid).version == revoked.version


def test_lease_whose_grant_has_ended_is_not_recognised(direct: Client) -> None:
    plan, term = acquired(direct)
    direct.update(plan.guid, lambda record: record.replace(metadata={**record.metadata, "note": "x"}))
    ended = Term(term.version, term.expire, clock(), 0.0, term.metadata)
    for step in (renewed, released):
        with pytest.raises(LeaseLost):
            step(direct, plan, ended, is_in_doubt=True)


def test_additions_of_others_do_not_lose_the_lease_and_stay(direct: Client) -> None:
    plan, term = acquired(direct, host="db-3")
    for number in range(2):
        direct.patch(plan.guid, {"metadata": {"note": number}})
        term = renewed(direct, plan, term)
    renew_later(direct, plan, term)
    term = renewed(direct, plan, term, is_in_doubt=True)
    direct.patch(plan.guid, {"metadata": {"last": True}})
    released(direct, plan, term)
    assert expired_record(direct, plan.guid).metadata == {"host": "db-3", "note": 1, "last": True}


# Requests and responses that are lost


async def step_with_loss(
    running: Service, loss: str, step: Callable[[Client], object], between: Callable[[], object] = bool
) -> None:
    """Do a step of which the first request or response is lost. Others may act before the request is repeated."""

    def repeat(_: Sent, __: GuidsvcError) -> None:
        cut.close()
        between()

    async with proxy(running.port, random.Random(7)) as network:
        with ExitStack() as cut, Client(f"http://127.0.0.1:{network.port}", on_retry=repeat) as client:
            cut.enter_context(network.dropping() if loss == "request" else network.damaging(Damage.SWALLOWED))
            await asyncio.to_thread(step, client)


@pytest.mark.parametrize("loss", ["request", "response"])
async def test_release_is_repeated_until_it_is_confirmed(running: Service, direct: Client, loss: str) -> None:
    plan, term = acquired(direct)
    await step_with_loss(running, loss, lambda client: released(client, plan, term))
    with pytest.raises(Expired):
        direct.get(plan.guid)


@pytest.mark.parametrize("loss", ["request", "response"])
@pytest.mark.parametrize("takeover", TAKEOVERS)
async def test_repeated_release_leaves_the_next_lease(
    running: Service, direct: Client, loss: str, takeover: str
) -> None:
    """It takes over before the repetition. If the holder of the block is still in the record, that was not released."""
    plan, term = acquired(direct)
    wait_for_another_second(term)
    taken: list[Record] = []
    is_lost = loss == "request" and "metadata" not in TAKEOVERS[takeover]
    with pytest.raises(LeaseLost) if is_lost else nullcontext():
        await step_with_loss(
            running,
            loss,
            lambda client: released(client, plan, term),
            lambda: taken.append(take_over(direct, plan.guid, TAKEOVERS[takeover])),
        )
    assert direct.get(plan.guid) == taken[0]


async def test_repeated_claim_leaves_the_lease_of_another_program(running: Service, direct: Client) -> None:
    plan = planned()
    taken: list[Record] = []
    with pytest.raises(LeaseHeld):
        await step_with_loss(
            running,
            "response",
            lambda client: client._session.run(lease_flows.acquire(plan)),
            lambda: taken.append(take_over(direct, plan.guid, TAKEOVERS["by leader.py of old"])),
        )
    assert direct.get(plan.guid) == taken[0]


@pytest.mark.slow
async def test_lost_response_of_a_renewal_that_is_not_repeated(kind: str, running: Service) -> None:
    """The next renewal meets the version of the lost one."""
    async with proxy(running.port, random.Random(7)) as network:
        url = f"http://127.0.0.1:{network.port}"
        async with client_of(kind, url, retries=0) as guids, guids.lease(uuid4(), ttl=6) as lease:
            token = lease.token
            with network.damaging(Damage.SWALLOWED, max_count=1):
                await until_renewed(lease, token)
            assert network.resets >= 1


async def until_renewed(lease: Any, token: int) -> None:
    end = time.monotonic() + SECONDS
    while lease.token == token:
        lease.check()
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
