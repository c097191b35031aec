"""Limits of a life, of the service and of a key, on each store and each cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from guidsvc.domain import api_key
from guidsvc.domain.leases.limits import LifeLimits
from guidsvc.store import open_keys
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

pytestmark = pytest.mark.each_backend

PATH = f"/guid/{GUID}"
RENEWAL = f"{PATH}/renewal"
REVIVAL_ADVICE = "it cannot become valid again. Create another GUID."
"""The end of the error about an expired record whose limit has passed."""


async def test_lease_is_capped_and_ends_with_its_life(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(**combination, max_life=120) as client:
        start = clock.seconds
        end = str(start + 120)
        await client.put(PATH, {"user": USER, "ttl": 60})
        for second, granted, is_capped in ((20, "50", False), (40, "50", False), (60, "50", False), (80, "40", True)):
            clock.now = (start + second) * 1000
            reply = await client.post(RENEWAL, {"ttl": 50})
            assert (reply.json["granted"], reply.json["capped"], reply.json["max_expire"]) == (granted, is_capped, end)
        clock.now = (start + 100) * 1000
        problem = assert_problem(await client.post(RENEWAL, {"ttl": 60}), 409, "life-limit")
        assert (problem["expire"], problem["max_expire"]) == (end, end)
        assert str(problem["detail"]).endswith("Finish before it expires, and create another GUID.")
        assert (await client.post(RENEWAL, {"ttl": 60, "if_below": 10})).json["capped"], "it says so in time"
        assert (await client.post(RENEWAL, {"ttl": 10})).json["renewed"] is False
        for members in ({"expire": start + 121}, {"ttl": 21}):
            problem = assert_problem(await client.put(PATH, members), 409, "life-limit")
            assert problem["max_expire"] == end
        assert_problem(await client.ask("PATCH", PATH, json={"expire": start + 121}), 409, "life-limit")
        assert (await client.put(PATH, {"ttl": 20, "user": "b"})).json["expire"] == end
        clock.now = (start + 121) * 1000
        revivals: tuple[dict[str, Any], ...] = ({"ttl": 60, "revive": True}, {"revive": True})
        for members in revivals:
            problem = assert_problem(await client.post(RENEWAL, members), 409, "life-limit")
            assert str(problem["detail"]).endswith(REVIVAL_ADVICE)
        for members in ({}, {"ttl": 1}, {"expire": start + 200}):
            problem = assert_problem(await client.put(PATH, members), 409, "life-limit")
            assert str(problem["detail"]).endswith(REVIVAL_ADVICE)
        assert (await client.put(PATH, {"expire": start + 5})).status == 200, "a revocation gives no life"


async def test_ttl_limit_moves_on_with_time(serving: Serving, combination: dict[str, str], clock: FakeClock) -> None:
    async with serving(**combination, max_ttl=60) as client:
        problem = assert_problem(await client.put(PATH, {"user": USER, "ttl": 61}), 409, "life-limit")
        assert problem["max_expire"] == str(clock.seconds + 60)
        created = await client.put(PATH, {"user": USER})
        assert created.json["expire"] == str(clock.seconds + 60), "less than the default life"
        again = await client.post(RENEWAL, {"ttl": 600})
        assert (again.status, again.json["renewed"], again.json["capped"]) == (200, False, True)
        clock.advance(seconds=20)
        reply = await client.post(RENEWAL, {"ttl": 600})
        assert (reply.json["renewed"], reply.json["granted"], reply.json["capped"]) == (True, "60", True)
        assert_problem(await client.post(RENEWAL, {"ttl": 600, "at_least": 61}), 409, "life-limit")
        assert (await client.put(PATH, {"user": "b", "expire": int(reply.json["expire"])})).status == 200
        for body, path in (({"user": USER, "ttl": 61}, "/guid"), ({"user": USER, "expire": 4102444800}, "/guid")):
            assert_problem(await client.put(path, body), 409, "life-limit")


async def test_expiry_beyond_a_new_limit_may_stay(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination) as client:
        created = await client.put(PATH, {"user": USER, "ttl": 600})
    async with serving(**combination, max_ttl=60) as client:
        expire = created.json["expire"]
        assert (await client.put(PATH, {"user": "b"})).json["expire"] == expire
        assert (await client.put(PATH, {"user": "c", "expire": expire})).json["expire"] == expire
        assert_problem(await client.put(PATH, {"expire": int(expire) - 1}), 409, "life-limit")
        assert (await client.put(PATH, {"ttl": 60})).status == 200


async def test_live_record_beyond_a_new_limit_gets_no_more(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(**combination) as client:
        await client.put(PATH, {"user": USER, "ttl": 600})
    clock.advance(seconds=100)
    async with serving(**combination, max_life=60) as client:
        for reply in (await client.put(PATH, {"ttl": 900}), await client.post(RENEWAL, {"ttl": 900})):
            problem = assert_problem(reply, 409, "life-limit")
            assert str(problem["detail"]).endswith("Finish before it expires, and create another GUID.")


async def test_spread_ends_at_the_limit(serving: Serving, combination: dict[str, str], clock: FakeClock) -> None:
    async with serving(**combination, max_ttl=60) as client:
        replies = [await client.put("/guid", {"user": USER, "ttl": 58, "spread": 1000}) for _ in range(20)]

    assert {int(reply.json["expire"]) - clock.seconds for reply in replies} <= {58, 59, 60}


async def test_limit_holds_in_each_operation_of_a_batch(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination, max_ttl=60) as limited:
        operations: list[dict[str, Any]] = [
            {"user": USER, "ttl": 61},
            {"op": "put", "guid": GUID, "user": USER, "ttl": 60},
            {"op": "renew", "guid": GUID, "ttl": 600, "at_least": 61},
        ]
        results = (await limited.post("/guid:batch", {"operations": operations})).json["results"]
        assert [result["status"] for result in results] == [409, 201, 409]
        assert results[0]["problem"]["code"] == results[2]["problem"]["code"] == "life-limit"


# Keys


@asynccontextmanager
async def keyed(serving: Serving, urls: dict[str, str], **settings: object) -> AsyncIterator[tuple[Client, str]]:
    """Serve with access control; also yield the header of an admin."""
    async with serving(**urls, access="keys", **settings) as client:
        async with open_keys(urls["store_url"]) as keys:
            key, text = api_key.generate("ops", ["admin"], 0)
            assert await keys.swap(None, key)
        yield client, f"Bearer {text}"


async def test_key_tightens_the_limits_and_never_widens_them(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with keyed(serving, combination, max_ttl=600, max_life=6000) as (client, admin):
        body = {"owner": "alice", "scopes": ["read", "write"], "max_ttl": 60, "max_life": "60000"}
        issued = await client.post("/keys", body, headers={"Authorization": admin})
        assert (issued.json["max_ttl"], issued.json["max_life"]) == ("60", "60000")
        described = await client.get(f"/keys/{issued.json['id']}", headers={"Authorization": admin})
        assert (described.json["max_ttl"], described.json["max_life"]) == ("60", "60000")
        own = {"Authorization": f"Bearer {issued.json['key']}"}
        assert (await client.get("/keys/self", headers=own)).json["max_ttl"] == "60"
        assert_problem(await client.put(PATH, {"user": USER, "ttl": 61}, headers=own), 409, "life-limit")
        assert (await client.put(PATH, {"user": USER}, headers=own)).json["expire"] == str(clock.seconds + 60)
        renewal = await client.post(RENEWAL, {"ttl": 600}, headers=own)
        assert renewal.json["max_expire"] == str(clock.seconds + 60)
        wider = await client.post(RENEWAL, {"ttl": 6000}, headers={"Authorization": admin})
        assert (wider.json["granted"], wider.json["capped"]) == ("600", True)


@pytest.mark.parametrize("value", [0, "0", -1, 1.5, True, None])
async def test_limit_of_a_key_is_a_positive_number(serving: Serving, sqlite_url: str, value: object) -> None:
    async with keyed(serving, {"store_url": sqlite_url}) as (client, admin):
        body = {"owner": "alice", "scopes": ["read"], "max_ttl": value}
        assert_problem(await client.post("/keys", body, headers={"Authorization": admin}), 400, "invalid-request")


def test_tightened_limits_are_the_smaller_ones() -> None:
    assert LifeLimits(60, 0).tightened(LifeLimits(0, 50)) == LifeLimits(60, 50)
    assert LifeLimits(60, 40).tightened(LifeLimits(70, 50)) == LifeLimits(60, 40)
    assert LifeLimits().tightened(LifeLimits()) == LifeLimits()
    assert LifeLimits().max_expire(5, 5) is None
