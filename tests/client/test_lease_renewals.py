"""When the client renews a lease: never without pause, whatever the service says, and however long the lease lasts."""

import json
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from guidsvc_client import Expired
from guidsvc_client.clock import clock
from guidsvc_client.lease_state import LeaseState
from guidsvc_client.models import FullRecord, Renewal
from guidsvc_client.protocol import lease_flows
from guidsvc_client.protocol.call import Flow
from guidsvc_client.protocol.lease_flows import Term, plan_of
from tests.support.client_in_thread import client_of
from tests.support.scripted_server import response, scripted_server

GUID = "9094E4C980C74043A4B586B420E69DDF"
EXPIRE = 1_795_000_000
RECORD = dict.fromkeys(("created", "updated", "purge_at", "renew_at", "version"), "1") | {
    "guid": GUID,
    "expire": str(EXPIRE),
    "user": "a",
    "max_expire": None,
    "state": "live",
}
ROUND_TRIPS = 20


def claimed(granted: int, renew_at: int | None) -> Term:
    """Return the term of a lease that a service has granted so."""
    due = None if renew_at is None else str(renew_at)
    plan = plan_of(GUID, {"ttl": granted}).for_next_block()
    return term_of(lease_flows.acquire(plan), FullRecord.from_wire(RECORD | {"renew_at": due}))


def renewed(granted: int, renew_at: int) -> Term:
    """Return the term of a lease that a service has renewed so."""
    renewal = Renewal(GUID, EXPIRE, True, granted, False, None, renew_at, 2)
    plan, now = plan_of(GUID, {"ttl": granted}).for_next_block(), clock()
    return term_of(lease_flows.renew(plan, Term(1, EXPIRE, now + 1, now), is_in_doubt=False), renewal)


def term_of(flow: Flow[Term], result: object) -> Term:
    """Return the result of a flow that sends one request, which has this result."""
    next(flow)
    with pytest.raises(StopIteration) as end:
        flow.send(result)
    term: Term = end.value.value
    return term


@pytest.mark.parametrize("attempt", [claimed, renewed])
@pytest.mark.parametrize(
    ("granted", "renew_at", "fraction"),
    [
        (1, EXPIRE - 1, 1 / 3),
        (60, EXPIRE - 24, 0.6),
        (60, 0, 1 / 3),
        (60, EXPIRE - 10**30, 1 / 3),
        (60, EXPIRE, 3 / 4),
        (60, 10**30, 3 / 4),
    ],
)
def test_renewal_waits_for_a_part_of_the_granted_time(
    attempt: Callable[[int, int], Term], granted: int, renew_at: int, fraction: float
) -> None:
    term = attempt(granted, renew_at)
    assert term.renews == pytest.approx(term.ends - granted * (1 - fraction), abs=0.001)


def test_lease_without_a_time_for_its_renewal_is_renewed() -> None:
    term = claimed(60, None)
    assert term.renews == pytest.approx(term.ends - 15, abs=0.001)


async def test_server_that_wants_renewals_at_once_gets_none(kind: str) -> None:
    """The second that it names has passed long ago."""
    whole = response(200, json.dumps(RECORD).encode(), ETag='"1"')
    async with scripted_server(lambda _: whole) as server, client_of(kind, server.url) as guids:
        async with guids.lease(GUID, ttl=3600):
            for _ in range(ROUND_TRIPS):
                await guids.get(GUID)
        assert [each.target for each in server.requests if each.target.endswith("/renewal")] == []


@pytest.mark.parametrize("ttl", [3 * 10**10, 2 * 10**11])
async def test_lease_of_centuries_is_released_at_its_end(guids: Any, ttl: int) -> None:
    guid = uuid4()
    async with guids.lease(guid, ttl=ttl) as lease:
        lease.check()
        assert lease.remaining_seconds > ttl - 3600
    with pytest.raises(Expired):
        await guids.get(guid)


def test_wait_for_a_renewal_is_one_that_a_thread_can_wait() -> None:
    """Another server may grant more than was asked for."""
    state = LeaseState(plan_of(GUID, {"ttl": 15}), renewed(10**30, EXPIRE))

    assert state.seconds_until_renewal == threading.TIMEOUT_MAX
    assert state.remaining_seconds > threading.TIMEOUT_MAX
