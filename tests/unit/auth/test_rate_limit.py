"""Rate limits of a caller: in one process, in several processes, and without Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from random import Random

import http_sf
import pytest
import redis

from guidsvc.auth.fixed_window import Limit, SharedLimit
from guidsvc.auth.rate_limit import GRANULARITY, UNLIMITED, RateAllowance, RateLimits
from guidsvc.cache.redis.counters import RedisCounters, open_counters
from guidsvc.errors import CacheUnavailable, RateLimited
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.backing_servers import Server
from tests.support.gated_store import run_ready_tasks
from tests.support.redis_counters import DOWN, PATIENT, until_up

NAME = "key:one"


def parse_limit(text: str) -> Limit:
    limit = Limit.parse(text)
    assert limit is not None
    return limit


async def spend_up_to(allowance: RateAllowance, most: int = 1_000_000) -> int:
    """Spend up to `most` requests; return how many were granted."""
    for count in range(most):
        try:
            await allowance.spend()
        except RateLimited:
            return count
    return most


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


def open_allowances(text: str, counters: list[RedisCounters], clock: FakeClock) -> list[RateAllowance]:
    """Return the allowances of one caller, one for each process."""
    share = 1 / len(counters)
    return [
        RateLimits(SharedLimit(parse_limit(text), clock, each, share=share)).allowance_for(NAME) for each in counters
    ]


class GatedCounters:
    """Counters that reply once the test opens the gate, and count the calls."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.calls = 0
        self.count = 0

    async def add(self, key: str, amount: int, seconds: int, *, before: int = 0) -> int:
        self.calls += 1
        await self.open.wait()
        self.count = max(self.count, before) + amount
        return self.count


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("20000/second", Limit(20_000, 1)),
        ("600/minute", Limit(600, 60)),
        (" 600 per minute ", Limit(600, 60)),
        ("5/2 hours", Limit(5, 7200)),
        ("1/day", Limit(1, 86_400)),
        ("", None),
        (" ", None),
    ],
)
def test_limit_is_a_number_of_requests_per_seconds(text: str, limit: Limit | None) -> None:
    assert Limit.parse(text) == limit


@pytest.mark.parametrize(
    "text",
    [
        "600",
        "many/minute",
        "600/fortnight",
        "0/minute",
        "-1/minute",
        "1/second;5/minute",
        "9999999999/second",
        "5/2 years",
    ],
)
def test_malformed_limit_is_rejected_in_one_line_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="600/minute") as error:
        Limit.parse(text)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


async def test_request_without_limit_is_always_allowed(clock: FakeClock) -> None:
    allowance = RateLimits(None).allowance_for(NAME)

    assert allowance is UNLIMITED
    assert await spend_up_to(allowance, 1000) == 1000
    assert allowance.try_spend()
    assert allowance.headers() == {}


async def test_single_process_gives_each_caller_the_limit_per_window(clock: FakeClock) -> None:
    limits = RateLimits(SharedLimit(parse_limit("5/minute"), clock))
    clock.advance(seconds=15.5)

    assert await spend_up_to(limits.allowance_for("a")) == 5
    assert not limits.allowance_for("a").try_spend()
    with pytest.raises(RateLimited, match="5 requests in 60 s") as error:
        await limits.allowance_for("a").refill()
    assert error.value.retry_after == 45
    assert await spend_up_to(limits.allowance_for("b")) == 5
    clock.advance(seconds=44.5)
    assert await spend_up_to(limits.allowance_for("a")) == 5


async def test_wait_is_at_least_a_second(clock: FakeClock) -> None:
    allowance = RateLimits(SharedLimit(parse_limit("1/second"), clock)).allowance_for(NAME)
    clock.now += 999
    await allowance.spend()

    with pytest.raises(RateLimited) as error:
        await allowance.spend()
    assert error.value.retry_after == 1


async def test_unused_allowance_expires_with_its_window(clock: FakeClock) -> None:
    allowance = RateLimits(SharedLimit(parse_limit("5/minute"), clock)).allowance_for(NAME)
    await allowance.spend()
    clock.advance(seconds=59.999)
    assert allowance.try_spend()
    clock.advance(seconds=0.001)

    assert not allowance.try_spend()
    assert await spend_up_to(allowance) == 5, "the remainder of the last window is not added"


