"""The MongoDB event log: the entry of each write."""

import asyncio
from collections.abc import Sequence

import pytest

from guidsvc.domain.events.entry import Entry, Kind, Origin
from guidsvc.domain.events.schedule import EventMode, EventPolicy
from guidsvc.domain.record import DELETED_EXPIRE
from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.store.mongo.events import sequencer as sequencing
from guidsvc.store.mongo.events.log import MongoEventLog
from guidsvc.store.mongo.events.outbox import MAX_ITEMS
from guidsvc.store.mongo.store import MongoStore, open_mongo
from guidsvc.telemetry.metrics import StoreMetrics
from tests.support.events import next_version, numbered_after
from tests.support.factories import GUID, record
from tests.support.mongo_documents import Documents, advance_all, check_entries

ORIGIN = Origin("ann", "r1")


async def test_each_write_appends_its_entry(store: MongoStore, now: int) -> None:
    first = record(now, owner="acme", metadata='{"a":1}')
    second = next_version(first, now, expire=first.expire + 60)
    third = next_version(second, now, user="another")
    tombstone = next_version(third, now, expire=DELETED_EXPIRE, user="deleted", metadata=None)
    assert await store.records.swap(None, first, origin=ORIGIN)
    assert await store.records.swap(first, second)
    assert await store.records.swap(second, third)
    assert await store.records.swap(third, tombstone)

    found = await numbered_after(store.events, 0, 4)
    assert found[0][:2] == (
        1,
        Entry("created", GUID, now, now, "acme", first.user, first.expire, '{"a":1}', caller="ann", request_id="r1"),
    )
    assert [each.entry.kind for each in found] == ["created", "renewed", "updated", "deleted"]
    assert [each.entry.changed for each in found] == ["", "expire", "user", ""]
    assert found[2].entry.former_user == first.user
    assert (found[3].entry.user, found[3].entry.version) == ("another", tombstone.version)


async def test_creation_with_a_deadline_appends_its_entry(store: MongoStore, now: int) -> None:
    assert await store.records.swap(None, record(now, user="$expire"), not_after=now + 60_000)
    assert not await store.records.swap(None, record(now, guid="0" * 32), not_after=now - 60_000)

    (created,) = await numbered_after(store.events, 0, 1)
    assert created.entry.user == "$expire"


async def test_failed_swap_appends_no_entry(store: MongoStore, now: int) -> None:
    first = record(now)
    assert await store.records.swap(None, first)
    assert not await store.records.swap(None, first)
    assert not await store.records.swap(next_version(first, now), next_version(next_version(first, now), now))
    assert not await store.records.swap(first, next_version(first, now), not_after=now - 60_000)
    assert await store.records.swap(first, next_version(first, now, user="another"))

    assert await check_entries(store, 2) == [("created", now), ("updated", now + 1)]


async def test_reader_of_a_record_does_not_see_its_outbox(store: MongoStore, now: int) -> None:
    first = record(now)
    await store.records.swap(None, first)

    assert await store.records.get(GUID) == first


