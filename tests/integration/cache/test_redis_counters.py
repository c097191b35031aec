"""Counters in Redis: shared, expiring, and failing at once while Redis is down."""

import asyncio
from pathlib import Path

import pytest
import redis

from guidsvc.cache.redis.counters import open_counters
from guidsvc.cache.redis.pool import reason
from guidsvc.errors import CacheUnavailable, StartError
from tests.conftest import ExpectedLogs
from tests.support.backing_servers import Server, free_port, redis_server
from tests.support.redis_counters import DOWN, PATIENT, until_up


async def test_counts_are_shared_by_processes(redis_url: str) -> None:
    async with (
        open_counters(redis_url, timeout_seconds=PATIENT) as first,
        open_counters(redis_url, timeout_seconds=PATIENT) as second,
    ):
        assert first is not None
        assert second is not None

        assert await first.add("a", 3, 60) == 3
        assert await second.add("a", 4, 60) == 7
        assert await second.add("b", 1, 60) == 1


async def test_count_expires_after_its_window(redis_url: str) -> None:
    async with open_counters(redis_url, timeout_seconds=PATIENT) as counters:
        assert counters is not None
        await counters.add("a", 3, 60)
        await counters.add("a", 3, 60)

    with redis.Redis.from_url(redis_url) as raw:
        counter, part = sorted(raw.keys())
        assert counter == b"gs:limit:a"
        assert part.startswith(b"gs:limit:a:")
        assert all(50_000 < int(raw.pttl(each)) <= 60_000 for each in (counter, part))


async def test_local_cache_has_no_shared_counters() -> None:
    async with open_counters("memory://") as counters:
        assert counters is None


async def test_malformed_url_stops_the_start() -> None:
    with pytest.raises(StartError, match="cache_url"):
        async with open_counters("redis://127.0.0.1/nonsense"):
            pass


async def test_counters_open_without_redis_and_connect_later(tmp_path: Path, own_redis: Server) -> None:
    own_redis.kill()
    async with open_counters(
        f"redis://127.0.0.1:{own_redis.port}", timeout_seconds=PATIENT, probe_seconds=0.01
    ) as counters:
        assert counters is not None
        with pytest.raises(CacheUnavailable):
            await counters.add("a", 1, 60)
        own_redis.start()
        await until_up(counters)
        assert await counters.add("a", 1, 60) == 1


async def test_dead_redis_fails_at_once_and_is_used_again_later(own_redis: Server) -> None:
    async with open_counters(
        f"redis://127.0.0.1:{own_redis.port}", timeout_seconds=PATIENT, probe_seconds=0.01
    ) as counters:
        assert counters is not None
        await counters.add("a", 1, 60)
        own_redis.kill()
        for _ in range(2):
            with pytest.raises(CacheUnavailable):
                await counters.add("a", 1, 60)
        own_redis.start()
        await until_up(counters)
        assert await counters.add("a", 1, 60) == 1


async def test_silent_redis_is_waited_for_once(own_redis: Server) -> None:
    async with open_counters(
        f"redis://127.0.0.1:{own_redis.port}", timeout_seconds=PATIENT, probe_seconds=0.01
    ) as counters:
        assert counters is not None
        await counters.add("a", 1, 60)
        own_redis.pause()
        counters._timeout_seconds = 0.05
        with pytest.raises(CacheUnavailable, match="within"):
            await counters.add("a", 1, 60)
        counters._timeout_seconds = PATIENT  # a second wait for Redis would exceed the time limit of the test
        with pytest.raises(CacheUnavailable, match="does not answer"):
            await counters.add("a", 1, 60)
        own_redis.resume()
        await until_up(counters)
        assert await counters.add("a", 1, 60) in {2, 3}, "the abandoned call may have been counted"


async def test_redis_without_memory_counts(tmp_path: Path) -> None:
    """A client that fills Redis must not switch off the limits that all processes share."""
    with redis_server(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction") as full:
        async with open_counters(f"redis://127.0.0.1:{full.port}", timeout_seconds=PATIENT) as counters:
            assert counters is not None
            assert [await counters.add("a", 1, 60) for _ in range(3)] == [1, 2, 3]


async def test_count_that_redis_has_lost_is_added_again(redis_url: str) -> None:
    async with (
        open_counters(redis_url, timeout_seconds=PATIENT) as first,
        open_counters(redis_url, timeout_seconds=PATIENT) as second,
    ):
        assert first is not None
        assert second is not None
        assert await first.add("a", 60, 60) == 60
        assert await second.add("a", 30, 60) == 90
        with redis.Redis.from_url(redis_url) as raw:
            raw.flushall()

        assert await second.add("a", 5, 60, before=30) == 35
        assert await first.add("a", 5, 60, before=60) == 100
        assert await first.add("a", 0, 60, before=65) == 100


async def test_outage_of_redis_is_logged_once(caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs) -> None:
    expected_logs.add(DOWN)
    async with open_counters(f"redis://127.0.0.1:{free_port()}", probe_seconds=0.001) as counters:
        assert counters is not None
        while counters._failures < 5:
            await asyncio.sleep(0.001)

    assert caplog.text.count(DOWN) == 1


def test_reason_of_unknown_command_omits_its_arguments(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, pytest.raises(redis.ResponseError) as error:
        client.execute_command("RENAMED", "canary")

    assert "canary" in str(error.value), "the message itself would leak the argument"
    assert "unknown command" in reason(error.value)
    assert "canary" not in reason(error.value)


async def test_block_ends_while_a_probe_waits(
    own_redis: Server, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shutdown of a service whose Redis is silent."""
    expected_logs.add(DOWN)
    monkeypatch.setattr("guidsvc.cache.redis.counters.CONNECT_SECONDS", 0.3)
    monkeypatch.setattr("guidsvc.runtime.background.CANCEL_AGAIN_SECONDS", 3600.0)
    own_redis.pause()
    try:
        async with (
            asyncio.timeout(30),
            open_counters(f"redis://127.0.0.1:{own_redis.port}", probe_seconds=0.0) as counters,
        ):
            assert counters is not None
            await asyncio.sleep(0.01)  # a probe begins as soon as another has ended
    finally:
        own_redis.resume()
