"""Faults of the event log as clients see them: damaged events, and a MongoDB that accepts none.

No acknowledged write is lost, GUIDs are served, and the feed names the cursor at which a reader continues.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pymongo
import pytest
from tornado.httputil import HTTPHeaders

from guidsvc.api.resources.events import stream as event_stream
from guidsvc.store.mongo.events import log as mongo_log
from guidsvc.store.mongo.events.outbox import MAX_ITEMS
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import ExpectedLogs, Serving
from tests.support.assertions import assert_problem
from tests.support.backing_servers import Server
from tests.support.event_reader import StreamReader, all_events, page, reading, until_streams
from tests.support.http_client import Client
from tests.support.mongo_proxy import MongoProxy
from tests.support.readiness import until_ready
from tests.support.slow_readers import narrow
from tests.support.sqlite_damage import alter
from tests.support.time_limit import within

pytestmark = pytest.mark.slow

WAIT_SECONDS, SLOW_SECONDS = 30.0, 120.0
BAD, GOOD = "A" * 32, "B" * 32
Damage = Callable[[dict[str, Any]], None]


async def create(client: Client, *guids: str, **members: object) -> None:
    """Create GUIDs one after the other."""
    for guid in guids:
        assert (await client.put(f"/guid/{guid}", {"user": "u"} | members)).status == 201


async def until_events(client: Client, count: int, query: str = "?limit=500") -> list[dict[str, Any]]:
    """Wait for `count` events, and return all: MongoDB has them slightly after the write."""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(events := await all_events(client, query)) < count:
            await asyncio.sleep(0.05)
    return events


# A damaged event


@pytest.fixture(params=["sqlite", "mongo"])
async def damaged(
    request: pytest.FixtureRequest, serving: Serving, expected_logs: ExpectedLogs
) -> AsyncIterator[Client]:
    """A service with events of five GUIDs. The third event is damaged."""
    url: str = request.getfixturevalue("mongo_url" if request.param == "mongo" else "sqlite_url")
    async with serving(store_url=url) as client:
        for number in range(5):
            await create(client, f"{number:032X}")
            await until_events(client, number + 1)
        if request.param == "mongo":
            expected_logs.add("event invalid, it cannot be read")
            with pymongo.MongoClient[dict[str, Any]](url) as mongo:
                mongo.get_default_database()["log"].update_one({"_id": 3}, {"$unset": {"kind": 1}})
        else:
            expected_logs.add("event log damaged, readers continue after the damage")
            alter(path_of_url(url), "UPDATE log SET kind = 'x' WHERE seq = 3")
        yield client


async def test_feed_continues_after_a_damaged_event(damaged: Client) -> None:
    here = await page(damaged)
    assert [int(event["guid"], 16) for event in here["items"]] == [0, 1]
    gone = await damaged.get(f"/events?cursor={here['next']}")
    assert_problem(gone, 410, "events-gone")
    assert gone.json["reason"] == "trimmed"
    behind = await page(damaged, f"?cursor={gone.json['oldest']}")
    assert [int(event["guid"], 16) for event in behind["items"]] == [3, 4]

    await create(damaged, GOOD)
    assert (await damaged.get(f"/guid/{2:032X}")).status == 200
    assert [event["guid"] for event in await until_events(damaged, 1, f"?cursor={behind['next']}")] == [GOOD]
    assert (await damaged.get("/readyz")).json["status"] == "ready"


async def test_stream_ends_before_a_damaged_event_with_its_reason(damaged: Client) -> None:
    async with reading(damaged.port, "?follow=true") as stream:
        *events, last = await stream.lines()
    assert [int(event["guid"], 16) for event in events] == [0, 1]
    assert last["type"] == "events.gone"
    async with reading(damaged.port, f"?cursor={last['oldest']}") as stream:
        *events, _ = await stream.lines()
    assert [int(event["guid"], 16) for event in events] == [3, 4]


# MongoDB


async def test_invalid_outbox_stops_only_its_own_events(
    serving: Serving, mongo_url: str, expected_logs: ExpectedLogs
) -> None:
    """Once its outbox is full, the invalid items are removed, and the events of its writes are logged."""
    expected_logs.add("outbox invalid, its events are not logged", "invalid events removed from outbox")
    async with serving(store_url=mongo_url) as client:
        await create(client, BAD)
        await until_events(client, 1)
        with pymongo.MongoClient[dict[str, Any]](mongo_url) as mongo:
            drained, invalid = {"_id": BAD, "g.pending": None}, {"$set": {"g.out": [7], "g.pending": 1}}
            async with asyncio.timeout(WAIT_SECONDS):
                while not mongo.get_default_database()["records"].update_one(drained, invalid).modified_count:
                    await asyncio.sleep(0.01)
        assert (await client.put(f"/guid/{BAD}", {"user": "0"})).status == 200
        await create(client, GOOD)
        assert [event["guid"] for event in await until_events(client, 2)] == [BAD, GOOD]
        assert (await client.get("/readyz")).json["status"] == "ready"
        for number in range(1, MAX_ITEMS + 1):
            assert (await client.put(f"/guid/{BAD}", {"user": str(number)})).status == 200
        events = await until_events(client, MAX_ITEMS + 3)
        users = [event["record"]["user"] for event in events if event["guid"] == BAD]
        assert users == ["u", *map(str, range(MAX_ITEMS + 1))]


def url_of(port: int) -> str:
    """Return the URL of a MongoDB store on a port."""
    return f"mongodb://127.0.0.1:{port}/guidsvc?directConnection=true"


async def test_writes_succeed_until_the_outbox_is_full(
    serving: Serving, proxied_mongo: MongoProxy, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_log, "FAILING_SECONDS", 0.5)
    expected_logs.add("event sequencer failing", "request failed")
    async with serving(store_url=url_of(proxied_mongo.port)) as client:
        await create(client, BAD)
        await until_events(client, 1)
        with proxied_mongo.dropping("insert"):
            statuses = [(await client.put(f"/guid/{BAD}", {"user": str(number)})).status for number in range(MAX_ITEMS)]
            assert statuses == [200] * MAX_ITEMS
            full = await client.put(f"/guid/{BAD}", {"user": "one too many"})
            assert_problem(full, 503, "unavailable")
            assert (await client.get(f"/guid/{BAD}")).json["user"] == str(MAX_ITEMS - 1)
            assert (await client.get("/readyz")).json["status"] == "ready"
            assert len(await all_events(client)) == 1
        events = await until_events(client, MAX_ITEMS + 1)
        assert [event["record"]["user"] for event in events] == ["u", *map(str, range(MAX_ITEMS))]
        async with asyncio.timeout(WAIT_SECONDS):
            while (await client.put(f"/guid/{BAD}", {"user": "last"})).status != 200:
                await asyncio.sleep(0.1)


async def test_slow_mongodb_delays_events_and_loses_none(
    serving: Serving, proxied_mongo: MongoProxy, expected_logs: ExpectedLogs
) -> None:
    """Each command takes half a second, and a time limit allows four: many events are moved and read all the same."""
    count = 300
    expected_logs.add("event sequencer failing", "request failed", "operation failed", "store unavailable")
    operations = [{"guid": f"{number:032X}", "user": "u", "if_none_match": "*"} for number in range(count)]
    async with serving(store_url=url_of(proxied_mongo.port)) as client:
        with proxied_mongo.dropping("insert", collection="log"):  # so that all events have still to be moved
            statuses: set[int] = set()
            while not statuses or statuses - {201, 412}:  # a busy machine may take longer than the time limit
                results = (await client.post("/guid:batch", {"operations": operations})).json["results"]
                statuses = {result["status"] for result in results}
        with proxied_mongo.delaying(0.5):
            async with within(SLOW_SECONDS, "all events of a slow MongoDB"):
                while len((reply := await client.get(f"/events?limit={count}")).json.get("items", ())) < count:
                    pass
    assert sorted(event["guid"] for event in reply.json["items"]) == [each["guid"] for each in operations]


async def test_streams_survive_an_outage_of_the_store(
    serving: Serving, own_mongo: Server, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that has caught up stays open. One that must read the store is cut off; its client misses nothing."""
    monkeypatch.setattr(event_stream, "BOOKMARK_SECONDS", 0.2)
    expected_logs.add("store unavailable", "request failed", "fault")
    guids = [f"{number:032X}" for number in range(60)]
    async with serving(store_url=url_of(own_mongo.port)) as client, narrow(client.port) as (reader, writer):
        await create(client, *guids, metadata={"a": "x" * 16_000})
        newest = (await until_events(client, len(guids)))[-1]["cursor"]
        writer.write(b"GET /events?limit=60 HTTP/1.1\r\nHost: a\r\nAccept: application/x-ndjson\r\n\r\n")
        await until_streams(client, 1)
        async with reading(client.port, "?from=now&follow=true") as follower:
            assert (await follower.line())["cursor"] == newest
            own_mongo.pause()
            await until_ready(client, store="down")
            assert (await client.get("/events")).status == 503
            for _ in range(3):
                assert (await follower.line())["type"] == "bookmark"
            head = await reader.readuntil(b"\r\n\r\n")
            slow = StreamReader(200, HTTPHeaders.parse(head.decode().partition("\r\n")[2]), reader, is_sse=False)
            seen = [line for line in await slow.lines() if "guid" in line]
            assert slow.is_cut_off
            own_mongo.resume()
            await until_ready(client, store="up")
            await create(client, GOOD)
            while (event := await follower.line())["type"] == "bookmark":
                pass
            assert event["guid"] == GOOD
        rest = await until_events(client, len(guids) + 1 - len(seen), f"?limit=500&cursor={seen[-1]['cursor']}")
    assert [event["guid"] for event in (*seen, *rest)] == [*guids, GOOD]
