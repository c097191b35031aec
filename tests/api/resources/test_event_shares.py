"""Reading a full event log: as one owner, and as an admin."""

import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

from guidsvc.store import open_store
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.event_shares import SIZE_BYTES, trim_all
from tests.support.events import until_newest
from tests.support.secured_service import KeyClient, SecuredService

_users = itertools.count()


@pytest.fixture(params=["sqlite", "mongo"])
def store_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def secured(serving: Serving, store_url: str, redis_url: str, clock: FakeClock) -> AsyncIterator[SecuredService]:
    """A service whose store is open in the test too, so that the test can trim the log."""
    async with serving(access="keys", login_limit="", store_url=store_url, cache_url=redis_url) as client:
        yield SecuredService(client, store_url, clock)


async def write(store_url: str, caller: KeyClient, guid: int, count: int = 1) -> None:
    """Write a GUID `count` times, with 1 KiB of metadata, and wait until the log has its events."""
    async with open_store(store_url, exclusive=False) as store:
        newest = await store.events.newest()
        for _ in range(count):
            body = {"user": f"user {next(_users)}", "metadata": {"a": "x" * 1000}}
            assert (await caller.ask("PUT", f"/guid/{guid:032X}", json=body)).status in {200, 201}
        await until_newest(store.events, newest + count)


async def fill(store_url: str, caller: KeyClient) -> None:
    """Write three times the size of the log, and trim it."""
    for _ in range(3):
        await write(store_url, caller, 1, SIZE_BYTES // 1000)
        async with open_store(store_url, exclusive=False) as store:
            await trim_all(store.events)


async def next_of(caller: KeyClient, query: str = "from=now") -> str:
    reply = await caller.ask("GET", f"/events?{query}")
    assert reply.status == 200, reply.body
    return str(reply.json["next"])


async def guids_after(caller: KeyClient, cursor: str, query: str = "") -> Sequence[str]:
    reply = await caller.ask("GET", f"/events?cursor={cursor}&limit=500{query}")
    assert reply.status == 200, reply.body
    return [event["guid"] for event in reply.json["items"]]


async def test_cursor_of_a_small_owner_survives_a_flood(secured: SecuredService, store_url: str) -> None:
    """This includes a cursor that bob got when the newest event was one of alice."""
    alice, bob, ops = [await secured.key_client(*each) for each in (("alice",), ("bob",), ("ops", "admin"))]
    await write(store_url, bob, 16)
    first = await next_of(bob)
    await write(store_url, alice, 1)
    cursors = [first, await next_of(bob), await next_of(bob, f"cursor={first}&wait=0"), await next_of(ops, "owner=bob")]
    of_alice, of_all = await next_of(alice), await next_of(ops)
    await write(store_url, bob, 17)
    await fill(store_url, alice)

    for cursor in cursors:
        assert await guids_after(bob, cursor) == [f"{17:032X}"]
        assert await guids_after(ops, cursor, "&owner=bob") == [f"{17:032X}"]
    assert [event["guid"] for event in (await bob.ask("GET", "/events")).json["items"]] == [f"{16:032X}", f"{17:032X}"]
    for caller, cursor in ((alice, of_alice), (ops, of_all), (ops, cursors[0])):
        reply = await caller.ask("GET", f"/events?cursor={cursor}")
        assert_problem(reply, 410, "events-gone")
        assert reply.json["reason"] == "trimmed"
        assert set(await guids_after(caller, reply.json["oldest"])) == {f"{1:032X}"}
        assert await guids_after(caller, reply.json["now"]) == []


async def test_bookmark_of_a_small_owner_survives_a_flood(secured: SecuredService, store_url: str) -> None:
    alice, bob = await secured.key_client("alice"), await secured.key_client("bob")
    await write(store_url, bob, 16)
    await write(store_url, alice, 1)
    lines = await bob.ask("GET", "/events", headers={"Accept": "application/x-ndjson"})
    bookmark = lines.body.decode().splitlines()[-1]
    assert '"type":"bookmark"' in bookmark
    cursor = bookmark.split('"cursor":"')[1].split('"')[0]
    await write(store_url, bob, 17)
    await fill(store_url, alice)

    assert await guids_after(bob, cursor) == [f"{17:032X}"]


async def now_of_gone(caller: KeyClient) -> str:
    """Return `now` of the problem that a cursor of another store gets."""
    reply = await caller.ask("GET", "/events?cursor=AgAAAAAAAAAAAAAAAAAA")
    assert_problem(reply, 410, "events-gone")
    return str(reply.json["now"])


async def test_now_of_gone_events_shows_nothing_of_others(secured: SecuredService, store_url: str) -> None:
    """It names the newest event of the owner, as the cursors of its pages do, and outlives a flood of others."""
    alice, bob, ops = [await secured.key_client(*each) for each in (("alice",), ("bob",), ("ops", "admin"))]
    await write(store_url, bob, 16)
    expected = await next_of(bob)
    for _ in range(2):
        assert await now_of_gone(bob) == expected
        before = await now_of_gone(ops)
        await write(store_url, alice, 1)
        assert await now_of_gone(ops) != before, "a reader of all begins at the newest event of all"
    await fill(store_url, alice)

    assert await now_of_gone(bob) == expected
    await write(store_url, bob, 17)
    assert await guids_after(bob, expected) == [f"{17:032X}"]
