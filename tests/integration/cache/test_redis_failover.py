"""A Redis whose memory reverts while it runs, after changes of its role or a reload."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path

import pytest
import redis

from guidsvc.cache.redis.cache import RedisCache
from guidsvc.cache.redis.link import RedisLink, open_link
from guidsvc.cache.redis.lua_scripts import BEGIN, END, FILL
from guidsvc.domain.record import Record
from guidsvc.errors import CacheUnavailable
from guidsvc.store.cache_fence import Mode
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.backing_servers import START_SECONDS, redis_server
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore
from tests.support.redis_cache import DOWN, NAME, OFF, TIMING, open_cache, wait_until_idle, wait_until_on

Client = redis.Redis
Switch = Callable[[Client, Client], Coroutine[None, None, None]]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Client, Client]]:
    """A Redis and its replica."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    options = ["--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"]
    with redis_server(folders[0], *options) as first, redis_server(folders[1], *options) as second:
        clients = redis.Redis(port=first.port), redis.Redis(port=second.port)
        follow(clients[1], clients[0])
        yield clients


def port_of(client: Client) -> int:
    port: int = client.connection_pool.connection_kwargs["port"]
    return port


def follow(replica: Client, master: Client) -> None:
    """Make the first a replica of the second; return once it has all data."""
    replica.replicaof("127.0.0.1", port_of(master))
    until(lambda: replica.info("replication").get("master_link_status") == "up")


def run(client: Client, *command: str) -> None:
    """Run a command that the client has no method for."""
    client.execute_command(*command)  # type: ignore[no-untyped-call]


def lead(client: Client) -> None:
    """Make it a master."""
    client.replicaof("NO", "ONE")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, without blocking the loop."""
    async with asyncio.timeout(START_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def replicate_and_return(first: Client, second: Client) -> None:
    """Make the first a replica of the second, and a master again."""
    await asyncio.to_thread(follow, first, second)
    await asyncio.to_thread(lead, first)


@pytest.fixture
async def link(pair: tuple[Client, Client]) -> AsyncIterator[RedisLink]:
    async with open_link(f"redis://127.0.0.1:{port_of(pair[0])}", name=NAME, timing=TIMING) as opened_link:
        yield opened_link


async def test_scripts_reject_memory_of_another_history(link: RedisLink, pair: tuple[Client, Client]) -> None:
    first, second = pair
    epoch = (await link.begin_epoch(1)).name
    token = (await link.read(GUID, epoch)).token
    assert (await link.call(FILL, GUID, token, "record", 60_000, link.me, 1, epoch=epoch)).value == 1
    await eventually(lambda: second.keys("*:v:*") != [])
    lead(second)

    await replicate_and_return(first, second)

    assert first.keys("*:v:*") != [], "the former data is back"
    assert (await link.read(GUID, epoch)).value is None, "rejected at once, without a later check"
    fill = await link.call(FILL, GUID, token, "record", 60_000, link.me, 1, epoch=epoch)
    begin = await link.call(BEGIN, GUID, "marker", 10_000, link.me, 1_000, epoch=epoch)
    end = await link.call(END, GUID, "marker", epoch=epoch)
    assert (fill.value, begin.value, end.value) == (None, None, None)
    assert await link.epoch_lost(epoch)
    assert (await link.begin_epoch(1)).name != epoch, "a new epoch of the same generation"


async def test_replica_is_not_used_as_a_cache(
    link: RedisLink, pair: tuple[Client, Client], expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    first, second = pair
    epoch = (await link.begin_epoch(1)).name
    lead(second)
    follow(first, second)

    assert (await link.read(GUID, epoch)).value is None
    with pytest.raises(CacheUnavailable, match="replica"):
        await link.begin_epoch(2)
    await eventually(lambda: link.up_since is None)

    lead(first)
    await link.wait_up(START_SECONDS)
    assert (await link.begin_epoch(2)).gen == 2


async def replicaof(first: Client, second: Client) -> None:
    """Cut the replica off with its current data; later writes are lost in the switch."""
    await asyncio.to_thread(lead, second)


async def failover(first: Client, second: Client) -> None:
    """Swap the roles, as in a planned failover."""
    run(first, "FAILOVER", "TO", "127.0.0.1", str(port_of(second)))
    await asyncio.to_thread(until, lambda: second.info("replication")["role"] == "master")
    await asyncio.to_thread(until, lambda: first.info("replication").get("master_link_status") == "up")


async def failover_back(first: Client, second: Client) -> None:
    await failover(second, first)


@pytest.mark.parametrize(("away", "back"), [(replicaof, replicate_and_return), (failover, failover_back)])
async def test_write_is_read_after_a_failover_and_back(  # its fixtures
    pair: tuple[Client, Client],
    gated: GatedStore,
    clock: FakeClock,
    expected_logs: ExpectedLogs,
    away: Switch,
    back: Switch,
) -> None:
    expected_logs.add(DOWN, OFF)
    first, second = pair
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    async with (
        open_cache(port_of(first), gated, clock) as first_cache,
        open_cache(port_of(first), gated, clock) as second_cache,
    ):
        await wait_until_on(first_cache, second_cache)
        await first_cache.get(GUID)
        await wait_until_idle(first_cache)
        await eventually(lambda: second.keys("*:v:*") != [])
        await away(first, second)
        assert await first_cache.swap(old, new)
        epoch = gated.current_fence.epoch

        async with asyncio.TaskGroup() as group:
            switch = group.create_task(back(first, second))
            while not switch.done() or gated.current_fence.epoch == epoch or gated.current_fence.mode is not Mode.ON:
                assert [await cache.get(GUID) for cache in (first_cache, second_cache)] == [new, new]
                await asyncio.sleep(0.001)

        await wait_until_on(first_cache, second_cache)
        assert [await cache.get(GUID) for cache in (first_cache, second_cache)] == [new, new]


async def read_until(cache: RedisCache, expected: Record) -> None:
    """Read until the result is this record."""
    async with asyncio.timeout(START_SECONDS):
        while await cache.get(GUID) != expected:
            await asyncio.sleep(0.001)


async def test_memory_that_went_back_is_found_at_the_next_check(
    pair: tuple[Client, Client], gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(OFF)
    first, _ = pair
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    async with open_cache(port_of(first), gated, clock) as cache:
        await wait_until_on(cache)
        await cache.get(GUID)
        await wait_until_idle(cache)
        first.save()
        assert await cache.swap(old, new)
        fence_before = gated.current_fence
        run(first, "DEBUG", "RELOAD", "NOSAVE")

        await read_until(cache, new)
        await eventually(lambda: gated.current_fence.gen > fence_before.gen and gated.current_fence.mode is Mode.ON)
        assert await cache.get(GUID) == new


async def test_unchanged_memory_is_used_after_a_reload(
    pair: tuple[Client, Client], gated: GatedStore, clock: FakeClock
) -> None:
    first, _ = pair
    gated.records[GUID] = record(clock())
    async with open_cache(port_of(first), gated, clock) as cache:
        await wait_until_on(cache)
        await cache.get(GUID)
        await wait_until_idle(cache)
        fence_before = gated.current_fence
        run(first, "DEBUG", "RELOAD")

        assert not await cache._link.epoch_lost(fence_before.epoch)
        gated.gets = 0
        assert await cache.get(GUID) == gated.records[GUID]
        assert (gated.gets, gated.current_fence) == (0, fence_before)


@pytest.fixture
async def gated() -> GatedStore:
    return GatedStore()
