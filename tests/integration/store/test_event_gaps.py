"""Gaps in the event log while it was off: a cursor from before the gap is rejected, on each store."""

import time
from typing import Any

import pytest

from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.domain.record import Record
from guidsvc.store import open_keys, open_store
from guidsvc.store.mongo.events import retention
from guidsvc.store.mongo.store import open_mongo
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.events import HOUR, next_version
from tests.support.factories import record
from tests.support.mongo_documents import Documents

ON, OFF = EventPolicy("all"), EventPolicy("off")


@pytest.fixture(params=["sqlite", "mongo"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of the store."""
    return str(request.getfixturevalue("mongo_url" if request.param == "mongo" else "sqlite_url"))


async def epoch(url: str, policy: EventPolicy, *swaps: tuple[Record | None, Record]) -> int:
    """Open the store with a policy, swap records, and execute the due steps; return the epoch of its log."""
    async with open_store(url, exclusive=True, events=policy) as store:
        for old, new in swaps:
            assert await store.records.swap(old, new)
        await store.events.advance(time.time_ns() // 1_000_000, 100)
        return (await store.events.bounds()).key.epoch


async def test_write_while_the_log_is_off_invalidates_cursors(url: str, clock: FakeClock) -> None:
    first, second, third = (record(clock(), guid=f"{number:032X}") for number in range(3))
    begun = await epoch(url, ON, (None, first))
    assert await epoch(url, OFF) == begun
    assert await epoch(url, ON, (None, second)) == begun, "nothing was written while the log was off"
    await epoch(url, OFF, (None, third))
    resumed = await epoch(url, ON)
    assert resumed != begun
    assert await epoch(url, ON) == resumed, "once"
    await epoch(url, OFF, (third, next_version(third, clock() + 1, user="another")))
    assert await epoch(url, ON) != resumed, "a change while the log is off has no event either"


async def test_expiry_while_the_log_is_off_invalidates_cursors(url: str, clock: FakeClock) -> None:
    written = clock() - HOUR * 1000
    begun = await epoch(url, ON)
    await epoch(url, OFF, (None, record(written, expire=clock.seconds - 10, purge_at=clock.seconds + HOUR)))
    resumed = await epoch(url, ON)
    assert resumed != begun
    gone = record(written, guid="0" * 32, expire=clock.seconds - 10, purge_at=clock.seconds - 5)
    assert await epoch(url, ON, (None, gone)) == resumed
    assert await epoch(url, ON) == resumed


async def test_due_step_records_the_gap(mongo_url: str, documents: Documents, clock: FakeClock) -> None:
    old = record(clock() - HOUR * 1000, expire=clock.seconds - 10, purge_at=clock.seconds + HOUR)
    async with open_mongo(mongo_url) as store:
        await store.records.swap(None, old)
    await epoch(mongo_url, OFF)
    assert "gap_until" in bounds(documents)


def bounds(documents: Documents) -> dict[str, Any]:
    """Return the bounds of the log."""
    found = documents["log_bounds"].find_one()
    assert found is not None
    return found


async def test_gap_is_recorded_before_the_write(
    mongo_url: str, documents: Documents, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded for each write: another process may have invalidated the cursors and cleared the gap meanwhile."""
    old = record(clock())
    async with open_mongo(mongo_url, events=OFF) as off:
        assert await off.records.swap(None, old)
        async with open_mongo(mongo_url, exclusive=True):
            assert "gap_until" not in bounds(documents)
        monkeypatch.setattr(retention, "NOTE_SECONDS", 0.0)
        write, noted = off.records._swap, []

        async def note(*args: Any) -> bool:
            noted.append("gap_until" in bounds(documents))
            return await write(*args)

        monkeypatch.setattr(off.records, "_swap", note)
        assert await off.records.swap(old, next_version(old, clock() + 1, user="another"))
        assert noted == [True]


async def test_start_waits_for_writes_without_events(mongo_url: str, documents: Documents, clock: FakeClock) -> None:
    async with open_mongo(mongo_url, events=OFF) as store:
        await store.records.swap(None, record(clock()))
    before = bounds(documents)
    over_ms = time.time_ns() // 1_000_000 + 1000
    documents["log_bounds"].update_one({}, {"$set": {"gap_until": over_ms}})
    async with open_mongo(mongo_url) as store:
        assert time.time_ns() // 1_000_000 >= over_ms
        assert (await store.events.bounds()).key.epoch != before["epoch"]
    assert "gap_until" not in bounds(documents)


async def test_key_commands_keep_the_gap(mongo_url: str, documents: Documents) -> None:
    await epoch(mongo_url, ON)
    documents["log_bounds"].update_one({}, {"$set": {"gap_until": 0}})
    before = bounds(documents)
    async with open_keys(mongo_url):
        assert bounds(documents) == before


async def test_process_without_log_keeps_the_gap_open(
    mongo_url: str, documents: Documents, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """While it runs, each start of another process invalidates the cursors. So does the first start after its end."""
    monkeypatch.setattr(retention, "GAP_SECONDS", 0.3)
    expected_logs.add("event log is off in another process")
    await epoch(mongo_url, ON)
    epochs = []
    soon = time.time_ns() // 1_000_000 + 9_000
    for gap in (soon, None, 0, None):
        if gap is not None:
            documents["log_bounds"].update_one({}, {"$set": {"gap_until": gap}})
        async with open_mongo(mongo_url) as store:
            epochs.append((await store.events.bounds()).key.epoch)
    assert len(set(epochs[:3])) == 3
    assert epochs[3] == epochs[2]


async def test_gap_from_a_clock_that_was_ahead_ends(
    mongo_url: str, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "GAP_SECONDS", 0.3)
    await epoch(mongo_url, ON)
    documents["log_bounds"].update_one({}, {"$set": {"gap_until": time.time_ns() // 1_000_000 + HOUR * 1000}})
    epochs = []
    for _ in range(2):
        async with open_mongo(mongo_url) as store:
            epochs.append((await store.events.bounds()).key.epoch)
    assert epochs[0] == epochs[1]
    assert "gap_until" not in bounds(documents)
