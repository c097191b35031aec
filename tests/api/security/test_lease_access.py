"""Remembered heartbeats of API keys: the fast path permits exactly what a handler permits."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.factories import GUID
from tests.support.http_client import Reply
from tests.support.secured_service import KeyClient, SecuredService

PATH = f"/guid/{GUID}"
OTHER, ABSENT = f"/guid/{1:032X}", f"/guid/{2:032X}"
HEARTBEAT = {"ttl": 60, "if_below": 30}
WAIT_SECONDS = 10
"""Longer than a session is cached."""


@pytest.fixture
async def secured(serving: Serving, combination: dict[str, str], clock: FakeClock) -> AsyncIterator[SecuredService]:
    clock.now = clock.seconds * 1000
    async with serving(**combination, access="keys", login_limit="") as client:
        yield SecuredService(client, combination["store_url"], clock)


async def lease(caller: KeyClient, path: str = PATH) -> Reply:
    """Create a lease of a minute."""
    reply = await caller.ask("PUT", path, json={"user": "a", "ttl": 60})
    assert reply.status == 201
    return reply


async def beat(caller: KeyClient, path: str = PATH, **headers: str) -> Reply:
    """Send a heartbeat."""
    return await caller.ask("POST", f"{path}/renewal", json=HEARTBEAT, headers=headers)


async def beat_by_handler(caller: KeyClient, path: str = PATH) -> Reply:
    """Send a heartbeat with a header that the fast path does not serve."""
    return await beat(caller, path, **{"Idempotency-Key": "handler"})


async def remember(caller: KeyClient, path: str = PATH) -> None:
    """Send heartbeats so that the next one is served from memory: the first one of a key must authenticate it."""
    for _ in range(3):
        assert (await beat(caller, path)).status == 200


async def beat_in_memory(monkeypatch: pytest.MonkeyPatch, caller: KeyClient, path: str = PATH) -> Reply:
    """Send a heartbeat that must be served without a parser."""
    with monkeypatch.context() as patch:
        patch.setattr(FastPathDispatcher, "dispatch", None)
        return await beat(caller, path)


async def until_beat(caller: KeyClient, status: int) -> Reply:
    """Send heartbeats until one gets this status."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (reply := await beat(caller)).status != status:
            await asyncio.sleep(0.05)
    return reply


def without_request_id(reply: Reply) -> dict[str, Any]:
    """Return the members of a problem except the request id, which differs in each."""
    document = json.loads(reply.body)
    return {name: value for name, value in document.items() if name != "request_id"}


@pytest.mark.parametrize(("owner", "scopes"), [("alice", "read write"), ("root", "admin")])
async def test_remembered_heartbeat_equals_that_of_a_handler(
    secured: SecuredService, monkeypatch: pytest.MonkeyPatch, owner: str, scopes: str
) -> None:
    alice, caller = await secured.key_client("alice"), await secured.key_client(owner, scopes)
    created = await lease(alice)
    await remember(caller)
    secured.clock.advance(seconds=7)
    await beat(caller)  # begins another window of its rate limit
    reply = await beat_in_memory(monkeypatch, caller)

    assert (reply.json["granted"], reply.json["renewed"]) == ("53", False)
    assert reply.headers["ETag"] == created.headers["ETag"]
    assert reply.body == (await beat_by_handler(caller)).body


async def test_remembered_heartbeat_does_not_reach_another_owner(secured: SecuredService) -> None:
    """The bytes after the GUID are remembered for the key; the record of another owner is absent all the same."""
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    created = await lease(alice)
    await lease(bob, OTHER)
    await remember(alice)
    await remember(bob, OTHER)
    for seconds in (0, 40):  # a heartbeat that changes nothing, and one that would renew
        secured.clock.advance(seconds=seconds)
        replies = [await beat(bob, path) for path in (PATH, ABSENT)]
        for reply in replies:
            assert_problem(reply, 404, "not-found")
        texts = [json.dumps(without_request_id(reply)).replace(ABSENT[6:], GUID) for reply in replies]
        assert texts[0] == texts[1]
    assert (await alice.ask("GET", PATH)).headers["ETag"] == created.headers["ETag"]


async def test_heartbeat_without_a_scope_is_rejected_each_time(secured: SecuredService) -> None:
    alice, reader, writer = [await secured.key_client("alice", scopes) for scopes in ("read write", "read", "write")]
    await lease(alice)
    await remember(alice)
    for _ in range(3):
        assert_problem(await beat(reader), 403, "forbidden")
        reply = await beat(writer)
        assert (reply.status, reply.body, "ETag" in reply.headers) == (204, b"", True)