async def test_clock_set_back_blocks_nobody(clock: FakeClock) -> None:
    allowance = RateLimits(SharedLimit(parse_limit("5/minute"), clock)).allowance_for(NAME)
    await spend_up_to(allowance)
    clock.advance(seconds=-3600)

    assert await spend_up_to(allowance) == 5


@pytest.mark.parametrize("text", ["1/minute", "5/minute", "45/minute", "1000/minute"])
async def test_two_processes_grant_the_limit_exactly(
    text: str, counters: list[RedisCounters], clock: FakeClock
) -> None:
    allowances = open_allowances(text, counters, clock)

    for _ in range(2):
        assert (
            sum(await asyncio.gather(*(spend_up_to(allowance) for allowance in allowances))) == parse_limit(text).amount
        )
        clock.advance(seconds=60)


async def test_process_books_a_twentieth_of_the_limit_at_a_time(
    counters: list[RedisCounters], own_redis: Server, clock: FakeClock
) -> None:
    allowance = open_allowances("600/minute", counters, clock)[0]
    await allowance.spend()
    own_redis.pause()
    assert sum(allowance.try_spend() for _ in range(1000)) == 29
    own_redis.resume()

    with redis.Redis(port=own_redis.port) as raw:
        key, part = sorted(raw.keys())
        assert key.startswith(b"gs:limit:requests:")
        assert part.startswith(key)
        for each in (key, part):
            assert raw.get(each) == b"30"
            assert 60_000 < int(raw.pttl(each)) <= 120_000


async def test_exhausted_limit_causes_no_more_redis_calls(clock: FakeClock) -> None:
    gate = GatedCounters()
    gate.open.set()
    allowance = RateLimits(SharedLimit(parse_limit("5/minute"), clock, gate)).allowance_for(NAME)
    assert await spend_up_to(allowance) == 5
    calls = gate.calls

    assert await spend_up_to(allowance) == 0
    assert gate.calls == calls
    clock.advance(seconds=60)
    gate.count = 0
    assert await spend_up_to(allowance) == 5


async def test_concurrent_refills_are_joined(clock: FakeClock) -> None:
    gate = GatedCounters()
    allowance = RateLimits(SharedLimit(parse_limit("100/minute"), clock, gate)).allowance_for(NAME)
    waiters = [asyncio.create_task(allowance.spend()) for _ in range(5)]
    await run_ready_tasks()
    assert gate.calls == 1
    waiters[0].cancel()
    await run_ready_tasks()
    gate.open.set()
    await asyncio.gather(*waiters[1:])

    assert (gate.calls, gate.count) == (1, 5)
    assert allowance.try_spend(), "the unit of the cancelled caller"
    assert not allowance.try_spend()


async def test_waiters_beyond_one_refill_all_get_theirs(clock: FakeClock) -> None:
    gate = GatedCounters()
    allowance = RateLimits(SharedLimit(parse_limit("100/minute"), clock, gate)).allowance_for(NAME)
    waiters = [asyncio.create_task(allowance.spend()) for _ in range(101)]
    await run_ready_tasks()
    gate.open.set()

    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [RateLimited]


async def test_allowance_of_a_past_window_is_not_spent_later(clock: FakeClock) -> None:
    gate = GatedCounters()
    allowance = RateLimits(SharedLimit(parse_limit("100/minute"), clock, gate)).allowance_for(NAME)
    waiter = asyncio.create_task(allowance.spend())
    await run_ready_tasks()
    clock.advance(seconds=60)
    gate.open.set()
    await waiter

    assert gate.calls == 2


@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 7.0])
@pytest.mark.parametrize("is_shared", [False, True], ids=["one process", "counters"])
async def test_lagging_loop_spends_in_few_turns(clock: FakeClock, seconds: float, *, is_shared: bool) -> None:
    """Each turn of the loop takes so long that a window ends during every reservation."""
    gate = GatedCounters()
    gate.open.set()
    shared_limit = SharedLimit(parse_limit("200/second"), clock, gate if is_shared else None)
    allowance = RateLimits(shared_limit).allowance_for(NAME)
    waiters = [asyncio.create_task(allowance.spend()) for _ in range(30)]
    for _ in range(8):
        await asyncio.sleep(0)
        clock.advance(seconds=seconds)

    assert all(waiter.done() for waiter in waiters)
    await asyncio.gather(*waiters)


