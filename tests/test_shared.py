"""The cache in Redis, beyond the store's contract: the protocol, step by step, and every way to lose Redis."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis
import uvloop

from guidsvc.cache.link import TIMEOUT, open_link
from guidsvc.cache.shared import ENTRY_MS, MARKER_MS, SharedCache
from guidsvc.errors import CacheUnavailable, OutcomeUnknown, StartError, StoreUnavailable
from guidsvc.models import Record
from tests.conftest import ExpectedLogs, FakeClock
from tests.gated import GatedStore, turns
from tests.records import GUID, record
from tests.servers import Server, redis_server

DOWN = "cache is down"
NAME = "gated"


@pytest.fixture
async def gated() -> GatedStore:
    return GatedStore()


@pytest.fixture
def raw(own_redis: Server) -> redis.Redis:
    """A client of the test's own, on the Redis that the cache uses."""
    return redis.Redis(port=own_redis.port)


@pytest.fixture
async def caches(own_redis: Server, gated: GatedStore, clock: FakeClock) -> AsyncIterator[list[SharedCache]]:
    """Two caches on one Redis and one store, as two processes have them."""
    async with AsyncExitStack() as stack:
        url = f"redis://127.0.0.1:{own_redis.port}"
        links = [await stack.enter_async_context(open_link(url, name=NAME)) for _ in range(2)]
        yield [SharedCache(gated, link, clock=clock) for link in links]


@pytest.fixture
def cache(caches: list[SharedCache]) -> SharedCache:
    return caches[0]


async def until_up(cache: SharedCache) -> None:
    """Return when the cache answers again."""
    while True:
        try:
            return await cache.check()
        except CacheUnavailable:
            await asyncio.sleep(0)


async def begun(
    cache: SharedCache, gated: GatedStore, old: Record, new: Record | None
) -> tuple[asyncio.Task[bool], asyncio.Event]:
    """Begin a write; return it when it has come to the store, and the gate that lets it go on there."""
    gated.swap_gates.append(gate := asyncio.Event())
    writer = asyncio.create_task(cache.swap(old, new))
    while gated.swap_gates:
        await asyncio.sleep(0)
    return writer, gate


def entry(raw: redis.Redis, kind: str = "v") -> str:
    """Return the name under which the value (v) or the markers (w) of GUID are in Redis now."""
    boot = raw.get(f"gs:{NAME}:ctl")
    assert isinstance(boot, bytes)
    return f"gs:{NAME}:{boot.decode()}:{kind}:{GUID}"


async def test_a_record_that_was_read_is_served_to_every_process_without_asking_the_store(
    caches: list[SharedCache], gated: GatedStore, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock(), metadata='{"a":1}')

    assert [await cache.get(GUID) for cache in [*caches, *caches]] == [gated.records[GUID]] * 4
    assert gated.gets == 1


async def test_nothing_negative_is_cached(cache: SharedCache, gated: GatedStore, clock: FakeClock) -> None:
    assert await cache.get(GUID) is None
    gated.records[GUID] = record(clock())

    assert await cache.get(GUID) == gated.records[GUID]


async def test_an_entry_lives_no_longer_than_its_record(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock(), expire=clock.seconds + 50)
    await cache.get(GUID)

    assert 40_000 < int(raw.pttl(entry(raw))) <= 50_000


async def test_no_entry_lives_longer_than_a_day(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock(), expire=clock.seconds + 9 * 86400)
    await cache.get(GUID)

    assert int(raw.pttl(entry(raw))) <= ENTRY_MS


async def test_an_expired_record_is_not_cached(cache: SharedCache, gated: GatedStore, clock: FakeClock) -> None:
    gated.records[GUID] = record(clock(), expire=clock.seconds)

    await cache.get(GUID)
    await cache.get(GUID)
    assert gated.gets == 2
    await cache.check()