@pytest.mark.usefixtures("short_sessions")
async def test_remembered_heartbeat_of_a_revoked_key_is_rejected(secured: SecuredService) -> None:
    credential = await secured.create_key()
    alice, second_key = KeyClient(secured.client, credential), await secured.key_client()
    created = await lease(alice)
    await remember(alice)
    await secured.update_key(credential, revoked=1)
    await until_beat(alice, 401)
    secured.clock.advance(seconds=40)  # now it would renew

    assert_problem(await beat(alice), 401, "unauthorized")
    assert (await second_key.ask("GET", PATH)).headers["ETag"] == created.headers["ETag"]


@pytest.mark.usefixtures("short_sessions")
@pytest.mark.parametrize(("scopes", "status"), [("read", 403), ("write", 204)])
async def test_remembered_heartbeat_follows_changed_scopes(secured: SecuredService, scopes: str, status: int) -> None:
    credential = await secured.create_key()
    alice = KeyClient(secured.client, credential)
    await lease(alice)
    await remember(alice)
    await secured.update_key(credential, scopes=scopes)
    assert (await until_beat(alice, status)).body.startswith(b"" if status == 204 else b"{")
    for _ in range(3):
        assert (await beat(alice)).status == status


@pytest.mark.parametrize("name", ["max_ttl", "max_life"])
async def test_remembered_heartbeat_shows_the_limit_of_its_key(
    secured: SecuredService, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The response equals that of a handler, for a limit that moves with the clock and for a fixed one."""
    credential = await secured.create_key()
    await secured.update_key(credential, **{name: 55})
    alice, limited = await secured.key_client("alice"), KeyClient(secured.client, credential)
    await lease(alice)
    created = secured.clock.seconds
    secured.clock.advance(seconds=3)
    await remember(alice)
    await remember(limited)
    reply = await beat_in_memory(monkeypatch, limited)
    end = created + 55 + (3 if name == "max_ttl" else 0)
    assert (reply.json["max_expire"], reply.json["capped"], reply.json["granted"]) == (str(end), True, "57")
    assert reply.body == (await beat_by_handler(limited)).body
    assert (await beat_in_memory(monkeypatch, alice)).json["max_expire"] is None


async def test_remembered_heartbeat_follows_a_changed_limit(secured: SecuredService) -> None:
    credential = await secured.create_key()
    alice = KeyClient(secured.client, credential)
    await lease(alice)
    await remember(alice)
    await secured.update_key(credential, max_ttl=55)
    end = str(secured.clock.seconds + 55)
    async with asyncio.timeout(WAIT_SECONDS):
        while (await beat(alice)).json["max_expire"] != end:
            await asyncio.sleep(0.05)


async def test_heartbeat_needs_no_quota(
    serving: Serving, combination: dict[str, str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the quota used up it is accepted, whether it renews or not, and it uses no quota itself."""
    async with serving(**combination, access="keys", quota=1) as client:
        alice = await SecuredService(client, combination["store_url"], clock).key_client()
        await lease(alice)
        await remember(alice)
        for _ in range(2):
            assert (await beat_in_memory(monkeypatch, alice)).json["renewed"] is False
        clock.advance(seconds=40)
        assert (await beat(alice)).json["renewed"] is True
        assert_problem(await alice.ask("PUT", OTHER, json={"user": "a"}), 403, "quota-exceeded")


async def test_remembered_heartbeat_beyond_the_rate_limit_is_rejected(
    serving: Serving, combination: dict[str, str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the next window it is served from memory again."""
    async with serving(**combination, access="keys", rate_limit="6/minute") as client:
        alice = await SecuredService(client, combination["store_url"], clock).key_client()
        await lease(alice)
        await remember(alice)
        rate_limits = [(await beat_in_memory(monkeypatch, alice)).headers["RateLimit"] for _ in range(2)]
        assert [rate_limit.partition(";t=")[0] for rate_limit in rate_limits] == ['"requests";r=1', '"requests";r=0']
        for _ in range(2):
            problem = assert_problem(await beat(alice), 429, "rate-limited")
            assert problem["status"] == 429
        clock.advance(seconds=60)
        await alice.ask("PUT", PATH, json={"ttl": 60})
        await remember(alice)
        assert (await beat_in_memory(monkeypatch, alice)).status == 200
