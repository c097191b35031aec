"""The end of a lease by the store's clock: never later than by the local timer, at any rate of the clocks."""

import asyncio

import pytest

from guidsvc.errors import StoreUnavailable
from guidsvc.store.cache_fence import NEW, FenceReading
from guidsvc.store.lease import (
    FRESH_SECONDS,
    SKEW_SECONDS,
    SLACK,
    LeaseClock,
    earliest,
)
from tests.support.gated_store import run_ready_tasks

STORE_MS = 5_000_000


class Clocks:
    """A local timer, and the clock of a store that runs at another rate."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self.seconds = 100.0
        self.reads = 0

    def timer(self) -> float:
        return self.seconds

    @property
    def store_ms(self) -> float:
        return STORE_MS + (self.seconds - 100) * 1000 * self._rate

    async def read(self) -> FenceReading:
        self.reads += 1
        reading = FenceReading(NEW, int(self.store_ms))
        self.seconds += 0.2  # the duration of the reply
        return reading


@pytest.mark.parametrize("rate", [1 - SLACK, 1.0, 1 + SLACK])
@pytest.mark.parametrize("seconds_later", [0.0, FRESH_SECONDS / 2])
@pytest.mark.parametrize("seconds", [-5.0, 0.0, 10.0, 600.0])
async def test_accepted_write_ends_before_its_deadline(rate: float, seconds_later: float, seconds: float) -> None:
    clocks = Clocks(rate)
    clock = LeaseClock(clocks, timer=clocks.timer)
    await clock.not_after(0)
    clocks.seconds += seconds_later

    deadline = clocks.seconds + seconds
    not_after = await clock.not_after(deadline)

    clocks.seconds = deadline
    assert not_after <= clocks.store_ms - SKEW_SECONDS * 1000 + 1
    assert not_after >= clocks.store_ms - SKEW_SECONDS * 1000 - 1000 - 2 * SLACK * 1000 * abs(seconds)
    assert clocks.reads == 1


@pytest.mark.parametrize("seconds_later", [0.0, FRESH_SECONDS / 2])
async def test_store_time_of_a_local_time_has_no_margin(seconds_later: float) -> None:
    """It is early by the duration of the reading, and never late while the clocks run at the same rate."""
    clocks = Clocks(1.0)
    clock = LeaseClock(clocks, timer=clocks.timer)
    await clock.store_time(0)
    clocks.seconds += seconds_later

    for seconds in (-5.0, 0.0, 10.0):
        expected = clocks.store_ms + seconds * 1000
        assert expected - 201 <= await clock.store_time(clocks.seconds + seconds) <= expected
    assert clocks.reads == 1


async def test_store_clock_is_reread_when_the_last_reading_is_old() -> None:
    clocks = Clocks(1.0)
    clock = LeaseClock(clocks, timer=clocks.timer)
    for reads in (1, 1, 2, 2):
        await clock.not_after(clocks.seconds + 10)
        assert clocks.reads == reads
        clocks.seconds += FRESH_SECONDS / 2


class GatedFence:
    """A fence whose reads wait until the gate opens."""

    def __init__(self) -> None:
        self.open, self.reads, self.error = asyncio.Event(), 0, False

    async def read(self) -> FenceReading:
        self.reads += 1
        await self.open.wait()
        if self.error:
            raise StoreUnavailable("no answer")
        return FenceReading(NEW, STORE_MS)


async def test_concurrent_deadlines_share_one_read() -> None:
    """Also if the first of them is cancelled; and the next one reads again."""
    fence = GatedFence()
    clock = LeaseClock(fence, timer=lambda: 100.0)
    requests = [asyncio.create_task(clock.not_after(100)) for _ in range(128)]
    await run_ready_tasks()
    requests[0].cancel()
    await run_ready_tasks()
    fence.open.set()
    assert len(set(await asyncio.gather(*requests[1:]))) == 1
    assert fence.reads == 1
    assert requests[0].cancelled()


async def test_error_of_a_shared_read_reaches_all_waiters() -> None:
    fence = GatedFence()
    fence.error = True
    clock = LeaseClock(fence, timer=lambda: 100.0)
    requests = [asyncio.create_task(clock.not_after(100)) for _ in range(3)]
    await run_ready_tasks()
    fence.open.set()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert fence.reads == 1
    fence.error = False
    await clock.not_after(100)
    assert fence.reads == 2


def test_earliest_deadline_counts() -> None:
    assert [earliest(*pair) for pair in ((None, None), (1, None), (None, 2), (3, 2), (2, 3))] == [None, 1, 2, 2, 2]
