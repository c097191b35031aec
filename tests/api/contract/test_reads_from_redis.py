"""Plain reads that Redis answers, without a task and without an admission slot of their own."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from guidsvc.runtime.admission import Admission
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.backing_servers import Server
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up
from tests.support.metrics import scrape, until_cached, value
from tests.support.redis_cache import DOWN

PATH = f"/guid/{GUID}"
RAW = f"GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


@pytest.fixture
async def client(serving: Serving, own_redis: Server) -> AsyncIterator[Client]:
    """A client of a service whose reads all go to Redis, which has GUID."""
    async with serving(cache_url=f"redis://127.0.0.1:{own_redis.port}/0", cache_size=0) as client:
        await until_cached(client)
        await client.put(PATH, {"user": USER, "ttl": 3600})
        await until_from_redis(client)
        yield client


async def hits(client: Client) -> float:
    """Return how many reads Redis has answered."""
    return value(await scrape(client), "guidsvc_cache_reads_total", level="redis")


async def until_from_redis(client: Client) -> None:
    """Read until Redis answers: the fill of the first read is done in the background."""
    before = await hits(client)
    while await hits(client) == before:
        assert (await client.get(PATH)).status == 200


async def test_response_equals_that_of_a_handler(client: Client) -> None:
    before = await hits(client)
    fast = [await client.get(PATH) for _ in range(3)]
    assert await hits(client) == before + 3
    full = await client.get(PATH + "?view=full")  # only a handler serves it
    by_handler = await client.get(PATH, headers={"If-None-Match": '"x"'})

    for reply in fast:
        assert (reply.status, reply.body) == (200, by_handler.body)
        names = dict(reply.headers.get_all()).keys()
        assert names == dict(by_handler.headers.get_all()).keys()
        assert reply.headers["ETag"] == full.headers["ETag"]
    assert len({reply.headers["X-Request-ID"] for reply in fast}) == 3


async def test_read_from_redis_takes_no_admission_slot(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    take = Admission._take_free

    def count(admission: Admission, scope: object) -> bool:
        taken.append(scope)
        return take(admission, scope)  # type: ignore[arg-type]  # a scope

    monkeypatch.setattr(Admission, "_take_free", count)
    assert [(await client.get(PATH)).status for _ in range(10)] == [200] * 10
    assert taken == []
    assert (await client.get(f"/guid/{'F' * 32}")).status == 404
    assert len(taken) == 1, "an absent record is read from the store"


async def test_expired_and_deleted_records_are_not_served(client: Client, clock: FakeClock) -> None:
    clock.advance(seconds=3600)
    assert (await client.get(PATH)).status == 410
    await client.put(PATH, {"user": "b", "ttl": 3600})
    await until_from_redis(client)
    assert json.loads((await client.get(PATH)).body)["user"] == "b"
    await client.delete(PATH)
    assert [(await client.get(PATH)).status for _ in range(3)] == [404] * 3


async def test_reads_and_writes_are_seen_in_order(client: Client) -> None:
    for number in range(20):
        await client.put(PATH, {"user": f"user {number}"})
        replies = await asyncio.gather(*(client.get(PATH) for _ in range(20)))
        assert {json.loads(reply.body)["user"] for reply in replies} == {f"user {number}"}


async def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    other = RAW.replace(GUID.encode(), b"F" * 32)
    writer.write(RAW + other + RAW + other + RAW.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    answer = await reader.read(-1)
    await hang_up(writer)

    statuses = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert statuses == [b"200", b"404", b"200", b"404", b"200"]


async def test_silent_redis_delays_a_read_until_its_time_limit(
    client: Client, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    own_redis.pause()
    replies = await asyncio.gather(*(client.get(PATH) for _ in range(20)))
    own_redis.resume()

    assert [reply.status for reply in replies] == [200] * 20, "from the store"


async def test_client_may_disconnect_before_redis_answers(
    client: Client, own_redis: Server, expected_logs: ExpectedLogs
) -> None:
    """Neither the other requests nor the shutdown wait for it."""
    expected_logs.add(DOWN)
    own_redis.pause()
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(RAW)
        await hang_up(writer)
    own_redis.resume()

    assert (await client.get(PATH)).status == 200
