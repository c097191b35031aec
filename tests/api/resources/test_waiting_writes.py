"""Writes of one GUID that wait for a slow store keep their time limits."""

import asyncio

import pytest

from tests.conftest import ExpectedLogs, Serving
from tests.support.factories import GUID
from tests.support.mongo_proxy import MongoProxy

PATH = f"/guid/{GUID}"
DELAY_SECONDS = 0.3
"""Delay of each command. A write has two or more, so few of the writes are executed within their time limit."""


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["memory", "redis"])
async def test_waiting_writes_end_with_their_time_limit(
    serving: Serving, proxied_mongo: MongoProxy, expected_logs: ExpectedLogs, cache: str, request: pytest.FixtureRequest
) -> None:
    expected_logs.add("request failed", "store unavailable")
    store_url = f"mongodb://127.0.0.1:{proxied_mongo.port}/guidsvc?directConnection=true"
    cache_url = "memory://" if cache == "memory" else request.getfixturevalue("redis_url")
    async with serving(store_url=store_url, cache_url=cache_url, request_timeout=2) as client:
        assert (await client.put(PATH, {"user": "first"})).status == 201
        with proxied_mongo.delaying(DELAY_SECONDS):
            users = [f"user {number}" for number in range(20)]
            replies = await asyncio.gather(*(client.put(PATH, {"user": user}) for user in users))
        may_be_stored = {user for user, reply in zip(users, replies, strict=True) if reply.status != 503}
        found = (await client.get(PATH)).json["user"]

    assert {reply.status for reply in replies} <= {200, 503, 504}
    assert [reply.status for reply in replies].count(503) >= 10, "each write takes the store more than 2 s / 10"
    assert found in {"first", *may_be_stored}, "a write that was answered with 503 changed nothing"
