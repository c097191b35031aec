"""The metric instruments, and their use in the stores and caches."""

import re
from collections import Counter
from pathlib import Path

import pytest

from guidsvc.domain import api_key
from guidsvc.domain.quota_ledger import QuotaLedger
from guidsvc.domain.receipt import Receipt
from guidsvc.domain.selection import Selection
from guidsvc.errors import OutcomeUnknown, StoreUnavailable
from guidsvc.store import open_store
from guidsvc.store.instrumented import InstrumentedDatabase, InstrumentedRecords, InstrumentedRepository
from guidsvc.telemetry.metrics import LATENCIES, QUICK_SECONDS, CacheMetrics, Histogram, RequestMetrics, StoreMetrics
from guidsvc.telemetry.tracing import CURRENT, REDIS, RequestTrace
from tests.conftest import FakeClock
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def test_histogram_counts_up_to_its_bounds_and_beyond() -> None:
    histogram = Histogram((1.0, 2.0))
    for value_ in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value_)

    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 7.5


def test_latency_bounds_rise_and_start_low() -> None:
    assert LATENCIES[0] == QUICK_SECONDS
    assert list(LATENCIES) == sorted(set(LATENCIES))
    assert LATENCIES[-1] == 10


def test_fast_path_requests_are_counted_with_the_others() -> None:
    meter = RequestMetrics()
    quick = meter.quick("/", "GET", 200)
    assert meter.counts() == {}, "no request yet"
    quick.count, quick.seconds = 2, 0.0001
    meter.record("/", "GET", 200, 0.5)
    assert meter.counts() == {("/", "GET", 200): 3}
    latency = meter.latencies()["/"]
    assert (latency.counts[0], sum(latency.counts), latency.sum) == (2, 3, 0.5001)


async def test_failing_store_is_counted_as_failing(clock: FakeClock) -> None:
    class Failing(GatedStore):
        async def get(self, guid: str, /) -> None:
            raise StoreUnavailable("no")

    meter = StoreMetrics()
    store = InstrumentedRecords(Failing(), meter)
    with pytest.raises(StoreUnavailable):
        await store.get(GUID)

    assert meter.failures == Counter(get=1, swap=0, find=0, count=0)
    assert sum(meter.latencies["get"].counts) == 1


async def test_operations_on_other_repositories_are_measured(tmp_path: Path, clock: FakeClock) -> None:
    meter = StoreMetrics()
    async with open_store(f"sqlite:///{tmp_path / 'x'}", exclusive=True) as store:
        database = InstrumentedDatabase(store, meter)
        key, _ = api_key.generate("alice", ["read"], clock())
        assert await database.api_keys.swap(None, key)
        assert await database.api_keys.get(key.id) == key
        assert list(await database.api_keys.list("", 10)) == [key]
        ledger = QuotaLedger(owner="alice", version=1, entries="{}", quota=1, room=1, room_until=0)
        assert await database.ledgers.swap(None, ledger)
        assert await database.ledgers.get("alice") == ledger
        assert await database.receipts.get("0" * 64) is None
        assert await database.receipts.usage("") == (0, 0)
        assert not await database.receipts.swap(a_receipt(clock), None)
        assert await database.records.count_linearizable(Selection()) == 0
        await database.fence.read()

    measured = {name for name, latency in meter.latencies.items() if sum(latency.counts) == 1}
    assert measured == meter.latencies.keys() - {"get", "swap", "find"}
    assert meter.failures == dict.fromkeys(meter.latencies, 0)


async def test_failures_of_other_repositories_are_counted() -> None:
    class Failing:
        async def get(self, key: str, /) -> None:
            raise StoreUnavailable("no")

        async def swap(self, old: QuotaLedger | None, new: QuotaLedger | None) -> bool:
            raise OutcomeUnknown("no answer")

    meter = StoreMetrics()
    ledgers: InstrumentedRepository[QuotaLedger] = InstrumentedRepository(Failing(), meter, "ledger")
    with pytest.raises(StoreUnavailable):
        await ledgers.get("alice")
    with pytest.raises(OutcomeUnknown):
        await ledgers.swap(None, None)

    assert +meter.failures == Counter(ledger_get=1, ledger_swap=1)


def test_docs_name_each_store_operation() -> None:
    (row,) = re.findall(r"^\| `guidsvc_store_duration_seconds` .*$", OPERATIONS.read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) - {"guidsvc_store_duration_seconds", "operation"} == {
        *StoreMetrics().latencies
    }


def a_receipt(clock: FakeClock) -> Receipt:
    times = {"leased_until": clock(), "claimed": clock(), "purge_at": clock.seconds + 100}
    return Receipt.model_validate({"key": "0" * 64, "fingerprint": "1" * 64, "attempt": 1, "seed": "2" * 32} | times)


async def test_purged_records_are_counted_with_their_delay(tmp_path: Path, clock: FakeClock) -> None:
    meter = StoreMetrics()
    async with open_store(f"sqlite:///{tmp_path / 'x'}", exclusive=True, meter=meter) as store:
        old = record(clock())
        await store.records.swap(None, old)
        assert await store.events.advance((old.purge_at + 50) * 1000, 10) == 1

    assert sum(meter.lateness.counts) == 1
    assert meter.lateness.sum == 50
    assert sum(meter.batches["commit"].sizes.counts) == 1


def test_request_trace_includes_redis_time() -> None:
    meter, trace = CacheMetrics(), RequestTrace("x")
    token = CURRENT.set(trace)
    meter.redis()
    meter.redis_latency.observe(0.25)
    meter.redis_latency.observe(0.5)
    CURRENT.reset(token)

    assert (trace.source, trace.spent) == (REDIS, {"redis": 0.75})