async def test_unexpected_error_of_counters_reaches_all_waiters(clock: FakeClock) -> None:
    class FaultyCounters(GatedCounters):
        async def add(self, key: str, amount: int, seconds: int, *, before: int = 0) -> int:
            await self.open.wait()
            raise ZeroDivisionError

    faulty = FaultyCounters()
    allowance = RateLimits(SharedLimit(parse_limit("100/minute"), clock, faulty)).allowance_for(NAME)
    waiters = [asyncio.create_task(allowance.spend()) for _ in range(3)]
    await run_ready_tasks()
    waiters[0].cancel()
    faulty.open.set()

    outcomes = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(each) for each in outcomes] == [asyncio.CancelledError, ZeroDivisionError, ZeroDivisionError]


async def test_process_without_redis_grants_its_share(
    counters: list[RedisCounters], own_redis: Server, clock: FakeClock
) -> None:
    allowances = open_allowances("100/minute", counters, clock)
    own_redis.kill()

    assert [await spend_up_to(allowance) for allowance in allowances] == [50, 50]
    clock.advance(seconds=60)
    assert [await spend_up_to(allowance) for allowance in allowances] == [50, 50]


async def test_silent_redis_counts_as_dead(counters: list[RedisCounters], own_redis: Server, clock: FakeClock) -> None:
    allowance = open_allowances("100/minute", counters, clock)[0]
    counters[0]._timeout_seconds = 0.05
    own_redis.pause()

    assert await spend_up_to(allowance) == 50
    own_redis.resume()


async def test_share_is_at_least_one(clock: FakeClock, counters: list[RedisCounters], own_redis: Server) -> None:
    own_redis.kill()

    assert [await spend_up_to(allowance) for allowance in open_allowances("1/minute", counters, clock)] == [1, 1]


async def test_allowance_from_redis_counts_for_the_share(
    counters: list[RedisCounters], own_redis: Server, clock: FakeClock
) -> None:
    large, small = open_allowances("100/minute", counters, clock)
    assert (await spend_up_to(large, 60), await spend_up_to(small, 10)) == (60, 10)
    own_redis.kill()

    assert (await spend_up_to(large), await spend_up_to(small)) == (0, 40)


async def test_recovered_redis_learns_what_was_granted_meanwhile(
    counters: list[RedisCounters], own_redis: Server, clock: FakeClock
) -> None:
    allowances = open_allowances("100/minute", counters, clock)
    own_redis.kill()
    assert [await spend_up_to(allowance) for allowance in allowances] == [50, 50]
    own_redis.start()
    for each in counters:
        await until_up(each)

    assert await spend_up_to(allowances[0], 1) == 1, "Redis still counts 50 remaining"
    assert await spend_up_to(allowances[1]) == 0, "Redis has all grants now"
    with redis.Redis(port=own_redis.port) as raw:
        assert raw.get(min(raw.keys())) == b"110"
    clock.advance(seconds=60)
    assert sum([await spend_up_to(allowance) for allowance in allowances]) == 100


async def test_process_counts_again_what_redis_has_lost(
    counters: list[RedisCounters], own_redis: Server, clock: FakeClock
) -> None:
    first, second = open_allowances("100/minute", counters, clock)
    assert (await spend_up_to(first, 60), await spend_up_to(second, 30)) == (60, 30)
    with redis.Redis(port=own_redis.port) as raw:
        raw.flushall()

    assert await spend_up_to(second, 1) == 1
    assert await spend_up_to(first) == 5, "Redis counts 60 of this process and 35 of the other one"
    assert await spend_up_to(second) == 4, "what it had reserved"


async def test_one_process_never_exceeds_the_limit_if_redis_forgets(
    counters: list[RedisCounters], own_redis: Server, clock: FakeClock
) -> None:
    (allowance,) = open_allowances("100/minute", counters[:1], clock)
    granted = 0
    for _ in range(5):
        granted += await spend_up_to(allowance, 30)
        with redis.Redis(port=own_redis.port) as raw:
            raw.flushall()

    assert granted == 100


