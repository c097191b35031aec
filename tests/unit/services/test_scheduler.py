"""The scheduler over a real store: each due step is executed once."""

import asyncio
import itertools
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from guidsvc.domain.commands import PutCommand
from guidsvc.domain.events.entry import Entry
from guidsvc.domain.events.schedule import MARGIN_SECONDS, EventPolicy
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.receipt import Receipt
from guidsvc.errors import Expired, StoreUnavailable
from guidsvc.services.events import scheduler
from guidsvc.services.events.scheduler import Scheduler, running_scheduler
from guidsvc.services.guid_service import GuidService
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.lease import LeaseClock
from guidsvc.store.sqlite.store import path_of_url
from guidsvc.telemetry.metrics import EventMetrics
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.events import ALL, every_entry
from tests.support.factories import GUID, record

DAY = 86_400
POLICY = RetentionPolicy(lifetime=30 * DAY, retention=7 * DAY)


@pytest.fixture
async def store(sqlite_url: str) -> AsyncIterator[Database]:
    async with open_store(sqlite_url, exclusive=False) as opened:
        yield opened


def service_of(store: Database, clock: FakeClock) -> GuidService:
    """Return a service over this store, without a cache."""
    numbers = itertools.count()
    return GuidService(
        store.records,
        LeaseClock(store.fence),
        clock=clock,
        generator=lambda now: f"{next(numbers):032X}",
        policy=POLICY,
    )


@pytest.fixture
def service(store: Database, clock: FakeClock) -> GuidService:
    return service_of(store, clock)


def scheduler_of(store: Database, clock: FakeClock, *, size_bytes: int = 2**30) -> Scheduler:
    """Return a scheduler that keeps events for a week."""
    return Scheduler(store, clock=clock, retention_seconds=7 * DAY, size_bytes=size_bytes, gauges=EventMetrics())


async def put(service: GuidService, guid: str, **members: object) -> None:
    """Put a record with these members."""
    await service.put(guid, PutCommand.model_validate(members))


def guid(number: int) -> str:
    """Return the GUID with a number."""
    return f"{number:032X}"