async def test_while_one_fills_the_others_ask_the_store_and_leave_it_its_token(
    caches: list[SharedCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    gated.open.clear()
    first = asyncio.create_task(caches[0].get(GUID))
    while gated.gets < 1:
        await asyncio.sleep(0)
    token = raw.get(entry(raw))
    others = [asyncio.create_task(cache.get(GUID)) for cache in caches]
    while gated.gets < 3:
        await asyncio.sleep(0)
    assert raw.get(entry(raw)) == token
    gated.open.set()

    assert await asyncio.gather(first, *others) == [gated.records[GUID]] * 3


async def test_a_write_by_one_process_is_seen_by_the_next_read_of_another(
    caches: list[SharedCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    await caches[1].get(GUID)

    assert await caches[0].swap(old, new)
    assert await caches[1].get(GUID) == new


async def test_a_read_that_began_before_a_write_never_fills_the_cache_after_it(
    caches: list[SharedCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    gated.open.clear()
    gated.swap_gates = [gate := asyncio.Event()]
    gate.set()
    reader = asyncio.create_task(caches[1].get(GUID))
    while not gated.gets:
        await asyncio.sleep(0)
    assert await caches[0].swap(old, new)
    gated.open.set()
    assert await reader == old, "it began before the write"

    assert await caches[1].get(GUID) == new


async def test_while_a_write_is_under_way_readers_ask_the_store_and_fill_nothing(
    caches: list[SharedCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    writer, gate = await begun(caches[0], gated, old, record(clock(), version=clock() + 1))

    assert [await caches[1].get(GUID) for _ in range(3)] == [old] * 3
    assert gated.gets == 3
    gate.set()
    assert await writer


async def test_a_read_that_began_during_a_write_never_fills_the_cache_after_it(
    caches: list[SharedCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    writer, gate = await begun(caches[0], gated, old, new)
    gated.open.clear()
    reader = asyncio.create_task(caches[1].get(GUID))
    while not gated.gets:
        await asyncio.sleep(0)
    gate.set()
    await writer
    gated.open.set()
    assert await reader == old, "it began before the write was acknowledged"

    assert await caches[1].get(GUID) == new


async def test_the_end_of_one_write_leaves_the_marker_of_another(
    caches: list[SharedCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    first, first_gate = await begun(caches[0], gated, old, record(clock(), version=clock() + 1))
    second, second_gate = await begun(caches[1], gated, old, record(clock(), version=clock() + 2))
    first_gate.set()
    await first

    gated.gets = 0
    await caches[0].get(GUID)
    await caches[0].get(GUID)
    assert gated.gets == 2, "nothing is filled while the second is under way"
    second_gate.set()
    await second


async def test_a_write_that_changed_nothing_leaves_the_key_to_be_cached_again(
    cache: SharedCache, gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.fault = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await cache.swap(old, None)
    gated.fault = None

    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 1


async def test_a_write_that_lost_its_race_leaves_the_key_to_be_cached_again(
    cache: SharedCache, gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.loses = True

    assert not await cache.swap(old, None)
    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 1


async def test_after_a_write_of_unknown_outcome_nothing_is_filled(
    caches: list[SharedCache], gated: GatedStore, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.fault = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await caches[0].swap(old, None)
    gated.fault = None
    assert await caches[1].get(GUID) == old

    gated.records.clear()  # the write lands after all
    assert await caches[1].get(GUID) is None


async def test_after_a_write_of_unknown_outcome_the_key_is_kept_out_long_after_its_marker_would_have_died(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    gated.fault = OutcomeUnknown("no answer")
    with pytest.raises(OutcomeUnknown):
        await cache.swap(old, None)
    gated.fault = None

    while int(raw.pttl(entry(raw, "w"))) <= MARKER_MS:
        await asyncio.sleep(0)
    gated.fault = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await cache.swap(old, None)
    gated.fault = None
    assert int(raw.pttl(entry(raw, "w"))) > MARKER_MS, "another write does not shorten it"
    assert await cache.get(GUID) == old
    assert raw.get(entry(raw)) is None


async def test_a_key_that_could_not_be_kept_out_is_as_soon_as_redis_is_there_again(
    cache: SharedCache, own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    writer, gate = await begun(cache, gated, old, record(clock(), version=clock() + 1))
    own_redis.kill()
    gate.set()
    with pytest.raises(OutcomeUnknown):
        await writer
    own_redis.start()
    raw = redis.Redis(port=own_redis.port)
    while raw.get(f"gs:{NAME}:ctl") is None or int(raw.pttl(entry(raw, "w"))) <= MARKER_MS:
        await asyncio.sleep(0)
    assert await cache.get(GUID) == gated.records[GUID]


async def test_two_stores_in_one_redis_are_kept_apart(own_redis: Server, clock: FakeClock) -> None:
    async with AsyncExitStack() as stack:
        caches, stores = [], [GatedStore(), GatedStore()]
        for name, store in zip(("one", "another"), stores, strict=True):
            link = await stack.enter_async_context(open_link(f"redis://127.0.0.1:{own_redis.port}", name=name))
            caches.append(SharedCache(store, link, clock=clock))
        stores[0].records[GUID] = record(clock())

        assert [await caches[0].get(GUID) for _ in range(2)] == [stores[0].records[GUID]] * 2
        assert await caches[1].get(GUID) is None
        assert await caches[0].get(GUID) == stores[0].records[GUID]
        assert stores[0].gets == 1, "neither drove the other's boot out"


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_answer_that_came_while_our_own_loop_was_busy_is_taken(
    own_redis: Server, clock: FakeClock, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        async with open_link(f"redis://127.0.0.1:{own_redis.port}", name=NAME) as link:
            gated = GatedStore()
            cache = SharedCache(gated, link, clock=clock)
            gated.records[GUID] = record(clock(), metadata=json.dumps({"a": "x" * 16_000}))
            await cache.get(GUID)
            for _ in range(5):
                own_redis.pause()
                reads = [asyncio.create_task(cache.get(GUID)) for _ in range(50)]
                await turns(10)  # in which the question goes out
                own_redis.resume()
                busy_until = time.monotonic() + 2 * TIMEOUT
                while time.monotonic() < busy_until:
                    pass
                assert await asyncio.gather(*reads) == [gated.records[GUID]] * 50
            assert gated.gets == 1
            await cache.check()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("loss", ["flush", "marker lost", "marker dead"])
async def test_when_redis_forgets_in_the_middle_of_a_write_what_was_filled_meanwhile_is_taken_out_again(
    caches: list[SharedCache], gated: GatedStore, raw: redis.Redis, clock: FakeClock, loss: str
) -> None:
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    writer, gate = await begun(caches[0], gated, old, new)
    if loss == "flush":
        raw.flushall()
    elif loss == "marker lost":
        raw.delete(entry(raw, "w"))
    else:
        (marker,) = raw.zrange(entry(raw, "w"), 0, -1)
        assert isinstance(marker, bytes)
        raw.zadd(entry(raw, "w"), {marker: 1})
    await caches[1].get(GUID)
    gated.gets = 0
    assert await caches[1].get(GUID) == old
    assert gated.gets == 0, "the old record was filled in again"

    gate.set()
    assert await writer
    assert [await cache.get(GUID) for cache in caches] == [new, new]


async def test_a_write_is_refused_and_changes_nothing_while_redis_is_dead(
    cache: SharedCache, own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    own_redis.kill()

    with pytest.raises(CacheUnavailable):
        await cache.swap(old, None)
    assert gated.records[GUID] == old


async def test_a_write_whose_end_cannot_be_made_sure_is_of_unknown_outcome(
    cache: SharedCache, own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    writer, gate = await begun(cache, gated, old, record(clock(), version=clock() + 1))
    own_redis.kill()
    gate.set()

    with pytest.raises(OutcomeUnknown):
        await writer


async def test_a_redis_that_died_and_came_back_within_a_write_is_made_sure_of_and_the_write_acknowledged(
    caches: list[SharedCache], own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    writer, gate = await begun(caches[0], gated, old, new)
    own_redis.kill()
    own_redis.start()
    await caches[1].get(GUID)
    await until_up(caches[1])
    assert await caches[1].get(GUID) == old, "filled in under the new boot"
    gate.set()

    assert await writer
    assert await caches[1].get(GUID) == new


async def test_a_silent_redis_costs_one_time_out_and_then_nothing_until_it_answers_again(
    cache: SharedCache, own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    gated.records[GUID] = record(clock())
    await cache.get(GUID)
    own_redis.pause()
    started = time.monotonic()
    assert await cache.get(GUID) == gated.records[GUID]
    assert time.monotonic() - started < 2, "far from the time-outs of the driver"
    with pytest.raises(CacheUnavailable):
        await cache.check()
    gated.gets = 0
    assert [await cache.get(GUID) for _ in range(1000)] == [gated.records[GUID]] * 1000
    assert gated.gets == 1000, "the circuit is open: nobody waits for Redis"

    own_redis.resume()
    await until_up(cache)
    gated.gets = 0
    await cache.get(GUID)
    await cache.get(GUID)
    assert gated.gets <= 1


async def test_what_redis_restores_from_disk_is_never_served(
    gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs, tmp_path: Path
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    with redis_server(tmp_path) as server:
        async with open_link(f"redis://127.0.0.1:{server.port}", name=NAME) as link:
            cache = SharedCache(gated, link, clock=clock)
            await cache.get(GUID)
            raw = redis.Redis(port=server.port)
            raw.save()
            await cache.swap(old, new)
            server.kill()
            server.start()
            assert any(GUID.encode() in key for key in raw.keys("*")), "the snapshot holds the old record"
            await cache.get(GUID)
            await until_up(cache)

            assert await cache.get(GUID) == new


async def test_a_marker_that_redis_restores_from_disk_is_not_taken_for_one_that_stood(
    gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs, tmp_path: Path
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    new = record(clock(), version=clock() + 1)
    gated.swap_gates = [gate := asyncio.Event()]
    with redis_server(tmp_path) as server:
        url = f"redis://127.0.0.1:{server.port}"
        async with open_link(url, name=NAME) as one, open_link(url, name=NAME) as another:
            caches = [SharedCache(gated, link, clock=clock) for link in (one, another)]
            writer = asyncio.create_task(caches[0].swap(old, new))
            while gated.swap_gates:
                await asyncio.sleep(0)
            redis.Redis(port=server.port).save()
            server.kill()
            server.start()
            for cache in caches:
                await cache.get("0" * 32)  # whereby it finds that its connection is gone
                await until_up(cache)
            await caches[1].get(GUID)
            assert await caches[1].get(GUID) == old, "filled in under the new boot"
            gate.set()

            assert await writer
            assert await caches[1].get(GUID) == new


@pytest.mark.parametrize("value", [b"R", b"Rgarbage", b'R{"guid": 1}', b"R[]"])
async def test_an_entry_that_is_no_record_is_taken_out_and_the_store_asked(
    cache: SharedCache,
    gated: GatedStore,
    raw: redis.Redis,
    clock: FakeClock,
    expected_logs: ExpectedLogs,
    value: bytes,
) -> None:
    expected_logs.add("corrupt cache entry")
    gated.records[GUID] = record(clock())
    raw.set(entry(raw), value)

    assert await cache.get(GUID) == gated.records[GUID]
    assert raw.get(entry(raw)) is None
    gated.gets = 0
    await cache.get(GUID)
    await cache.get(GUID)
    assert gated.gets == 1, "and it is cached again"


async def test_an_entry_of_another_guid_is_not_served(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("corrupt cache entry")
    gated.records[GUID] = record(clock())
    raw.set(entry(raw), b"R" + record(clock(), guid="0" * 32).model_dump_json().encode())

    assert await cache.get(GUID) == gated.records[GUID]


async def test_a_connection_that_redis_closed_costs_a_write_nothing(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    raw.client_kill_filter(_type="normal", skipme=True)

    assert await cache.swap(old, record(clock(), version=clock() + 1))


async def test_scripts_that_redis_forgot_are_loaded_again(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    raw.script_flush()

    assert await cache.swap(old, record(clock(), version=clock() + 1))


async def test_a_redis_that_is_not_there_at_the_start_is_taken_up_when_it_comes(
    own_redis: Server, gated: GatedStore, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    own_redis.kill()
    gated.records[GUID] = record(clock())
    async with open_link(f"redis://127.0.0.1:{own_redis.port}", name=NAME) as link:
        cache = SharedCache(gated, link, clock=clock)
        assert await cache.get(GUID) == gated.records[GUID]
        own_redis.start()
        await until_up(cache)
        await cache.get(GUID)
        gated.gets = 0
        await cache.get(GUID)
        assert gated.gets == 0


async def test_a_redis_that_is_full_fills_nothing_and_keeps_its_promise_to_writes(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    old = gated.records[GUID] = record(clock())
    raw.config_set("maxmemory", 1)

    assert [await cache.get(GUID) for _ in range(2)] == [old, old]
    assert gated.gets == 2
    assert await cache.swap(old, new := record(clock(), version=clock() + 1))
    await cache.check()
    raw.config_set("maxmemory", 0)
    assert [await cache.get(GUID) for _ in range(2)] == [new, new]
    assert gated.gets == 3


async def test_a_redis_that_answers_and_refuses_to_write_is_asked_ever_more_rarely(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    raw.config_set("min-replicas-to-write", 1)
    before = int(raw.info("stats")["total_connections_received"])
    with pytest.raises(CacheUnavailable):
        await cache.swap(old, None)
    assert await cache.get(GUID) == old
    assert int(raw.info("stats")["total_connections_received"]) - before < 10

    raw.config_set("min-replicas-to-write", 0)
    while True:
        try:
            assert await cache.swap(old, None)
            break
        except CacheUnavailable:
            await asyncio.sleep(0)


async def test_a_redis_that_is_full_and_has_lost_its_boot_is_down_until_it_has_room(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(DOWN)
    old = gated.records[GUID] = record(clock())
    raw.config_set("maxmemory", 1)
    raw.delete(f"gs:{NAME}:ctl")

    assert await cache.get(GUID) == old
    with pytest.raises(CacheUnavailable):
        await cache.swap(old, None)
    raw.config_set("maxmemory", 0)
    await until_up(cache)
    assert await cache.swap(old, None)


@pytest.mark.parametrize(
    "url", ["redis://host:port", "redis://h/0?socket_timeout=x", "redis://h/0?foo=bar", "redis://h/abc"]
)
async def test_a_url_that_makes_no_sense_stops_the_start(url: str) -> None:
    with pytest.raises(StartError, match="cache_url"):
        async with open_link(url, name=NAME):
            await turns()


async def test_a_value_under_a_boot_that_is_over_is_not_served(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    gated.records[GUID] = record(clock())
    await cache.get(GUID)
    assert raw.exists(entry(raw))
    raw.set(f"gs:{NAME}:ctl", "another.boot")
    gated.records[GUID] = record(clock(), user="another", version=clock() + 1)

    assert await cache.get(GUID) == gated.records[GUID]
    assert raw.exists(entry(raw))  # under the new one


async def test_many_are_read_in_one_step(
    cache: SharedCache, gated: GatedStore, raw: redis.Redis, clock: FakeClock
) -> None:
    guids = [f"{number:032X}" for number in range(20)]
    for guid in guids:
        gated.records[guid] = record(clock(), guid=guid)
        await cache.get(guid)
    before = raw.info("commandstats")["cmdstat_mget"]["calls"]

    assert await asyncio.gather(*map(cache.get, guids)) == list(gated.records.values())
    assert raw.info("commandstats")["cmdstat_mget"]["calls"] == before + 1
    assert gated.gets == 20
