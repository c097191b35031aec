"""Which entries the policy adds to the SQLite event log, and when."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.events.schedule import EXPIRED_STAGE, MARGIN_SECONDS, EventPolicy
from guidsvc.domain.record import Record
from guidsvc.store.sqlite.store import SqliteStore, open_sqlite
from guidsvc.telemetry.metrics import StoreMetrics
from tests.conftest import FakeClock
from tests.support.events import ALL, advance_all, create, every_entry, kind_counts, new_records, next_version
from tests.support.factories import GUID, record

DAY = 86_400
MARGIN = MARGIN_SECONDS * 1000


async def test_disabled_log_stays_empty(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False, events=EventPolicy("off")) as store:
        old = record(clock(), expire=clock.seconds + 60, purge_at=clock.seconds + 120)
        renewed = next_version(old, clock() + 1, expire=clock.seconds + 90)
        await store.records.swap(None, old)
        await store.records.swap(old, renewed)
        assert await store.events.advance(clock() + 100_000, 10) == 1, "the schedule must advance"
        assert await store.records.get(GUID) == renewed
        assert await store.events.advance(clock() + 120_000 + MARGIN, 10) == 1
        assert await store.records.get(GUID) is None
        assert await every_entry(store.events) == []
        assert await store.events.newest() == 0


async def test_log_of_changes_omits_renewals(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False, events=EventPolicy("changes")) as store:
        old = record(clock(), expire=clock.seconds + 60)
        renewed = next_version(old, clock() + 1, expire=clock.seconds + 90)
        updated = next_version(renewed, clock() + 2, user="b")
        for before, after in ((None, old), (old, renewed), (renewed, updated)):
            assert await store.records.swap(before, after)
        await advance_all(store, clock() + 60_000 + MARGIN)
        assert await kind_counts(store) == {"created": 1, "updated": 1, "expiring": 1}
        await advance_all(store, clock() + 90_000 + MARGIN)
        assert [number for number, *_ in await store.events.history(GUID, 100, 10)] == [4, 3, 2, 1]


async def test_log_of_changes_has_renewals_of_expired_records(path: Path, clock: FakeClock) -> None:
    """The log has the expiry, and GET returns the record, so the log must also have the renewal."""
    async with open_sqlite(path, clock=clock, exclusive=False, events=EventPolicy("changes", ())) as store:
        old = record(clock(), expire=clock.seconds + 5)
        revived = next_version(old, clock() + 7000, expire=clock.seconds + 60)
        await create(store, [old])
        await advance_all(store, clock() + 5000 + MARGIN)
        assert await store.records.swap(old, revived)
        assert [entry.kind for _, entry, _ in await every_entry(store.events)] == ["created", "expired", "renewed"]


async def test_writes_while_the_log_is_off_invalidate_cursors(path: Path, clock: FakeClock) -> None:
    async def epoch(policy: EventPolicy, *records: Record) -> int:
        async with open_sqlite(path, clock=clock, exclusive=False, events=policy) as store:
            await create(store, list(records))
            await advance_all(store, clock())
            return (await store.events.bounds()).key.epoch

    on, off = EventPolicy("all"), EventPolicy("off")
    first, second, third = new_records(clock, 3, expire=clock.seconds + 5)
    begun = await epoch(on, first)
    assert await epoch(off) == begun
    assert await epoch(on, second) == begun, "nothing was written while the log was off"
    await epoch(off, third)
    resumed = await epoch(on)
    assert resumed != begun
    assert await epoch(on) == resumed, "once"
    clock.advance(seconds=60)
    await epoch(off)
    assert await epoch(on) != resumed, "an expiry while the log is off has no entry either"


async def test_later_events_are_appended_once_the_log_is_on(path: Path, clock: FakeClock) -> None:
    """This includes events of records written while the log was off, but no event of that time."""
    on, off = EventPolicy("all", (5,)), EventPolicy("off", (5,))
    early, late = new_records(clock, 2, expire=clock.seconds + 20, purge_at=clock.seconds + 30)
    longer = next_version(early, clock() + 1, expire=clock.seconds + 50, purge_at=clock.seconds + 60)
    async with open_sqlite(path, clock=clock, exclusive=False, events=on) as store:
        await create(store, [early])
    async with open_sqlite(path, clock=clock, exclusive=False, events=off) as store:
        assert await store.records.swap(early, longer)
        await create(store, [late])
        await advance_all(store, clock() + 25_000)
    async with open_sqlite(path, clock=clock, exclusive=False, events=on) as store:
        for second in range(26, 70):
            await advance_all(store, clock() + second * 1000)
        found = [(entry.kind, entry.guid) for _, entry, _ in await every_entry(store.events)]
    assert found == [
        ("created", early.guid),
        ("purged", late.guid),
        *((kind, early.guid) for kind in ("expiring", "expired", "purged")),
    ]


async def test_warnings_are_appended_at_their_leads(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False, events=EventPolicy("all", (5, 2))) as store:
        expires = clock.seconds + 20
        await create(store, [record(clock(), expire=expires, purge_at=expires + DAY)])
        await create(store, [record(clock(), guid="0" * 32, expire=clock.seconds + 4, purge_at=expires + DAY)])
        appended: list[tuple[int, str, int]] = []
        for second in range(30):
            before = await store.events.newest()
            await store.events.advance(clock() + second * 1000, 100)
            page = await store.events.read(before, 100, ALL)
            appended += [(second, entry.id[33:], entry.lead) for _, entry, _ in page.entries]

    version = clock()
    assert appended == [
        (2, f"{version}-expiring-2", 2),
        (4 + MARGIN_SECONDS, f"{version}-expired", 0),
        (15, f"{version}-expiring-5", 5),
        (18, f"{version}-expiring-2", 2),
        (20 + MARGIN_SECONDS, f"{version}-expired", 0),
    ]


async def test_pause_leaves_no_stale_warning(path: Path, clock: FakeClock) -> None:
    async with open_sqlite(path, exclusive=False) as store:
        await create(store, new_records(clock, 50, expire=clock.seconds + 30 * DAY, purge_at=clock.seconds + 60 * DAY))
    async with open_sqlite(path, exclusive=False) as store:
        await advance_all(store, clock() + 31 * DAY * 1000)
        assert await kind_counts(store) == {"created": 50, "expired": 50}


async def test_clock_set_back_repeats_no_event(store: SqliteStore, clock: FakeClock) -> None:
    await create(store, [record(clock(), expire=clock.seconds + 5)])
    for seconds in (7, 3, 0, 7, 8):
        await store.events.advance(clock() + seconds * 1000, 10)
    assert await kind_counts(store) == {"created": 1, "expired": 1}


@pytest.mark.slow
async def test_mass_expiry_is_executed_in_order_of_time(store: SqliteStore, clock: FakeClock) -> None:
    """200 records expire, then 20,000 in one second. Each step is one transaction of bounded size."""
    second = clock.seconds + 5
    late = new_records(clock, 20_000, expire=second, purge_at=second + DAY)
    early = [record(clock(), guid=f"F{n:031X}", expire=second - 1, purge_at=second + DAY) for n in range(200)]
    for start in range(0, len(late), 5000):
        await create(store, late[start : start + 5000])
    await create(store, early)
    begin = await store.events.newest()

    now = (second + 10) * 1000
    steps = 0
    while count := await store.events.advance(now, 200):
        assert count == 200
        steps += 1
        if steps == 1:
            assert {entry.guid for _, entry, _ in (await store.events.read(begin, 500, ALL)).entries} == {
                each.guid for each in early
            }
            assert await store.events.lag(now) == 10 - MARGIN_SECONDS
    assert steps == 101
    assert await store.events.lag(now) == 0
    assert (await kind_counts(store))["expired"] == 20_200


async def test_purges_are_counted_with_their_lateness(path: Path, clock: FakeClock) -> None:
    meter = StoreMetrics()
    async with open_sqlite(path, exclusive=False, meter=meter) as store:
        await create(store, new_records(clock, 3, expire=clock.seconds, purge_at=clock.seconds + 10))
        await advance_all(store, clock() + 30_000)
    assert (sum(meter.lateness.counts), meter.lateness.sum) == (3, 60)
    assert meter.events.counts["purged"] == 3
    assert meter.events.counts["updated"] == 0


async def test_stage_matches_the_entries_of_the_log(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    await create(store, [record(clock(), expire=clock.seconds + 5, purge_at=clock.seconds + 10)])
    await store.events.advance(clock() + 5000 + MARGIN, 10)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT due, stage, last FROM records").fetchone() == (
            clock.seconds + 10,
            EXPIRED_STAGE,
            2,
        )