async def entries_of(store: Database, *kinds: str) -> list[Entry]:
    """Return the entries of these kinds in order, or of all kinds."""
    return [entry for _, entry, _ in await every_entry(store.events) if not kinds or entry.kind in kinds]


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pauses of the scheduler negligible."""
    for name in ("MIN_IDLE_SECONDS", "MAX_IDLE_SECONDS", "TRIM_SECONDS", "RECEIPTS_SECONDS"):
        monkeypatch.setattr(scheduler, name, 0.001)


@pytest.mark.usefixtures("short_pauses")
async def test_records_past_retention_are_purged(store: Database, clock: FakeClock) -> None:
    await store.records.swap(None, record(clock(), guid=guid(0), expire=0, purge_at=clock.seconds - MARGIN_SECONDS))
    await store.records.swap(None, retained := record(clock(), expire=0, purge_at=clock.seconds + 1))
    async with running_scheduler(scheduler_of(store, clock)):
        while await store.records.get(guid(0)) is not None:
            await asyncio.sleep(0)
        assert await store.records.get(GUID) == retained
        clock.advance(seconds=1 + MARGIN_SECONDS)
        while await store.records.get(GUID) is not None:
            await asyncio.sleep(0)


@pytest.mark.usefixtures("short_pauses")
async def test_receipts_past_retention_are_purged(store: Database, clock: FakeClock) -> None:
    members = {"fingerprint": "1" * 64, "attempt": 1, "leased_until": 0, "seed": "2" * 32, "claimed": 0}
    old, retained = (
        Receipt.model_validate({"key": f"{number:064x}", "purge_at": clock.seconds + number} | members)
        for number in (-1, 1)
    )
    for receipt in (old, retained):
        await store.receipts.swap(None, receipt)
    async with running_scheduler(scheduler_of(store, clock)):
        while await store.receipts.get(old.key) is not None:
            await asyncio.sleep(0)
    assert await store.receipts.get(retained.key) == retained


async def test_renewed_half_does_not_expire(store: Database, service: GuidService, clock: FakeClock) -> None:
    """Exactly the records that are not renewed expire, at their second, and readers see that at once."""
    steps, second = scheduler_of(store, clock), clock.seconds + 3
    for number in range(200):
        await put(service, guid(number), user="a", expire=second)
    clock.advance(seconds=2.9)
    for number in range(0, 200, 2):
        await put(service, guid(number), expire=second + 60)

    await steps.advance()
    clock.advance(seconds=0.1)
    for number in range(1, 200, 2):
        with pytest.raises(Expired):
            await service.get(guid(number))
    await steps.advance()
    assert await entries_of(store, "expired") == [], "clocks of hosts may differ by a second"
    clock.advance(seconds=MARGIN_SECONDS)
    await steps.advance()
    await steps.advance()

    expired = await entries_of(store, "expired")
    assert sorted(entry.guid for entry in expired) == [guid(number) for number in range(1, 200, 2)]
    assert {entry.at for entry in expired} == {second * 1000}


async def test_write_during_a_pause_keeps_the_order(store: Database, service: GuidService, clock: FakeClock) -> None:
    """The scheduler stalls: the write itself appends the expiry before it, and the scheduler does not repeat it."""
    for number in range(3):
        await put(service, guid(number), user="a", expire=clock.seconds + 2)
    clock.advance(seconds=5)
    await put(service, guid(0))
    await put(service, guid(1), user="b")
    await service.delete(guid(2))
    await scheduler_of(store, clock).advance()

    entries = await entries_of(store)
    for number, last_kind in enumerate(("renewed", "updated", "deleted")):
        kinds = [entry.kind for entry in entries if entry.guid == guid(number)]
        assert kinds == ["created", "expired", last_kind]


async def test_restart_after_a_pause_logs_no_outdated_warning(sqlite_url: str, clock: FakeClock) -> None:
    async with open_store(sqlite_url, exclusive=False) as store:
        service = service_of(store, clock)
        for number in range(1000):
            await put(service, guid(number), user="a", expire=clock.seconds + 20 * DAY + number % 7)
        await scheduler_of(store, clock).advance()
    clock.advance(seconds=20 * DAY + 100)
    async with open_store(sqlite_url, exclusive=False) as store:
        assert await scheduler_of(store, clock).advance() == 1000
        entries = await entries_of(store)
        expired = [entry.expire for entry in entries if entry.kind == "expired"]
        assert Counter(entry.kind for entry in entries) == {"created": 1000, "expired": 1000}
        assert expired == sorted(filter(None, expired)), "in the order of their times"


async def test_late_expiries_are_kept_for_the_retention(
    store: Database, service: GuidService, clock: FakeClock
) -> None:
    """After a pause longer than the retention, consumers still get the expiries."""
    await put(service, GUID, user="a", expire=clock.seconds + 5)
    await put(service, guid(1), user="a", expire=clock.seconds + 100 * DAY)
    clock.advance(seconds=30 * DAY)
    steps = scheduler_of(store, clock)
    await steps.advance()
    await steps.trim()

    assert [entry.kind for entry in await entries_of(store)] == ["expired", "purged"]
    clock.advance(seconds=8 * DAY)
    await steps.trim()
    assert [entry.kind for entry in await entries_of(store)] == ["purged"], "the newest entry stays"


@pytest.mark.parametrize(("ttl", "warned"), [(20, [15, 18]), (4, [2]), (3, [])])
async def test_warnings_come_before_the_expiry(sqlite_url: str, clock: FakeClock, ttl: int, warned: list[int]) -> None:
    """With leads of 5 and 2 s; a lead applies if it is at most half of the lifetime."""
    started = clock.seconds
    async with open_store(sqlite_url, exclusive=False, events=EventPolicy("all", (5, 2))) as store:
        await put(service_of(store, clock), GUID, user="a", expire=started + ttl)
        steps = scheduler_of(store, clock)
        for _ in range((ttl + 2) * 4):
            await steps.advance()
            clock.advance(seconds=0.25)
        entries = await entries_of(store)

    assert [entry.kind for entry in entries] == ["created", *("expiring" for _ in warned), "expired"]
    assert [entry.at // 1000 - started for entry in entries[1:-1]] == warned


@pytest.mark.slow
async def test_mass_expiry_takes_bounded_memory(store: Database, clock: FakeClock) -> None:
    second = clock.seconds + 5
    records = [record(clock(), guid=guid(number), expire=second, purge_at=second + DAY) for number in range(20_000)]
    for start in range(0, len(records), 2000):
        await asyncio.gather(*(store.records.swap(None, new) for new in records[start : start + 2000]))
    del records
    clock.advance(seconds=10)
    steps = scheduler_of(store, clock)
    tracemalloc.start()
    try:
        assert await steps.advance() == 20_000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 4 * 1024 * 1024, "the memory of a step is bounded"
    assert Counter(entry.kind for entry in await entries_of(store)) == {"created": 20_000, "expired": 20_000}


async def test_writes_get_their_turn_during_mass_expiry(store: Database, clock: FakeClock) -> None:
    second = clock.seconds + 5
    await asyncio.gather(
        *(
            store.records.swap(None, record(clock(), guid=guid(number), expire=second, purge_at=second + DAY))
            for number in range(10 * store.events.step_records)
        )
    )
    clock.advance(seconds=10)
    begin = await store.events.newest()
    advancing = asyncio.create_task(scheduler_of(store, clock).advance())
    count = 0
    while not advancing.done():
        assert await store.records.swap(None, record(clock(), guid=f"F{count:031X}"))
        count += 1
    await advancing

    page = await store.events.read(begin, 10_000, ALL)
    kinds = [kind for kind, _ in itertools.groupby(entry.kind for _, entry, _ in page.entries)]
    assert kinds.count("created") >= 5, "writes run between the steps"


async def test_scheduler_measures_lag_size_and_age(store: Database, clock: FakeClock) -> None:
    gauges = EventMetrics()
    steps = Scheduler(store, clock=clock, retention_seconds=7 * DAY, size_bytes=2**30, gauges=gauges)
    await steps.advance()
    await steps.trim()
    assert (gauges.lag_seconds, gauges.size_bytes, gauges.oldest_seconds) == (0, 0, 0)
    due = [
        record(clock(), guid=guid(number), expire=clock.seconds + 5) for number in range(store.events.step_records + 1)
    ]
    await asyncio.gather(*(store.records.swap(None, each) for each in due))
    clock.advance(seconds=60)

    lags = []
    lag = store.events.lag

    async def record_lag(now: int) -> float:
        lags.append(await lag(now))
        return lags[-1]

    store.events.lag = record_lag  # type: ignore[method-assign]
    await steps.advance()
    await steps.trim()
    assert lags == [60 - 5 - MARGIN_SECONDS, 0], "the lag is measured between the steps too"
    assert gauges.lag_seconds == 0
    assert gauges.size_bytes == (await store.events.size())[0] > 0
    assert gauges.oldest_seconds == 60


async def test_trim_keeps_the_size_and_the_retention(store: Database, clock: FakeClock) -> None:
    steps = scheduler_of(store, clock, size_bytes=100_000)
    await asyncio.gather(*(store.records.swap(None, record(clock(), guid=guid(number))) for number in range(3000)))
    assert await steps.trim() > 2000
    size_bytes, _ = await store.events.size()
    assert 99_000 < size_bytes <= 100_000
    assert await steps.trim() == 0
    clock.advance(seconds=7 * DAY + 1)
    await steps.trim()
    assert len(await entries_of(store)) == 1


@pytest.mark.parametrize("name", ["advance", "trim", "purge_receipts"])
async def test_slow_store_gets_smaller_steps(
    store: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The store never does as much as a whole step within its time limit."""
    count, most, refused = 300, 30, []
    members = {"fingerprint": "1" * 64, "attempt": 1, "leased_until": 0, "seed": "2" * 32, "claimed": 0}
    for number in range(count):
        await store.records.swap(None, record(clock(), guid=guid(number), expire=clock.seconds + 5))
        key = {"key": f"{number:064x}", "purge_at": clock.seconds}
        await store.receipts.swap(None, Receipt.model_validate(key | members))
    clock.advance(seconds=8 * DAY)
    part, operation = (store.receipts, "purge") if name == "purge_receipts" else (store.events, name)
    operate = getattr(part, operation)

    async def operate_slowly(*arguments: int) -> int:
        if arguments[-1] > most:
            refused.append(arguments[-1])
            raise StoreUnavailable("no answer in time")
        done: int = await operate(*arguments)
        return done

    monkeypatch.setattr(part, operation, operate_slowly)
    work = getattr(scheduler_of(store, clock), name)
    for _ in range(count):
        with suppress(StoreUnavailable):
            await work()
            break
    else:
        pytest.fail("the work never ends")
    monkeypatch.undo()
    assert await work() == 0
    assert refused


