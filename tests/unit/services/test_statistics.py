"""The statistics of all records: exact at every boundary, counted once for concurrent requests, and bounded in time."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from guidsvc.domain.record import DELETED_EXPIRE, MAX_TIME
from guidsvc.errors import DeadlineExceeded, StoreUnavailable
from guidsvc.runtime.admission import Admission
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.services import statistics
from guidsvc.services.statistics import FRESH_SECONDS, RecordStatistics, bounds_at, counts_of
from guidsvc.store import open_store
from guidsvc.store.contract import RecordRepository
from guidsvc.store.delegating import DelegatingRecords
from tests.conftest import FakeClock
from tests.support.factories import record
from tests.support.gated_store import run_ready_tasks
from tests.support.timer import Timer

HOUR, DAY = 3600, 86_400


class CountedRecords(DelegatingRecords):
    """Records that count the calls; each call waits until `open` is set, and may then fail."""

    def __init__(self, records: RecordRepository) -> None:
        super().__init__(records)
        self.started = self.finished = 0
        self.open = asyncio.Event()
        self.open.set()
        self.fault: Exception | None = None

    async def count_by_expire(self, bounds: Sequence[int], kept_at: int) -> Sequence[int]:
        self.started += 1
        try:
            await self.open.wait()
        finally:
            self.finished += 1
        if self.fault is not None:
            raise self.fault
        return await super().count_by_expire(bounds, kept_at)


@pytest.fixture
async def records(sqlite_url: str) -> AsyncIterator[CountedRecords]:
    async with open_store(sqlite_url, exclusive=False) as opened:
        yield CountedRecords(opened.records)


@pytest.fixture
def timer() -> Timer:
    return Timer(1000.0)


@pytest.fixture
def stats(records: CountedRecords, clock: FakeClock, timer: Timer) -> RecordStatistics:
    return RecordStatistics(records, clock, timer=timer)


async def fill(
    records: RecordRepository, clock: FakeClock, lifetimes: Sequence[int], *, purge_after: int = HOUR
) -> None:
    """Store a record for each lifetime, in seconds from now; it is purged `purge_after` seconds after its expiry."""
    for number, lifetime in enumerate(lifetimes):
        expire = min(clock.seconds + lifetime, MAX_TIME)
        new = record(clock(), guid=f"{number:032X}", expire=expire, purge_at=min(expire + purge_after, MAX_TIME))
        assert await records.swap(None, new)


@pytest.mark.parametrize("fraction_ms", [0, 1, 999])
async def test_each_record_counts_in_the_hour_and_day_of_its_expiry(
    stats: RecordStatistics, records: CountedRecords, clock: FakeClock, fraction_ms: int
) -> None:
    """On either side of every boundary, and at any fraction of a second."""
    boundaries = [HOUR * hour for hour in range(25)] + [DAY * day for day in range(2, 31)]
    lifetimes = [boundary + offset for boundary in boundaries for offset in (0, 1)]
    await fill(records, clock, lifetimes)
    clock.now += fraction_ms

    counts = await stats.current()

    assert counts.at == clock.now
    assert (counts.live, counts.expired) == (len(lifetimes) - 1, 1)
    assert list(counts.hours) == [
        sum(HOUR * n < lifetime <= HOUR * (n + 1) for lifetime in lifetimes) for n in range(24)
    ]
    assert list(counts.days) == [sum(DAY * n < lifetime <= DAY * (n + 1) for lifetime in lifetimes) for n in range(30)]
    assert sum(counts.hours) == counts.days[0]


async def test_deleted_and_purged_records_do_not_count(
    stats: RecordStatistics, records: CountedRecords, clock: FakeClock
) -> None:
    tombstone = record(clock(), guid="F" * 32, expire=DELETED_EXPIRE, purge_at=clock.seconds + HOUR)
    assert await records.swap(None, tombstone)
    await fill(records, clock, [-10, -9, -1, 0], purge_after=9)

    counts = await stats.current()
    assert (counts.live, counts.expired) == (0, 2), "only those whose retention has not ended"


async def test_latest_expiry_counts_as_live(stats: RecordStatistics, records: CountedRecords, clock: FakeClock) -> None:
    await fill(records, clock, [MAX_TIME], purge_after=0)
    counts = await stats.current()
    assert (counts.live, counts.expired, sum(counts.days)) == (1, 0, 0)


def test_bounds_at_the_end_of_time_never_fall() -> None:
    for now in (1000 * (MAX_TIME - DAY), 1000 * MAX_TIME):
        bounds = bounds_at(now)
        assert bounds == sorted(bounds)
        assert bounds[-1] == MAX_TIME + 1
        assert counts_of(now, [1] * (len(bounds) - 1)).live == len(bounds) - 2


async def test_fifty_concurrent_requests_share_one_count(stats: RecordStatistics, records: CountedRecords) -> None:
    records.open.clear()
    requests = [asyncio.create_task(stats.current()) for _ in range(50)]
    await run_ready_tasks()
    assert records.started == 1
    records.open.set()
    assert len({id(counts) for counts in await asyncio.gather(*requests)}) == records.started == 1


async def test_counts_serve_all_requests_for_ten_seconds(
    stats: RecordStatistics, records: CountedRecords, clock: FakeClock, timer: Timer
) -> None:
    first = await stats.current()
    await fill(records, clock, [HOUR])
    timer.now += FRESH_SECONDS - 0.001
    assert await stats.current() is first
    timer.now += 0.001
    later = await stats.current()
    assert (first.live, later.live, records.started) == (0, 1, 2)


async def test_failed_count_is_repeated_for_the_next_request(stats: RecordStatistics, records: CountedRecords) -> None:
    records.fault = StoreUnavailable("down")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await stats.current()
    records.fault = None
    assert (await stats.current()).live == 0
    assert records.started == 3


async def test_slow_count_ends_at_its_time_limit(
    stats: RecordStatistics, records: CountedRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "COUNT_SECONDS", 0.01)
    records.open.clear()
    with pytest.raises(StoreUnavailable, match="longer than"):
        await stats.current()
    assert records.finished == 1


async def test_request_waits_for_a_count_without_its_slot(stats: RecordStatistics, records: CountedRecords) -> None:
    admission = Admission(1)

    async def ask() -> int:
        async with admission.slot(CancelScope(), "alice"):
            return (await stats.current()).live

    records.open.clear()
    requests = [asyncio.create_task(ask()) for _ in range(3)]
    await run_ready_tasks(20)
    assert (admission.in_progress, admission.waiting, records.started) == (0, 3, 1)
    records.open.set()
    assert await asyncio.gather(*requests) == [0, 0, 0]
    assert (admission.in_progress, admission.waiting) == (0, 0)


async def test_count_outlives_a_request_whose_time_is_up(stats: RecordStatistics, records: CountedRecords) -> None:
    admission = Admission(1, budget=0.05)
    records.open.clear()
    with pytest.raises(DeadlineExceeded):
        async with admission.slot(CancelScope(), "alice"):
            await stats.current()
    records.open.set()
    assert (await stats.current()).live == 0
    assert records.started == 1


async def test_refresh_waits_briefly_and_keeps_the_last_counts(
    stats: RecordStatistics, records: CountedRecords, clock: FakeClock, timer: Timer
) -> None:
    await stats.refresh(10)
    counts_before = stats.latest
    await fill(records, clock, [HOUR])
    timer.now += FRESH_SECONDS
    records.open.clear()
    for _ in range(3):
        await stats.refresh(0.01)
        assert stats.latest is counts_before, "the new count has not finished"
    records.open.set()
    await stats.refresh(10)
    assert stats.latest is not None
    assert (stats.latest.live, records.started) == (1, 2)


async def test_refresh_counts_at_most_once_in_ten_seconds(
    stats: RecordStatistics, records: CountedRecords, timer: Timer
) -> None:
    """Also if counts fail, which is no error for a request for metrics."""
    for is_failing in (False, True, True, False):
        records.fault = StoreUnavailable("down") if is_failing else None
        for _ in range(5):
            await stats.refresh(10)
        timer.now += FRESH_SECONDS
    assert records.started == 4


async def test_count_in_progress_is_cancelled_at_the_end(stats: RecordStatistics, records: CountedRecords) -> None:
    records.open.clear()
    refresh = asyncio.create_task(stats.refresh(60))
    await run_ready_tasks()
    await stats.aclose()
    assert (records.started, records.finished) == (1, 1)
    refresh.cancel()
    await asyncio.wait([refresh])
