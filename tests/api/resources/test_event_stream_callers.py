"""Streams of events with access control: owners, streams per caller, and the end of a key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any

import pytest

from guidsvc.api.resources.events.handler import EventsHandler
from guidsvc.domain.caller import ADMIN
from guidsvc.services.events.feed import PART_EVENTS
from guidsvc.store.event_log import LogPage
from guidsvc.store.sqlite.events.log import SqliteEventLog
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.event_reader import (
    LINES,
    SSE,
    reading,
)
from tests.support.secured_service import KeyClient, SecuredService

FOLLOW = "?from=now&follow=true"


@asynccontextmanager
async def secured(
    serving: Serving, sqlite_url: str, clock: FakeClock, **settings: object
) -> AsyncIterator[SecuredService]:
    """Serve with access control."""
    async with serving(access="keys", login_limit="", **settings) as client:
        yield SecuredService(client, sqlite_url, clock)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"revoked": 1}, {"expire": 1}, {"scopes": "write"}], ids=str)
async def test_stream_ends_when_its_key_ends(
    serving: Serving, sqlite_url: str, clock: FakeClock, change: dict[str, Any]
) -> None:
    """It ends within 5 seconds, whether the client reads or not. So does a waiting request."""
    async with secured(serving, sqlite_url, clock) as service:
        key = await service.create_key()
        async with (
            reading(service.client.port, FOLLOW, LINES | key.headers) as lines,
            reading(service.client.port, "", SSE | key.headers) as sse,
        ):
            waiting = asyncio.create_task(service.client.get("/events?from=now&wait=30", headers=key.headers))
            other = await service.create_key("ops", "admin monitor")
            await asyncio.sleep(0.5)
            await service.update_key(key, **change)
            started = perf_counter()
            for stream in (lines, sse):
                assert [text async for text in stream.texts() if "record" in text] == []
                assert stream.is_cut_off
            assert (await waiting).status == 401
            assert perf_counter() - started < 5
            reply = await service.client.get("/events", headers=SSE | key.headers)
            assert reply.status == (403 if "scopes" in change else 401)
            assert "guidsvc_streams 0.0" in (await service.client.get("/metrics", headers=other.headers)).body.decode()


async def test_caller_is_confirmed_after_each_read_of_events(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read may wait for its turn and for the store; meanwhile the key may end."""
    calls: list[str] = []
    read, confirm, write = SqliteEventLog.read, EventsHandler.confirm, EventsHandler.write

    async def recorded_read(*arguments: Any, **options: Any) -> LogPage:
        calls.append("read")
        return await read(*arguments, **options)

    async def recorded_confirm(handler: EventsHandler) -> None:
        calls.append("confirm")
        await confirm(handler)

    def recorded_write(handler: EventsHandler, chunk: Any) -> None:
        calls.append("write")
        write(handler, chunk)

    async with secured(serving, sqlite_url, clock) as service:
        key = await service.create_key()
        operations = [{"user": "a"} for _ in range(3 * PART_EVENTS)]
        assert (await service.client.post("/guid:batch", {"operations": operations}, headers=key.headers)).status == 200
        monkeypatch.setattr(SqliteEventLog, "read", recorded_read)
        monkeypatch.setattr(EventsHandler, "confirm", recorded_confirm)
        monkeypatch.setattr(EventsHandler, "write", recorded_write)
        reply = await service.client.get("/events", headers=LINES | key.headers)
        assert len(reply.lines) >= len(operations)
    assert calls.count("read") >= 3
    assert ("read", "write") not in pairwise(calls)


async def test_owner_sees_only_own_events(serving: Serving, sqlite_url: str, clock: FakeClock) -> None:
    """An owner gets no event, count or hint of others. An admin sees all events and their owners."""
    async with secured(serving, sqlite_url, clock) as service, AsyncExitStack() as stack:
        keys_by_owner = {owner: await service.create_key(owner) for owner in ("alice", "bob")}
        keys_by_owner["ops"] = await service.create_key("ops", ADMIN)
        callers = {owner: KeyClient(service.client, key) for owner, key in keys_by_owner.items()}
        port = service.client.port
        streams = {
            owner: await stack.enter_async_context(reading(port, f"{FOLLOW}&limit=4", LINES | key.headers))
            for owner, key in keys_by_owner.items()
        }
        for number, owner in enumerate(("alice", "bob") * 4):
            await callers[owner].ask("PUT", f"/guid/{number:032X}", json={"user": f"of {owner}"})
        for owner in ("alice", "bob"):
            events = await streams[owner].lines()
            assert [event["record"]["user"] for event in events[:-1]] == [f"of {owner}"] * 4
            assert all("owner" not in event for event in events)
            assert {event["by"] for event in events[:-1]} == {f"key:{keys_by_owner[owner].key.id}"}
            found = (await callers[owner].ask("GET", "/events")).json
            assert [event["record"]["user"] for event in found["items"]] == [f"of {owner}"] * 4
            rejected = await callers[owner].ask("GET", "/events?owner=ops", headers=LINES)
            assert_problem(rejected, 403, "forbidden")
        events = await streams["ops"].lines()
        assert [event["owner"] for event in events[:-1]] == ["alice", "bob"] * 2
        for query, count in (("", 8), ("?owner=bob", 4), ("?owner=", 0)):
            assert len((await callers["ops"].ask("GET", f"/events{query}")).json["items"]) == count


async def test_each_caller_has_a_share_of_the_streams(serving: Serving, sqlite_url: str, clock: FakeClock) -> None:
    async with secured(serving, sqlite_url, clock, max_streams=32) as service, AsyncExitStack() as stack:
        keys = [await service.create_key(f"owner {number}") for number in range(17)]
        port = service.client.port
        for key in keys[:16]:
            for _ in range(2):
                stream = await stack.enter_async_context(reading(port, FOLLOW, LINES | key.headers))
                assert stream.status == 200
            for query, headers in ((FOLLOW, LINES), ("", LINES), ("", SSE), ("?from=now&wait=1", {})):
                reply = await service.client.get(f"/events{query}", headers=headers | key.headers)
                assert_problem(reply, 429, "too-many-streams")
                assert reply.headers["Retry-After"] == "5"
                assert reply.json["detail"].startswith("You have 2 open streams of events, which is the maximum of a ")
            assert (await service.client.get("/events", headers=key.headers)).status == 200, (
                "without `wait` there is no stream"
            )
        reply = await service.client.get("/events", headers=SSE | keys[16].headers)
        assert_problem(reply, 429, "too-many-streams")
        assert reply.json["detail"].startswith("The service has 32 open streams of events, which is the maximum;")


async def test_streams_wait_in_turn_without_a_queue_timeout(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser does not reconnect after a 503, so streams wait longer than `queue_timeout`."""
    async with (
        secured(serving, sqlite_url, clock, max_streams=1024, queue_timeout=0.1) as service,
        AsyncExitStack() as stack,
    ):
        key = await service.create_key()
        read = SqliteEventLog.read

        async def slow_read(log: SqliteEventLog, *args: Any, **options: Any) -> LogPage:
            await asyncio.sleep(0.2)
            return await read(log, *args, **options)

        monkeypatch.setattr(SqliteEventLog, "read", slow_read)
        opening_streams = [
            stack.enter_async_context(reading(service.client.port, query, headers | key.headers))
            for query, headers in ((FOLLOW, LINES), ("", SSE), ("", LINES)) * 20
        ]
        assert {stream.status for stream in await asyncio.gather(*opening_streams)} == {200}
