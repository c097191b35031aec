"""Lease requests on the fast path: they are remembered within bounds, and served without a parser."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.api.fast_path.leases import _Demand, _Head
from guidsvc.domain.caller import ANYONE
from guidsvc.runtime.admission import Admission
from guidsvc.services.guid_service import GuidService
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.api_context import request_pipeline
from tests.support.fast_path import Request, service
from tests.support.http_client import hang_up, read_reply

GUID = f"{1:032X}"
HEARTBEAT = Request(0, "POST", f"{GUID}/renewal", ("Content-Type: application/json",), b'{"ttl": 60, "if_below": 30}')
DEMAND = Request(0, "GET", f"{GUID}?valid_for=30", (), None)


@pytest.mark.parametrize("repeated", [HEARTBEAT, DEMAND], ids=["heartbeat", "demand"])
async def test_repeated_lease_request_is_served_from_memory(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, repeated: Request
) -> None:
    """Repetitions are served without a parser, until the record changes, which takes effect at once."""
    async with service(tmp_path, clock, has_fast_path=True) as client:
        await client.ask(Request(0, "PUT", GUID, (), b'{"user": "a", "ttl": 60}'))
        first, _ = await client.ask(repeated)
        _, log_lines = await client.ask(repeated)
        with monkeypatch.context() as patch:
            patch.setattr(FastPathDispatcher, "dispatch", None)  # a parsed request would fail
            assert await client.ask(repeated) == (first, log_lines)
        clock.advance(seconds=31)
        later, _ = await client.ask(repeated)
        assert later[:12] == (b"HTTP/1.1 200" if repeated is HEARTBEAT else b"HTTP/1.1 409")
        assert (b'"renewed":true' in later) is (repeated is HEARTBEAT)
        await client.ask(Request(0, "DELETE", GUID, (), None))
        assert (await client.ask(repeated))[0][:12] == b"HTTP/1.1 404"


async def test_read_that_demands_too_much_is_rejected_from_memory(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a parser and a handler, even if the first response was the rejection, until the record is renewed."""
    async with service(tmp_path, clock, has_fast_path=True) as client:
        await client.ask(Request(0, "PUT", GUID, (), b'{"user": "a", "ttl": 29}'))
        first = await client.ask(DEMAND)
        assert first[0][:12] == b"HTTP/1.1 409"
        clock.advance(seconds=1)
        with monkeypatch.context() as patch:
            patch.setattr(FastPathDispatcher, "dispatch", None)  # a parsed request would fail
            second = await client.ask(DEMAND)
        assert second[0] == first[0].replace(b'"left":"29"', b'"left":"28"').replace(b"for 29 more", b"for 28 more")
        ((_, path, status, _, source, failure),) = second[1]
        assert (path, status, source) == (f"/guid/{GUID}", 409, None)
        assert cast(dict[str, str], failure)["code"] == "expires-too-soon"
        await client.ask(Request(0, "PUT", GUID, (), b'{"ttl": 60}'))
        assert (await client.ask(DEMAND))[0][:12] == b"HTTP/1.1 200"


async def test_remembered_heartbeat_is_answered_under_overload(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """Like a cached read, it needs no admission slot. A heartbeat that would write does."""
    expected_logs.add("overloaded, rejecting requests")
    async with service(tmp_path, clock, has_fast_path=True) as client:
        await client.ask(Request(0, "PUT", GUID, (), b'{"user": "a", "ttl": 60}'))
        expected = [(await client.ask(HEARTBEAT))[0] for _ in range(2)]
        monkeypatch.setattr(Admission, "is_contended", True)
        monkeypatch.setattr(Admission, "is_full_for", lambda *_: True)
        assert (await client.ask(HEARTBEAT))[0] == expected[0] == expected[1]
        clock.advance(seconds=31)
        assert (await client.ask(HEARTBEAT))[0][:12] == b"HTTP/1.1 503"


async def test_pipelined_heartbeat_is_not_remembered(tmp_path: Path, clock: FakeClock) -> None:
    """It is not dispatched while the previous request is served, so the dispatcher still describes that request."""
    first = Request(0, "POST", HEARTBEAT.guid, HEARTBEAT.headers, b'{"ttl": 99, "revive": true}').raw
    head, _, body = first.partition(b"\r\n\r\n")
    async with service(tmp_path, clock, has_fast_path=True) as client:
        await client.ask(Request(0, "PUT", GUID, (), b'{"user": "a", "ttl": 60}'))
        for pauses in range(12):  # one of them lets the second request arrive while the first is answered
            second = HEARTBEAT.raw.replace(b"\r\nHost: a", b'\r\nHost: a\r\nIf-Match: "%d"' % (pauses + 1))
            clock.advance(seconds=1)  # so that each renewal writes
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(head + b"\r\n\r\n")
            await client.ask(Request(0, "GET", GUID, (), None))  # afterwards the head has been read
            writer.write(body)
            for _ in range(pauses):
                await asyncio.sleep(0)
            writer.write(second)
            assert (await asyncio.wait_for(read_reply(reader, "POST"), 30)).status == 200
            for _ in range(3):
                assert (await asyncio.wait_for(read_reply(reader, "POST"), 30)).status == 412
                writer.write(second)
            await hang_up(writer)


def test_remembered_lease_requests_are_bounded() -> None:
    terms = SimpleNamespace(strict=False)
    acting = SimpleNamespace(renewal_terms=lambda *_: terms)
    service_without_records = cast(GuidService, SimpleNamespace(acting_for=lambda _: acting, decoding_turns=None))
    leases = FastPathDispatcher(request_pipeline(service=service_without_records))._leases
    body = b'{"if_below": 30}'
    for number in range(2000):
        target = b"/guid/%032X/renewal" % number
        filler = b"x" * (number % 1100)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        leases._head = _Head(target, None, headers)
        data = b"POST /guid/" + b"A" * 32 + b"/renewal HTTP/1.1\r\nX-%d: %b\r\n\r\n%b" % (number, filler, body)
        leases.remember_renewal(data, target)
        leases._demand = _Demand(None, ANYONE, number)
        leases.remember_read(b"GET /guid/" + b"A" * 32 + b"?valid_for=%d HTTP/1.1\r\n%b\r\n" % (number, filler))

    for memo in (leases._reads, leases._renewals):
        assert 0 < len(memo) <= 256
        assert max(map(len, memo)) <= 1024


def test_renewal_of_another_connection_is_not_remembered() -> None:
    leases = FastPathDispatcher(request_pipeline())._leases
    target = b"/guid/" + b"A" * 32 + b"/renewal"
    leases._head = _Head(target, None, {"Content-Type": "application/json", "Content-Length": "16"})

    assert not leases.remember_renewal(
        b"POST /guid/" + b"A" * 32 + b'/renewal HTTP/1.1\r\n\r\n{"if_below": 30}', bytes(bytearray(target))
    )
    assert not leases._renewals
