"""Lifetimes relative to now (`ttl` and `spread`), on each store and each cache."""

from typing import Any

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.factories import GUID, USER
from tests.support.http_client import Client

pytestmark = pytest.mark.each_backend

PATH = f"/guid/{GUID}"
MAX_SECONDS = 253_402_300_799


async def test_ttl_is_rounded_up_to_a_whole_second(client: Client, clock: FakeClock) -> None:
    clock.now = clock.seconds * 1000
    for milliseconds, expected in ((0, 60), (1, 61), (999, 61)):
        clock.now = clock.seconds * 1000 + milliseconds
        second = clock.seconds
        for method, path in (("PUT", PATH), ("POST", "/guid"), ("PUT", "/guid")):
            reply = await client.ask(method, path, json={"user": USER, "ttl": 60})
            assert (reply.status in {200, 201}, reply.json["expire"]) == (True, str(second + expected)), method


async def test_ttl_in_a_batch_counts_from_now(client: Client, clock: FakeClock) -> None:
    operations = [{"user": USER, "ttl": "5"}, {"op": "put", "guid": GUID, "user": USER, "ttl": 7}]
    reply = await client.ask("POST", "/guid:batch", json={"operations": operations})

    lifetimes = [int(result["record"]["expire"]) - -(-clock.now // 1000) for result in reply.json["results"]]
    assert lifetimes == [5, 7]


async def test_ttl_beyond_the_year_9999_ends_with_it(client: Client) -> None:
    reply = await client.put(PATH, {"user": USER, "ttl": MAX_SECONDS})

    assert (reply.status, reply.json["expire"]) == (201, str(MAX_SECONDS))


async def test_ttl_renews_expired_and_revoked_records(client: Client, clock: FakeClock) -> None:
    for members in ({"ttl": 1}, {"expire": 0}):
        await client.put(PATH, {"user": USER, **members})
        clock.advance(seconds=3)
        assert (await client.get(PATH)).status == 410
        assert (await client.put(PATH, {"ttl": 60})).status == 200
        assert (await client.get(PATH)).status == 200


async def test_spread_adds_at_most_so_many_seconds(client: Client, clock: FakeClock) -> None:
    earliest = -(-clock.now // 1000) + 100
    offsets = set()
    for _ in range(60):
        reply = await client.put("/guid", {"user": USER, "ttl": 100, "spread": 3})
        offsets.add(int(reply.json["expire"]) - earliest)

    assert offsets == {0, 1, 2, 3}


INVALID_SECONDS: list[object] = ["0", 0, 1.5, True, None, -1, "1.5", "", [], MAX_SECONDS + 1]
INVALID_MEMBERS: list[tuple[dict[str, Any], list[str]]] = [
    *(({"ttl": value}, ["/ttl"]) for value in INVALID_SECONDS),
    ({"ttl": 60, "expire": 4_102_444_800}, ["/ttl"]),
    ({"ttl": "0", "expire": "soon", "spread": True, "user": ""}, ["/expire", "/user", "/ttl", "/spread"]),
    ({"spread": 5}, ["/spread"]),
    ({"spread": 5, "expire": 4_102_444_800}, ["/spread"]),
]


@pytest.mark.parametrize("path", ["/guid", PATH])
async def test_faults_of_ttl_are_told_all_at_once(serving: Serving, path: str) -> None:
    async with serving() as client:
        for members, pointers in INVALID_MEMBERS:
            reply = await client.put(path, {"user": USER} | members)
            assert_problem(reply, 400, "invalid-request")
            assert [fault["pointer"] for fault in reply.json["errors"]] == pointers, members
            assert "excludes `expire`" in reply.body.decode() or not {"ttl", "expire"} <= members.keys()


async def test_ttl_is_no_member_of_a_patch(serving: Serving) -> None:
    async with serving() as client:
        await client.put(PATH, {"user": USER})
        assert_problem(await client.ask("PATCH", PATH, json={"ttl": 60}), 400, "invalid-request")
        operations = [{"op": name, "guid": GUID, "ttl": 60} for name in ("get", "delete")]
        results = (await client.ask("POST", "/guid:batch", json={"operations": operations})).json["results"]
        assert [result["problem"]["detail"] for result in results] == [
            "`get` takes no `ttl`.",
            "`delete` takes no `ttl`.",
        ]