async def test_renewal_after_the_expiry_logs_the_expiry_first(store: MongoStore, now: int) -> None:
    first = record(now - 60_000, expire=now // 1000 - 5)
    await store.records.swap(None, first)
    second = next_version(first, now, expire=now // 1000 + 60)
    assert await store.records.swap(first, second)

    assert await check_entries(store, 3) == [
        ("created", first.version),
        ("expired", first.version),
        ("renewed", second.version),
    ]
    assert await advance_all(store, now) == 0


async def test_expiry_is_logged_once_by_writer_or_scheduler(store: MongoStore, now: int) -> None:
    first = record(now - 60_000, expire=now // 1000 - 5)
    await store.records.swap(None, first)
    assert await advance_all(store, now) == 1
    second = next_version(first, now, expire=now // 1000 + 60)
    assert await store.records.swap(first, second)

    assert await check_entries(store, 3) == [
        ("created", first.version),
        ("expired", first.version),
        ("renewed", second.version),
    ]


async def test_revocation_logs_the_expiry_with_the_update(store: MongoStore, now: int) -> None:
    first = record(now)
    second = next_version(first, now, expire=now // 1000 - 1)
    await store.records.swap(None, first)
    await store.records.swap(first, second)

    assert await check_entries(store, 3) == [("created", now), ("updated", now + 1), ("expired", now + 1)]
    assert await advance_all(store, now) == 0


@pytest.mark.parametrize(
    ("mode", "expected"), [("all", ["created", "renewed", "updated"]), ("changes", ["created", "updated"]), ("off", [])]
)
async def test_policy_decides_what_is_logged(
    mongo_url: str, now: int, mode: EventMode, expected: Sequence[Kind]
) -> None:
    first = record(now)
    second = next_version(first, now, expire=first.expire + 1)
    third = next_version(second, now, user="another")
    async with open_mongo(mongo_url, events=EventPolicy(mode)) as store:
        await store.records.swap(None, first)
        await store.records.swap(first, second)
        await store.records.swap(second, third)
        assert await store.records.get(GUID) == third
        assert [kind for kind, _ in await check_entries(store, len(expected))] == expected


async def test_full_outbox_is_drained_by_its_writer(
    mongo_url: str, now: int, monkeypatch: pytest.MonkeyPatch, documents: Documents
) -> None:
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    async with open_mongo(mongo_url) as store:
        current = record(now)
        await store.records.swap(None, current)
        for _ in range(MAX_ITEMS + 5):
            new = next_version(current, now, user=f"user {current.version}")
            assert await store.records.swap(current, new)
            current = new
        assert len(documents["records"].find_one({"_id": GUID})["g"]["out"]) == 6  # type: ignore[index]
        assert await store.records.swap(current, None)
        assert len(await check_entries(store, MAX_ITEMS + 6)) == MAX_ITEMS + 6


async def test_two_stores_log_each_event_once(mongo_url: str, now: int) -> None:
    async with open_mongo(mongo_url) as one, open_mongo(mongo_url) as another:
        stores = one, another
        guids = [f"{number:032X}" for number in range(40)]
        await asyncio.gather(
            *(stores[place % 2].records.swap(None, record(now, guid=guid)) for place, guid in enumerate(guids))
        )
        await asyncio.gather(*(each.events._sequencer.run_round() for each in stores * 4), return_exceptions=True)
        found = await numbered_after(one.events, 0, 40)
        assert sorted(each.entry.guid for each in found) == guids
        assert [each.number for each in found] == list(range(1, 41))
        assert await another.events.newest() == 40


async def test_rest_of_a_cut_outbox_keeps_its_place(mongo_url: str, now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries left behind by a full batch come before later ones of other GUIDs, and the lag is their age."""
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    monkeypatch.setattr(sequencing, "BATCH", 1)
    first = record(now - 60_000)
    second = next_version(first, now - 50_000, user="second")
    third = next_version(second, now - 40_000, user="third")
    other = record(now - 45_000, guid="0" * 32)
    async with open_mongo(mongo_url) as store:
        await store.records.swap(None, first)
        await store.records.swap(first, second)
        await store.records.swap(second, third)
        await store.records.swap(None, other)
        pending = []
        while await store.events._sequencer.run_round():
            pending.append(store.events._sequencer.pending)
        assert pending == [each.updated for each in (first, second, other, third)]
        assert [version for _, version in await check_entries(store, 4)] == pending


async def test_change_during_a_round_keeps_its_place(mongo_url: str, now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    first = record(now - 60_000)
    second = next_version(first, now - 50_000, user="second")
    other = record(now - 40_000, guid="0" * 32)
    async with open_mongo(mongo_url) as store:
        sequencer = store.events._sequencer
        remove = sequencer._remove

        async def remove_after_change(moved: Sequence[Entry]) -> None:
            await store.records.swap(first, second)
            await store.records.swap(None, other)
            await remove(moved)

        await store.records.swap(None, first)
        with monkeypatch.context() as changed:
            changed.setattr(sequencer, "_remove", remove_after_change)
            assert await sequencer.run_round() == 1
        assert await sequencer.run_round() == 2
        assert sequencer.pending == second.updated
        assert [version for _, version in await check_entries(store, 3)] == [now - 60_000, now - 50_000, now - 40_000]


@pytest.mark.parametrize(("operation", "error"), [("_append", StoreUnavailable), ("_remove", OutcomeUnknown)])
async def test_batch_shrinks_while_mongodb_is_slow(
    mongo_url: str, now: int, monkeypatch: pytest.MonkeyPatch, operation: str, error: type[GuidsvcError]
) -> None:
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    async with open_mongo(mongo_url) as store:
        sequencer = store.events._sequencer
        for number in range(3):
            await store.records.swap(None, record(now + number, guid=f"{number:032X}"))

        async def time_out(*_: object) -> None:
            raise error("no answer in time")

        with monkeypatch.context() as slow:
            slow.setattr(sequencer, operation, time_out)
            for _ in range(10):
                with pytest.raises(error):
                    await sequencer.run_round()
        assert [await sequencer.run_round() for _ in range(3)] == [1, 2, 0]
        assert await check_entries(store, 3) == [("created", now), ("created", now + 1), ("created", now + 2)]


async def test_batch_is_bounded_in_bytes(mongo_url: str, now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    monkeypatch.setattr(sequencing, "BATCH_BYTES", 30_000)
    async with open_mongo(mongo_url) as store:
        for number, text in enumerate(["x" * 16_000, "\U0001f600" * 4000] * 3):
            new = record(now + number, guid=f"{number:032X}", metadata=f'{{"a":"{text}"}}')
            await store.records.swap(None, new)
        assert [await store.events._sequencer.run_round() for _ in range(4)] == [2, 2, 2, 0]


async def test_appended_events_are_counted_by_kind(mongo_url: str, now: int) -> None:
    meter = StoreMetrics()
    async with open_mongo(mongo_url, meter=meter) as store:
        await store.records.swap(None, first := record(now))
        await store.records.swap(first, first.model_copy(update={"version": now + 1, "updated": now + 1, "user": "b"}))
        await numbered_after(store.events, 0, 2)
    assert {kind: count for kind, count in meter.events.counts.items() if count} == {"created": 1, "updated": 1}


async def test_renewal_of_an_expired_record_is_always_logged(mongo_url: str, now: int) -> None:
    async with open_mongo(mongo_url, events=EventPolicy("changes")) as store:
        old = record(now - 60_000, expire=now // 1000 - 5)
        await store.records.swap(None, old)
        await store.records.swap(
            old, later := old.model_copy(update={"version": now, "updated": now, "expire": now // 1000 + 60})
        )
        longer = later.model_copy(update={"version": now + 1, "updated": now + 1, "expire": now // 1000 + 90})
        await store.records.swap(later, longer)
        assert [kind for kind, _ in await check_entries(store, 3)] == ["created", "expired", "renewed"]
