"""Lockout of addresses with too many failed logins: in one process, in several, and without Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import redis

from guidsvc.auth import lockout as module
from guidsvc.auth.fixed_window import Limit, SharedLimit
from guidsvc.auth.lockout import MAX_LOOKUPS, TOKEN_LOOKUPS, KnownFailures, LoginLockout
from guidsvc.cache.redis.counters import RedisCounters, open_counters
from guidsvc.http.client_address import REMEMBERED, _network_of_ipv6, network_of
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.backing_servers import Server
from tests.support.redis_counters import DOWN, PATIENT, until_up

LIMIT = Limit(20, 60)
HERE, THERE = "192.0.2.1", "192.0.2.2"


async def fail(lockouts: LoginLockout, address: str, times: int) -> None:
    for _ in range(times):
        await lockouts.record_failure(address)


@pytest.fixture(autouse=True)
def _on_the_minute(clock: FakeClock) -> None:
    clock.now -= clock.now % 60_000


@pytest.fixture
async def counters(own_redis: Server, expected_logs: ExpectedLogs) -> AsyncIterator[list[RedisCounters]]:
    """The counters of two processes."""
    expected_logs.add(DOWN)
    async with AsyncExitStack() as stack:
        url = f"redis://127.0.0.1:{own_redis.port}"
        connections = [
            await stack.enter_async_context(open_counters(url, timeout_seconds=PATIENT, probe_seconds=0.01))
            for _ in range(2)
        ]
        yield [connection for connection in connections if connection is not None]


@pytest.fixture
def lockouts_of_two(counters: list[RedisCounters], clock: FakeClock) -> list[LoginLockout]:
    """The lockouts of two processes."""
    return [LoginLockout(SharedLimit(LIMIT, clock, counters_, share=0.5)) for counters_ in counters]


async def test_address_is_locked_out_for_the_rest_of_the_window(clock: FakeClock) -> None:
    lockouts = LoginLockout(SharedLimit(LIMIT, clock))
    clock.advance(seconds=20.5)
    await fail(lockouts, HERE, 19)
    assert lockouts.lockout_seconds(HERE) is None
    await lockouts.record_failure(HERE)

    assert lockouts.lockout_seconds(HERE) == 40
    assert lockouts.lockout_seconds(THERE) is None
    clock.advance(seconds=39.5)
    assert lockouts.lockout_seconds(HERE) is None
    await fail(lockouts, HERE, 19)
    assert lockouts.lockout_seconds(HERE) is None
    await lockouts.record_failure(HERE)
    assert lockouts.lockout_seconds(HERE) == 60


async def test_locked_out_address_has_limited_lookups_per_second(clock: FakeClock) -> None:
    lockouts = LoginLockout(SharedLimit(LIMIT, clock))
    await fail(lockouts, HERE, 20)
    for _ in range(2):
        assert [lockouts.try_look_up(HERE) for _ in range(MAX_LOOKUPS + 5)] == [True] * MAX_LOOKUPS + [False] * 5
        assert lockouts.try_look_up(THERE)
        clock.advance(seconds=1)


async def test_token_counts_as_several_lookups(clock: FakeClock) -> None:
    lockouts = LoginLockout(SharedLimit(LIMIT, clock))
    await fail(lockouts, HERE, 20)
    tokens = MAX_LOOKUPS // TOKEN_LOOKUPS - 1
    assert all(lockouts.try_look_up(HERE, TOKEN_LOOKUPS) for _ in range(tokens))
    assert lockouts.try_look_up(HERE)
    assert not lockouts.try_look_up(HERE, TOKEN_LOOKUPS)
    assert [lockouts.try_look_up(HERE) for _ in range(TOKEN_LOOKUPS)] == [True] * (TOKEN_LOOKUPS - 1) + [False]


def test_failures_are_remembered_up_to_a_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    now = [0.0]
    failures = KnownFailures(4, timer=lambda: now[0])
    failures.add("a")
    now[0] = 3.9
    failures.add("a")
    assert failures.contains("a")
    assert not failures.contains("b")
    now[0] = 4.0
    assert not failures.contains("a"), "a repeated failure must not extend the time"
    for number in range(100):
        failures.add(f"{number}" * 8000)
    assert len(failures._expiries) == 10
    assert all(len(digest) == 16 for digest in failures._expiries)


async def test_address_is_never_locked_out_without_a_limit(clock: FakeClock) -> None:
    lockouts = LoginLockout(None)
    await fail(lockouts, HERE, 100)

    assert lockouts.lockout_seconds(HERE) is None


async def test_failures_are_counted_across_processes(lockouts_of_two: list[LoginLockout]) -> None:
    first, second = lockouts_of_two
    await fail(first, HERE, 19)
    await second.record_failure(HERE)

    assert second.lockout_seconds(HERE)
    assert first.lockout_seconds(HERE) is None, "it has not read the shared count yet"
    await first.record_failure(HERE)
    assert first.lockout_seconds(HERE)


async def test_concurrent_failures_are_each_reported_once(
    lockouts_of_two: list[LoginLockout], own_redis: Server
) -> None:
    await asyncio.gather(*(lockouts_of_two[0].record_failure(HERE) for _ in range(19)))
    assert lockouts_of_two[0].lockout_seconds(HERE) is None

    with redis.Redis(port=own_redis.port) as raw:
        for key in raw.scan_iter():  # the count of all processes, and the part of this one
            assert key.startswith(f"gs:limit:logins:{HERE}:".encode())
            assert raw.get(key) == b"19"
            assert 60_000 < int(raw.pttl(key)) <= 120_000


async def test_failure_counts_locally_before_redis_answers(
    lockouts_of_two: list[LoginLockout], own_redis: Server
) -> None:
    own_redis.pause()
    tries = [asyncio.create_task(lockouts_of_two[0].record_failure(HERE)) for _ in range(20)]
    await asyncio.sleep(0)

    assert lockouts_of_two[0].lockout_seconds(HERE)
    own_redis.resume()
    await asyncio.gather(*tries)


async def test_process_without_redis_counts_locally_and_reports_later(
    lockouts_of_two: list[LoginLockout], counters: list[RedisCounters], own_redis: Server
) -> None:
    first, second = lockouts_of_two
    await fail(first, HERE, 9)
    own_redis.kill()
    await fail(second, HERE, 9)
    assert (first.lockout_seconds(HERE), second.lockout_seconds(HERE)) == (None, None)
    await first.record_failure(HERE)
    await second.record_failure(HERE)
    assert first.lockout_seconds(HERE)
    assert second.lockout_seconds(HERE)

    await fail(first, THERE, 9)
    own_redis.start()
    for connection in counters:
        await until_up(connection)
    await fail(second, THERE, 10)
    await first.record_failure(THERE)
    assert first.lockout_seconds(THERE), "9 pending failures, 10 of the other process, and this one"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
    ],
)
def test_ipv6_addresses_count_by_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_cached_networks_of_addresses_are_bounded() -> None:
    for number in range(REMEMBERED + 10):
        network_of(f"2001:db8:{number:x}::1")
    assert _network_of_ipv6.cache_info().currsize <= REMEMBERED


async def test_changed_ipv6_address_stays_locked_out(clock: FakeClock) -> None:
    lockouts = LoginLockout(SharedLimit(LIMIT, clock))
    for number in range(20):
        await lockouts.record_failure(f"2001:db8::{number:x}")

    assert lockouts.lockout_seconds("2001:db8::ffff")
    assert lockouts.lockout_seconds("2001:db8:0:1::1") is None


async def test_remembered_addresses_are_bounded(
    counters: list[RedisCounters], own_redis: Server, clock: FakeClock
) -> None:
    lockouts = LoginLockout(SharedLimit(LIMIT, clock, counters[0]), addresses=50)
    await fail(lockouts, HERE, 20)
    for number in range(200):
        assert lockouts.lockout_seconds(HERE), "an address in use is not evicted"
        await lockouts.record_failure(f"10.0.0.{number}")

    assert len(lockouts._failures) == 50
    with redis.Redis(port=own_redis.port) as raw:
        assert raw.dbsize() == 2 * 50, "a count, and the part of this process"
    await fail(lockouts, "10.1.0.1", 20)
    assert lockouts.lockout_seconds("10.1.0.1"), "a new address is counted too"


async def test_failures_of_an_evicted_address_still_count(clock: FakeClock) -> None:
    lockouts = LoginLockout(SharedLimit(LIMIT, clock), addresses=50)
    await fail(lockouts, HERE, 19)
    for number in range(50):
        await lockouts.record_failure(f"10.0.0.{number}")

    await lockouts.record_failure(HERE)
    assert lockouts.lockout_seconds(HERE)
    clock.advance(seconds=60)
    await fail(lockouts, HERE, 19)
    assert lockouts.lockout_seconds(HERE) is None
