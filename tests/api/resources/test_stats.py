"""The record counts of /stats, on each store."""

import asyncio
import time

import pytest

from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.api_document import DOCUMENT, check
from tests.support.assertions import assert_problem
from tests.support.backing_servers import Server
from tests.support.http_client import Client
from tests.support.metrics import scrape, value

SCHEMA = {"$ref": "#/components/schemas/Statistics"}
HOUR, DAY = 3600, 86_400


async def fill(client: Client, clock: FakeClock, *lives: int) -> None:
    """Create a record for each life, in seconds from now."""
    for life in lives:
        assert (await client.post("/guid", {"user": "u", "expire": clock.seconds + life})).status == 201


@pytest.mark.each_once
async def test_stats_count_live_expired_and_expiring_records(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    async with serving(**combination) as client:
        await fill(client, clock, -1, 1, HOUR, HOUR + 1, DAY, DAY + 1, 30 * DAY, 30 * DAY + 1)
        deleted = await client.post("/guid", {"user": "u"})
        assert (await client.delete(deleted.headers["Location"])).status == 204
        reply = await client.get("/stats")
        totals = {
            state: (await client.get(f"/guid?state={state}", headers={"Prefer": "return=total-count"})).json["total"]
            for state in ("live", "expired")
        }

    check(reply.json, SCHEMA)
    assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
    assert {state: reply.json[state] for state in totals} == totals == {"live": 7, "expired": 1}
    assert reply.json["expiring"] == {"hours": [2, 1, *[0] * 21, 1], "days": [4, 1, *[0] * 27, 1]}
    assert reply.json["at"] == str(1000 * clock.seconds)
    assert "Statistics" in DOCUMENT["components"]["schemas"]


@pytest.mark.each_once
async def test_counts_are_right_after_a_restart(
    serving: Serving, combination: dict[str, str], clock: FakeClock
) -> None:
    for number in range(1, 4):
        async with serving(**combination) as client:
            await fill(client, clock, 10)
            assert (await client.get("/stats")).json["live"] == number
            await fill(client, clock, -10)
            assert (await client.get("/stats")).json["expired"] == number - 1, "the result of the count before"


@pytest.mark.both_servers
async def test_concurrent_requests_and_scrapes_make_one_count(serving: Serving) -> None:
    async with serving() as client:
        replies = await asyncio.gather(*(client.get(path) for path in 50 * ["/stats"] + 5 * ["/metrics"]))
        samples = await scrape(client)

    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies[:50]}) == 1
    assert value(samples, "guidsvc_store_duration_seconds_count", operation="count") == 1
    assert value(samples, "guidsvc_requests_in_progress") == 0


async def test_stats_accept_no_parameters(serving: Serving) -> None:
    async with serving() as client:
        assert_problem(await client.get("/stats?days=7"), 400, "invalid-request")


@pytest.mark.slow
async def test_stats_without_a_store_are_unavailable(
    serving: Serving, own_mongo: Server, expected_logs: ExpectedLogs
) -> None:
    """Within the time limit of the store; and they come back with it. Metrics show what was counted last."""
    expected_logs.add("store unavailable", "request failed")
    async with serving(store_url=f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc", cache_url="memory://") as client:
        own_mongo.kill()
        begun = time.monotonic()
        reply = await client.get("/stats")
        assert_problem(reply, 503, "unavailable")
        assert "Retry-After" in reply.headers
        assert time.monotonic() - begun < 20
        metrics = await scrape(client)
        assert value(metrics, "guidsvc_store_failures_total", operation="count") >= 1
        own_mongo.start()
        while (await client.get("/stats")).status != 200:
            pass
