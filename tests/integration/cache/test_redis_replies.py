"""Replies of Redis that are not those of its requests: the link breaks, and nothing but the store is asked."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from guidsvc.cache.redis.cache import RedisCache
from guidsvc.cache.redis.counters import open_counters
from guidsvc.cache.redis.probe import probe_redis
from guidsvc.cache.redis.reply_parser import MAX_BYTES
from guidsvc.errors import CacheUnavailable, StartError
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.backing_servers import Server
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore
from tests.support.http_client import hang_up
from tests.support.redis_cache import DOWN, OFF, open_cache, wait_until_on
from tests.support.redis_counters import PATIENT, until_up
from tests.support.stream_server import copy_stream, stream_server

WAIT_SECONDS = 20.0
COLLECTION_SECONDS = 2.0
"""Far more than a collection takes without an array of a billion items, of which it would take 12 s."""
BAD_REPLIES = {
    "text": b"+OK\r\n",
    "number": b":5\r\n",
    "bytes": b"$3\r\nabc\r\n",
    "no items": b"*0\r\n",
    "a number in an array": b"*1\r\n:5\r\n",
    "an error in an array": b"*1\r\n-ERR x\r\n",
    "null in an array": b"*1\r\n$-1\r\n",
    "an array in an array": b"*1\r\n*1\r\n$1\r\nR\r\n",
    "more items than keys": b"*2\r\n$1\r\nT\r\n$1\r\nT\r\n",
    "true": b"#t\r\n",
    "not a number": b",nan\r\n",
    "pushed data": b">1\r\n+a\r\n",
    "no protocol": b"HTTP/1.1 400\r\n\r\n",
}


class ReplyProxy:
    """Forwards to a Redis, and replaces each reply to a script by `reply` while it is set."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.reply: bytes | None = None
        self.replaced = 0
        self._upstream = upstream

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        answers = asyncio.create_task(copy_stream(upstream_reader, writer))
        try:
            with suppress(OSError):
                while request := await reader.read(65_536):
                    if self.reply is not None and b"EVALSHA" in request:
                        self.replaced += 1
                        writer.write(self.reply)
                    else:
                        upstream.write(request)
        finally:
            await hang_up(upstream)
            await answers


@pytest.fixture
async def replies(own_redis: Server) -> AsyncIterator[ReplyProxy]:
    proxy = ReplyProxy(own_redis.port)
    async with stream_server(proxy.serve) as proxy.port:
        yield proxy


@pytest.fixture
def gated() -> GatedStore:
    return GatedStore()


@pytest.fixture
async def cache(replies: ReplyProxy, gated: GatedStore, clock: FakeClock) -> AsyncIterator[RedisCache]:
    """A cache that uses Redis through the proxy."""
    async with open_cache(replies.port, gated, clock) as opened:
        await wait_until_on(opened)
        yield opened


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES)
async def test_wrong_reply_breaks_the_link_and_the_store_answers(
    cache: RedisCache,
    replies: ReplyProxy,
    gated: GatedStore,
    clock: FakeClock,
    expected_logs: ExpectedLogs,
    reply: bytes,
) -> None:
    expected_logs.add(DOWN, OFF)
    old, new = record(clock(), user="old"), record(clock() + 1, user="new")
    gated.records[GUID] = old
    replies.reply = reply

    assert await cache.get(GUID) == old
    assert replies.replaced
    assert cache._link.up_since is None, "the link must break: later replies would not be those of their requests"
    async with asyncio.timeout(WAIT_SECONDS):
        assert await cache.swap(old, new)
    assert await cache.get(GUID) == new

    replies.reply = None
    await wait_until_on(cache)
    assert await cache.get(GUID) == new


async def test_announced_items_take_no_memory(
    cache: RedisCache, replies: ReplyProxy, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN, OFF)
    gated.records[GUID] = record(clock())
    replies.reply = b"*1000000000\r\n"

    assert await cache.get(GUID) == gated.records[GUID]
    begun = time.process_time()
    gc.collect()
    assert time.process_time() - begun < COLLECTION_SECONDS


async def test_reply_too_many_is_not_taken_as_the_next_one(
    cache: RedisCache, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    """A proxy has delivered a reply twice. The second may hold a record that was changed since."""
    expected_logs.add(DOWN, OFF)
    gated.records[GUID] = new = record(clock() + 1, user="new")
    old = b"R" + record(clock(), user="old").model_dump_json().encode()
    connection = cache._link._connection
    assert connection is not None
    connection._reader.feed_data(b"*1\r\n$%d\r\n%b\r\n" % (len(old), old))  # type: ignore[union-attr]

    assert await cache.get(GUID) == new
    assert cache._link.up_since is None


async def test_redis_without_memory_for_a_read_is_left_out(
    cache: RedisCache, replies: ReplyProxy, gated: GatedStore, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    replies.reply = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"

    assert await cache.get(GUID) == gated.records[GUID]
    assert replies.replaced
    replies.reply = None


@pytest.mark.parametrize("reply", [b"$500000000\r\n", b"+"], ids=["announced", "without end"])
async def test_endless_text_takes_little_memory(reply: bytes) -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(65_536)
        writer.write(reply)
        with suppress(OSError):
            while sent < 4 * MAX_BYTES:
                writer.write(b"x" * 65_536)
                sent += 65_536
                await writer.drain()

    async with stream_server(answer) as port:
        with pytest.raises(StartError, match="does not speak the Redis protocol"):
            await probe_redis(f"redis://127.0.0.1:{port}/0")
    assert sent < 4 * MAX_BYTES


@pytest.mark.parametrize("name", sorted(BAD_REPLIES.keys() - {"pushed data"}))
async def test_wrong_count_makes_the_counters_unavailable(replies: ReplyProxy, name: str) -> None:
    url = f"redis://127.0.0.1:{replies.port}"
    async with open_counters(url, timeout_seconds=PATIENT, probe_seconds=0.01) as counters:
        assert counters is not None
        assert await counters.add("a", 7, 60) == 7
        replies.reply = BAD_REPLIES[name]

        with pytest.raises(CacheUnavailable):
            await counters.add("a", 7, 60)
        replies.reply = None
        await until_up(counters)
        assert await counters.add("a", 1, 60) == 8


async def test_wrong_reply_to_info_is_refused() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(b":1000000000000\r\n" * 20)

    async with stream_server(answer) as port:
        with pytest.raises(StartError, match="does not speak the Redis protocol"):
            await probe_redis(f"redis://127.0.0.1:{port}/0")
