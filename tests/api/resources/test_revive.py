"""Puts that must not make an expired record valid again (`revive`), on each store and each cache."""

from typing import Any

import pytest

from tests.conftest import FakeClock
from tests.support.assertions import assert_problem, pointers
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

pytestmark = pytest.mark.each_backend

PATH = f"/guid/{GUID}"
CHANGE = {"metadata": {"note": "x"}, "revive": False}


async def expired_tag(client: Client, clock: FakeClock) -> str:
    """Create a record that has expired by itself, and return its entity tag."""
    tag = (await client.put(PATH, {"user": USER, "ttl": 1})).headers["ETag"]
    clock.advance(seconds=3)
    return tag


async def test_put_that_must_not_revive_changes_a_live_record(client: Client) -> None:
    created = await client.put(PATH, {"user": USER, "revive": False})
    changed = await client.put(PATH, CHANGE)

    assert (created.status, changed.status) == (201, 200)
    assert changed.json == created.json | {"metadata": {"note": "x"}}


async def test_put_that_must_not_revive_leaves_an_expired_record(client: Client, clock: FakeClock) -> None:
    tag = await expired_tag(client, clock)
    for change in ({}, {"user": USER}, {"metadata": {"note": "x"}}, {"ttl": 60}, {"expire": clock.seconds + 60}):
        reply = await client.put(PATH, {**change, "revive": False}, headers={"If-Match": tag})
        assert_problem(reply, 410, "expired")
        assert 'PATCH it with a future "expire", without "revive": false, before ' in reply.json["detail"]

    assert_problem(await client.get(PATH), 410, "expired")
    assert (await client.put(PATH, {"ttl": 60}, headers={"If-Match": tag})).json.get("metadata") is None


async def test_failed_precondition_comes_before_an_expiry(client: Client, clock: FakeClock) -> None:
    await expired_tag(client, clock)

    assert_problem(await client.put(PATH, CHANGE, headers={"If-Match": '"1"'}), 412, "precondition-failed")


async def test_put_that_may_revive_is_the_default(client: Client, clock: FakeClock) -> None:
    for change in ({"user": "b"}, {"user": "c", "revive": True}):
        await expired_tag(client, clock)
        assert (await client.put(PATH, change)).status == 200
        assert (await client.get(PATH)).json["user"] == change["user"]


async def test_puts_of_a_batch_that_must_not_revive(client: Client, clock: FakeClock) -> None:
    tag = await expired_tag(client, clock)
    operations: list[dict[str, Any]] = [
        {"guid": GUID, **CHANGE, "if_match": tag},
        {"guid": "1" * 32, "user": USER, "revive": False},
        {"user": USER, "revive": False},
        {"op": "get", "guid": GUID, "revive": False},
    ]
    results = (await client.post("/guid:batch", {"operations": operations})).json["results"]

    assert [each["status"] for each in results] == [410, 201, 400, 400]
    details = [each["problem"]["detail"] for each in results[2:]]
    assert details == ["`put` without `guid` takes no `revive`.", "`get` takes no `revive`."]
    assert_problem(await client.get(PATH), 410, "expired")


async def test_creation_and_patch_take_no_revive(client: Client) -> None:
    for method, path in (("POST", "/guid"), ("PUT", "/guid"), ("PATCH", PATH)):
        assert pointers(await client.ask(method, path, json={"user": USER, "revive": False})) == ["/revive"]