async def test_pending_grants_are_reported_once(clock: FakeClock) -> None:
    class FaultyCounters(GatedCounters):
        fault = True

        async def add(self, key: str, amount: int, seconds: int, *, before: int = 0) -> int:
            if self.fault:
                raise CacheUnavailable("down")
            return await super().add(key, amount, seconds, before=before)

    faulty = FaultyCounters()
    faulty.open.set()
    allowance = RateLimits(SharedLimit(parse_limit("100/minute"), clock, faulty)).allowance_for(NAME)
    assert await spend_up_to(allowance, 5) == 5
    faulty.fault = False

    assert await spend_up_to(allowance, 10) == 10
    assert faulty.count == 15


async def test_caller_has_one_allowance_and_their_number_is_bounded(clock: FakeClock) -> None:
    limits = RateLimits(SharedLimit(parse_limit("5/minute"), clock), callers=10)
    allowance = limits.allowance_for("kept")
    for number in range(1000):
        limits.allowance_for(f"other {number}")
        assert limits.allowance_for("kept") is allowance

    assert len(limits._allowances) == 10


async def test_evicted_caller_has_no_new_allowance_in_its_window(clock: FakeClock) -> None:
    limits = RateLimits(SharedLimit(parse_limit("5/minute"), clock), callers=10)
    assert await spend_up_to(limits.allowance_for(NAME), 3) == 3
    for number in range(10):
        limits.allowance_for(f"other {number}")

    assert await spend_up_to(limits.allowance_for(NAME)) == 2
    for number in range(10):
        limits.allowance_for(f"other {number}")
    assert await spend_up_to(limits.allowance_for(NAME)) == 0
    clock.advance(seconds=60)
    assert await spend_up_to(limits.allowance_for(NAME)) == 5


async def test_caller_in_use_keeps_its_allowance(clock: FakeClock) -> None:
    """A second session of a caller gets it too, however many others came since."""
    limits = RateLimits(SharedLimit(parse_limit("5/minute"), clock), callers=10)
    allowance = limits.allowance_for(NAME)
    for number in range(10):
        limits.allowance_for(f"other {number}")
    assert await spend_up_to(allowance, 3) == 3
    assert await spend_up_to(limits.allowance_for(NAME)) == 2


async def test_headers_are_structured_fields_with_the_remainder(
    counters: list[RedisCounters], clock: FakeClock
) -> None:
    first, second = open_allowances("600/minute", counters, clock)
    clock.advance(seconds=12.5)
    assert first.headers() == {"RateLimit-Policy": '"requests";q=600;w=60', "RateLimit": '"requests";r=600;t=48'}
    assert await spend_up_to(first, 31) == 31
    assert await spend_up_to(second, 1) == 1

    headers = second.headers()
    assert http_sf.parse(headers["RateLimit-Policy"].encode(), tltype="list") == [("requests", {"q": 600, "w": 60})]
    assert http_sf.parse(headers["RateLimit"].encode(), tltype="list") == [("requests", {"r": 539, "t": 48})]
    await spend_up_to(second)
    assert second.headers()["RateLimit"] == '"requests";r=0;t=48'
    clock.advance(seconds=60)
    assert second.headers()["RateLimit"] == '"requests";r=600;t=48'


async def test_spending_with_lines_equals_spending_and_rendering(clock: FakeClock) -> None:
    random = Random(1)
    one, two = (RateLimits(SharedLimit(Limit(5_000, 60), clock)).allowance_for("alice") for _ in range(2))
    for _ in range(20_000):
        clock.now += random.choice((0, 1, 7, 400))
        lines = two.try_spend_with_lines()
        assert lines == (one.header_lines() if one.try_spend() else None)
        if lines is None:
            for each in (one, two):
                with suppress(RateLimited):
                    await each.spend()
        assert one.headers() == two.headers()


async def test_remainder_of_a_large_limit_is_rounded(clock: FakeClock) -> None:
    limit = Limit(50_000, 60)
    allowance = RateLimits(SharedLimit(limit, clock)).allowance_for("alice")
    for spent_count in range(1, 10_001):
        await allowance.spend()
        remainder = int(allowance.header_lines().partition(b"r=")[2].partition(b";")[0])
        assert 0 <= remainder - (limit.amount - spent_count) <= limit.amount // GRANULARITY
    clock.now += 1000
    lines_before = allowance.header_lines()
    clock.now += 1000
    await allowance.spend()
    assert allowance.header_lines() != lines_before, "a second has passed"
