"""The instruments, and those who count with them."""

from collections import Counter
from pathlib import Path

import pytest

from guidsvc.errors import StoreUnavailable
from guidsvc.store import open_store
from guidsvc.store.instrumented import InstrumentedStore
from guidsvc.telemetry.metrics import LATENCIES, QUICK_SECONDS, CacheMetrics, Histogram, RequestMetrics, StoreMetrics
from guidsvc.telemetry.tracing import CURRENT, REDIS, RequestTrace
from tests.conftest import FakeClock
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore


def test_a_histogram_counts_up_to_its_bounds_and_beyond() -> None:
    histogram = Histogram((1.0, 2.0))
    for each in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(each)

    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 7.5


def test_latencies_are_bounded_in_order_and_begin_with_the_quick() -> None:
    assert LATENCIES[0] == QUICK_SECONDS
    assert list(LATENCIES) == sorted(set(LATENCIES))
    assert LATENCIES[-1] == 10


def test_what_was_quick_is_counted_with_the_others() -> None:
    meter = RequestMetrics()
    quick = meter.quick("/", "GET", 200)
    assert meter.counts() == {}, "there was none"
    quick.count, quick.seconds = 2, 0.0001
    meter.done("/", "GET", 200, 0.5)
    assert meter.counts() == {("/", "GET", 200): 3}
    latency = meter.latencies()["/"]
    assert (latency.counts[0], sum(latency.counts), latency.sum) == (2, 3, 0.5001)


async def test_a_store_that_fails_is_counted_as_failing(clock: FakeClock) -> None:
    class Failing(GatedStore):
        async def get(self, guid: str) -> None:
            raise StoreUnavailable("no")

    meter = StoreMetrics()
    store = InstrumentedStore(Failing(), meter)
    with pytest.raises(StoreUnavailable):
        await store.get(GUID)

    assert meter.failures == Counter(get=1, swap=0, find=0, count=0)
    assert sum(meter.latencies["get"].counts) == 1


async def test_what_is_purged_is_counted_and_how_late_it_was(tmp_path: Path, clock: FakeClock) -> None:
    meter = StoreMetrics()
    async with open_store(f"sqlite:///{tmp_path / 'x'}", clock=clock, exclusive=True, meter=meter) as store:
        old = record(clock())
        await store.swap(None, old)
        assert await store.purge(old.purge_at + 50, 10) == 1

    assert sum(meter.lateness.counts) == 1
    assert meter.lateness.sum == 50
    assert sum(meter.batches["commit"].sizes.counts) == 1


def test_who_waits_for_redis_is_told() -> None:
    meter, trace = CacheMetrics(), RequestTrace("x")
    token = CURRENT.set(trace)
    meter.redis()
    meter.redis_latency.observe(0.25)
    meter.redis_latency.observe(0.5)
    CURRENT.reset(token)

    assert (trace.source, trace.spent) == (REDIS, {"redis": 0.75})