@pytest.mark.usefixtures("short_pauses")
async def test_outage_is_logged_once_and_ends(
    store: Database, sqlite_url: str, clock: FakeClock, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("failed, retrying")
    caplog.set_level("INFO")
    await store.records.swap(None, record(clock(), expire=clock.seconds + 1))
    path: Path = path_of_url(sqlite_url)
    clock.advance(seconds=5)
    with closing(sqlite3.connect(path)) as file:
        file.execute("ALTER TABLE log RENAME TO hidden")
        async with running_scheduler(scheduler_of(store, clock)):
            while not {"expiry schedule failed", "event log trim failed"} <= _events(caplog):
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            file.execute("ALTER TABLE hidden RENAME TO log")
            while not {"expiry schedule succeeded again", "event log trim succeeded again"} <= _events(caplog):
                await asyncio.sleep(0.005)

    lines = Counter(record.getMessage() for record in caplog.records)
    assert [sum(count for line, count in lines.items() if "schedule failed" in line)] == [1]
    assert [entry.kind for entry in await entries_of(store)] == ["created", "expired"]


def _events(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the logged events, without their fields."""
    lines = "\n".join(logged.getMessage() for logged in caplog.records)
    return {
        f"{subject} {outcome}"
        for subject in ("expiry schedule", "event log trim")
        for outcome in ("failed", "succeeded again")
        if f"{subject} {outcome}" in lines
    }
