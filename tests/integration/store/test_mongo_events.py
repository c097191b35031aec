"""The event log on MongoDB: what each write leaves in it, and what time does."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from guidsvc.domain.events.cursor import checksum_of
from guidsvc.domain.events.entry import Entry, Kind, Origin
from guidsvc.domain.events.schedule import EventMode, EventPolicy
from guidsvc.domain.events.selection import EventSelection
from guidsvc.domain.record import DELETED_EXPIRE
from guidsvc.errors import EventsTrimmed, GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.store.event_log import PAGE_BYTES, Numbered
from guidsvc.store.mongo.events.log import MongoEventLog
from guidsvc.store.mongo.events.outbox import MAX_ITEMS
from guidsvc.store.mongo.events.sequencer import BATCH
from guidsvc.store.mongo.store import MongoStore, open_mongo
from guidsvc.telemetry.metrics import StoreMetrics
from tests.support.events import ALL, changed, numbered_after, until_newest
from tests.support.factories import GUID, record
from tests.support.mongo_documents import WAIT_SECONDS, Documents, drained

ORIGIN = Origin("ann", "r1")


async def kinds(store: MongoStore, count: int) -> list[tuple[Kind, int]]:
    """Return kind and version of each entry, and hold the numbers to be without a gap."""
    found = await numbered_after(store.events, 0, count)
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    return [(each.entry.kind, each.entry.version) for each in found]


async def advance(store: MongoStore, now: int) -> int:
    """Do all that is due, and return for how many records."""
    done = 0
    while step := await store.events.advance(now, 100):
        done += step
    return done


async def test_each_write_leaves_its_entry(store: MongoStore, now: int) -> None:
    first = record(now, owner="acme", metadata='{"a":1}')
    second = changed(first, now, expire=first.expire + 60)
    third = changed(second, now, user="another")
    tombstone = changed(third, now, expire=DELETED_EXPIRE, user="deleted", metadata=None)
    assert await store.records.swap(None, first, origin=ORIGIN)
    assert await store.records.swap(first, second)
    assert await store.records.swap(second, third)
    assert await store.records.swap(third, tombstone)

    found = await numbered_after(store.events, 0, 4)
    assert found[0] == Numbered(
        1,
        Entry("created", GUID, now, now, "acme", first.user, first.expire, '{"a":1}', caller="ann", request_id="r1"),
    )
    assert [each.entry.kind for each in found] == ["created", "renewed", "updated", "deleted"]
    assert [each.entry.changed for each in found] == ["", "expire", "user", ""]
    assert found[2].entry.former_user == first.user
    assert (found[3].entry.user, found[3].entry.version) == ("another", tombstone.version)


async def test_creation_with_a_deadline_leaves_its_entry(store: MongoStore, now: int) -> None:
    assert await store.records.swap(None, record(now, user="$expire"), not_after=now + 60_000)
    assert not await store.records.swap(None, record(now, guid="0" * 32), not_after=now - 60_000)

    (created,) = await numbered_after(store.events, 0, 1)
    assert created.entry.user == "$expire"


async def test_lost_swap_leaves_no_entry(store: MongoStore, now: int) -> None:
    first = record(now)
    assert await store.records.swap(None, first)
    assert not await store.records.swap(None, first)
    assert not await store.records.swap(changed(first, now), changed(changed(first, now), now))
    assert not await store.records.swap(first, changed(first, now), not_after=now - 60_000)
    assert await store.records.swap(first, changed(first, now, user="another"))

    assert await kinds(store, 2) == [("created", now), ("updated", now + 1)]


async def test_reader_of_a_record_does_not_see_its_outbox(store: MongoStore, now: int) -> None:
    first = record(now)
    await store.records.swap(None, first)

    assert await store.records.get(GUID) == first


async def test_renewal_after_the_expiry_logs_the_expiry_first(store: MongoStore, now: int) -> None:
    first = record(now - 60_000, expire=now // 1000 - 5)
    await store.records.swap(None, first)
    second = changed(first, now, expire=now // 1000 + 60)
    assert await store.records.swap(first, second)

    assert await kinds(store, 3) == [
        ("created", first.version),
        ("expired", first.version),
        ("renewed", second.version),
    ]
    assert await advance(store, now) == 0


async def test_expiry_is_logged_once_whoever_comes_first(store: MongoStore, now: int) -> None:
    first = record(now - 60_000, expire=now // 1000 - 5)
    await store.records.swap(None, first)
    assert await advance(store, now) == 1
    second = changed(first, now, expire=now // 1000 + 60)
    assert await store.records.swap(first, second)

    assert await kinds(store, 3) == [
        ("created", first.version),
        ("expired", first.version),
        ("renewed", second.version),
    ]


async def test_revocation_logs_the_expiry_with_the_update(store: MongoStore, now: int) -> None:
    first = record(now)
    second = changed(first, now, expire=now // 1000 - 1)
    await store.records.swap(None, first)
    await store.records.swap(first, second)

    assert await kinds(store, 3) == [("created", now), ("updated", now + 1), ("expired", now + 1)]
    assert await advance(store, now) == 0


async def test_warning_expiry_and_purge_are_due_in_turn(patient_mongo_url: str, now: int) -> None:
    seconds = now // 1000
    warned = record(now - 100_000, guid="A" * 32, expire=seconds + 40)
    expired = record(now - 100_000, guid="B" * 32, expire=seconds - 5)
    purged = record(now - 100_000, guid="C" * 32, expire=seconds - 5, purge_at=seconds - 4)
    async with open_mongo(patient_mongo_url, events=EventPolicy(warn_before=(45,))) as store:
        for each in (warned, expired, purged):
            await store.records.swap(None, each)
        assert await store.events.lag(now) > 0
        assert await advance(store, now) == 3
        found = await numbered_after(store.events, 0, 7)
        assert await store.events.lag(now) == 0

    timed = {(each.entry.guid[0], each.entry.kind, each.entry.lead) for each in found if each.entry.kind != "created"}
    assert timed == {("A", "expiring", 45), ("B", "expired", 0), ("C", "expired", 0), ("C", "purged", 0)}


async def test_purged_record_goes_once_its_entry_is_logged(store: MongoStore, documents: Documents, now: int) -> None:
    old = record(now - 100_000, expire=now // 1000 - 9, purge_at=now // 1000 - 4)
    await store.records.swap(None, old)
    assert await advance(store, now) == 1
    assert (await numbered_after(store.events, 0, 3))[-1].entry.kind == "purged"

    async with asyncio.timeout(WAIT_SECONDS):
        while documents["records"].count_documents({}):
            await asyncio.sleep(0.01)


async def test_tombstone_is_purged_without_an_entry(store: MongoStore, documents: Documents, now: int) -> None:
    first = record(now)
    tombstone = changed(first, now, expire=DELETED_EXPIRE, user="deleted", purge_at=now // 1000 - 4)
    await store.records.swap(None, first)
    await store.records.swap(first, tombstone)
    await numbered_after(store.events, 0, 2)

    async with asyncio.timeout(WAIT_SECONDS):
        while documents["records"].count_documents({}):
            await store.events.advance(now, 10)
            await asyncio.sleep(0.05)
    assert await kinds(store, 2) == [("created", now), ("deleted", now + 1)]


@pytest.mark.parametrize(
    ("mode", "expected"), [("all", ["created", "renewed", "updated"]), ("changes", ["created", "updated"]), ("off", [])]
)
async def test_policy_decides_what_is_logged(
    patient_mongo_url: str, now: int, mode: EventMode, expected: Sequence[Kind]
) -> None:
    first = record(now)
    second = changed(first, now, expire=first.expire + 1)
    third = changed(second, now, user="another")
    async with open_mongo(patient_mongo_url, events=EventPolicy(mode)) as store:
        await store.records.swap(None, first)
        await store.records.swap(first, second)
        await store.records.swap(second, third)
        assert await store.records.get(GUID) == third
        assert [kind for kind, _ in await kinds(store, len(expected))] == expected


async def test_full_outbox_is_drained_by_its_writer(
    patient_mongo_url: str, now: int, monkeypatch: pytest.MonkeyPatch, documents: Documents
) -> None:
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    async with open_mongo(patient_mongo_url) as store:
        current = record(now)
        await store.records.swap(None, current)
        for _ in range(MAX_ITEMS + 5):
            new = changed(current, now, user=f"user {current.version}")
            assert await store.records.swap(current, new)
            current = new
        assert len(documents["records"].find_one({"_id": GUID})["g"]["out"]) == 6  # type: ignore[index]
        assert await store.records.swap(current, None)
        assert len(await kinds(store, MAX_ITEMS + 6)) == MAX_ITEMS + 6


async def test_records_from_before_the_log_become_due(
    patient_mongo_url: str, store: MongoStore, documents: Documents, now: int
) -> None:
    """What had expired when the store was first opened with a log is not news; what expires later is."""
    seconds = now // 1000
    for guid, expire in ("A" * 32, seconds - 50), ("B" * 32, seconds - 5):
        await store.records.swap(None, record(now - 100_000, guid=guid, expire=expire))
    await drained(documents)
    assert now - 60_000 < documents["log_bounds"].find_one()["opened"] <= time.time_ns() // 1_000_000  # type: ignore[index]
    documents["records"].update_many({}, {"$unset": {"g": 1}})
    documents["log_bounds"].update_many({}, {"$set": {"opened": now - 20_000}})

    async with open_mongo(patient_mongo_url):
        assert documents["log_bounds"].find_one()["opened"] == now - 20_000  # type: ignore[index]
    await advance(store, now)
    assert [(each.entry.kind, each.entry.guid[0]) for each in (await numbered_after(store.events, 0, 3))[2:]] == [
        ("expired", "B")
    ]
    assert documents["records"].count_documents({"g.due": None}) == 0


async def test_backfill_and_due_steps_both_make_progress(store: MongoStore, documents: Documents, now: int) -> None:
    await asyncio.gather(
        *(
            store.records.swap(None, record(now - 100_000, guid=f"{number:032X}", expire=now // 1000 - 5))
            for number in range(60)
        )
    )
    await drained(documents)
    documents["records"].update_many({"_id": {"$gte": f"{30:032X}"}}, {"$unset": {"g": 1}})

    assert await store.events.advance(now, 16) == 16
    assert documents["records"].count_documents({"g": None}) == 28
    assert len(await numbered_after(store.events, 0, 74)) == 74


@pytest.mark.parametrize(
    "damage",
    [
        {"$unset": {"g.stage": 1}},
        {"$set": {"g.stage": "x"}},
        {"$set": {"g.due": [1]}},
        {"$set": {"g": [{"due": 1}]}},
        {"$set": {"g": 5}},
        {"$set": {"g.out": "x"}},
        {"$set": {"version": float("nan")}},
        {"$set": {"version": {"$x": 1}}},
    ],
    ids=str,
)
async def test_invalid_schedule_does_not_stop_the_others(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any, damage: dict[str, Any]
) -> None:
    expected_logs.add("corrupt record")
    for guid in "AB":
        await store.records.swap(None, record(now - 60_000, guid=guid * 32, expire=now // 1000 - 5))
    await drained(documents)
    documents["records"].update_one({"_id": "A" * 32}, damage)

    await advance(store, now)
    found = {each.entry.id for each in await numbered_after(store.events, 0, 3)}
    assert f"{'B' * 32}-{now - 60_000}-expired" in found
    assert await store.events.lag(now) == 0


async def test_corrupt_record_does_not_stop_the_others(
    store: MongoStore, documents: Documents, now: int, expected_logs: Any
) -> None:
    expected_logs.add("corrupt record")
    for guid in "AB":
        await store.records.swap(None, record(now - 60_000, guid=guid * 32, expire=now // 1000 - 5))
    await numbered_after(store.events, 0, 2)
    documents["records"].update_one({"_id": "A" * 32}, {"$set": {"user": 7}})

    await advance(store, now)
    assert (await numbered_after(store.events, 0, 3))[-1].entry.id.startswith("B" * 32)


async def test_index_that_deleted_records_is_dropped(patient_mongo_url: str, documents: Documents) -> None:
    documents["records"].create_index("purge_at", name="purge_at_ttl", expireAfterSeconds=0)
    for _ in range(2):
        async with open_mongo(patient_mongo_url):
            assert "purge_at_ttl" not in documents["records"].index_information()


async def test_two_stores_log_each_event_once(patient_mongo_url: str, now: int) -> None:
    async with open_mongo(patient_mongo_url) as one, open_mongo(patient_mongo_url) as another:
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


@pytest.mark.parametrize(("operation", "error"), [("_append", StoreUnavailable), ("_remove", OutcomeUnknown)])
async def test_batch_shrinks_while_mongodb_is_slow(
    patient_mongo_url: str, now: int, monkeypatch: pytest.MonkeyPatch, operation: str, error: type[GuidsvcError]
) -> None:
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    async with open_mongo(patient_mongo_url) as store:
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
        assert await kinds(store, 3) == [("created", now), ("created", now + 1), ("created", now + 2)]


async def test_only_one_store_advances(patient_mongo_url: str, now: int) -> None:
    async with open_mongo(patient_mongo_url) as one:
        await one.events.advance(now, 10)
        async with open_mongo(patient_mongo_url) as another:
            await another.records.swap(None, record(now - 60_000, expire=now // 1000 - 5))
            assert await another.events.advance(now, 10) == 0
            assert await one.events.advance(now, 10) == 1
    async with open_mongo(patient_mongo_url) as third:
        assert await third.events.advance(now, 10) == 0
        assert third.events._scheduling._is_held, "a closed store has given its lease up"


async def filled(store: MongoStore, now: int, count: int = 10) -> Sequence[Numbered]:
    """Create records, one after the other, with all that a selection can tell apart; return their entries."""
    for number in range(count):
        new = record(now + number, guid=f"{number:032X}", user=f"user {number % 2}", owner=f"owner {number % 3}")
        await store.records.swap(None, new)
        await numbered_after(store.events, 0, number + 1)
    return await numbered_after(store.events, 0, count)


@pytest.mark.parametrize(
    "selection",
    [
        ALL,
        EventSelection(owner="owner 1"),
        EventSelection(user="user 1"),
        EventSelection(guid_prefix="0" * 31 + "7"),
        EventSelection(guid_prefix="0" * 31),
        EventSelection(guid_prefix="1"),
        EventSelection(kinds=frozenset({"created"}), user="user 0", owner="owner 2"),
        EventSelection(kinds=frozenset({"expired"})),
    ],
)
async def test_page_holds_what_matches(store: MongoStore, now: int, selection: EventSelection) -> None:
    all_entries = await filled(store, now)
    page = await store.events.read(2, 100, selection)

    assert page.entries == [each for each in all_entries[2:] if selection.matches(each.entry)]
    assert (page.looked_to, page.newest) == (10, 10)
    assert page.looked_to_checksum == checksum_of(all_entries[-1].entry.id)


async def test_page_ends_at_its_limit(store: MongoStore, now: int) -> None:
    all_entries = await filled(store, now)
    page = await store.events.read(0, 2, EventSelection(user="user 1"))

    assert [each.number for each in page.entries] == [2, 4]
    assert (page.looked_to, page.newest) == (4, 10)
    assert page.looked_to_checksum == checksum_of(all_entries[3].entry.id)


async def test_page_ends_at_its_bytes(store: MongoStore, now: int) -> None:
    large = '{"a":"' + "x" * 16_000 + '"}'
    await asyncio.gather(
        *(store.records.swap(None, record(now, guid=f"{number:032X}", metadata=large)) for number in range(90))
    )
    await until_newest(store.events, 90)
    page = await store.events.read(0, 90, ALL)

    assert 0 < len(page.entries) < 90
    assert sum(len(each.entry.metadata or "") for each in page.entries) < PAGE_BYTES + 20_000
    assert page.looked_to == page.entries[-1].number


async def test_empty_log_has_bounds_and_an_empty_page(store: MongoStore) -> None:
    bounds = await store.events.bounds()
    assert bounds[1:] == (0, 0, 0, 0)
    page = await store.events.read(0, 10, ALL)
    assert page == ([], 0, 0, 0)
    assert await store.events.size() == (0, 0)
    assert await store.events.checksum(0) == 0
    assert await store.events.checksum(1) is None
    assert await store.events.trim(2**50, 0, 10) == 0


async def test_key_of_a_log_stays_and_differs_between_logs(
    patient_mongo_url: str, documents: Documents, store: MongoStore
) -> None:
    key = (await store.events.bounds()).key
    async with open_mongo(patient_mongo_url) as again:
        assert (await again.events.bounds()).key == key
    documents["log_bounds"].drop()
    async with open_mongo(patient_mongo_url) as another:
        other = (await another.events.bounds()).key
        assert other.epoch != key.epoch
        assert other.secret != key.secret


async def test_history_is_newest_first_and_goes_on(store: MongoStore, now: int) -> None:
    current = record(now)
    await store.records.swap(None, current)
    await store.records.swap(None, record(now, guid="0" * 32))
    for _ in range(5):
        new = changed(current, now, expire=now // 1000 - 5)
        await store.records.swap(current, new)
        current = new
    all_entries = [each for each in await numbered_after(store.events, 0, 12) if each.entry.guid == GUID]

    newest = await store.events.history(GUID, 2**53, 4)
    older = await store.events.history(GUID, newest[-1].number, 100)
    assert [*newest, *older] == all_entries[::-1]
    assert await store.events.history("F" * 32, 2**53, 10) == []


def append_at(documents: Documents, now: int) -> None:
    """Let entry 1 have been appended at this time, and each other one a millisecond after the one before."""
    for each in documents["log"].find({}, {"_id": 1}):
        documents["log"].update_one({"_id": each["_id"]}, {"$set": {"appended": now + each["_id"] - 1}})


async def test_entry_has_the_time_of_its_append(store: MongoStore, documents: Documents, now: int) -> None:
    """It is by the clock of the server, whatever the clock of a host says about the event."""
    await store.records.swap(None, record(now + 2**40))
    await numbered_after(store.events, 0, 1)
    (found,) = documents["log"].find()

    assert found["at"] == now + 2**40
    assert now <= found["appended"] <= time.time_ns() // 1_000_000
    assert await store.events.size() == (found["total"], found["appended"])


async def test_event_of_the_far_future_does_not_block_the_cut(store: MongoStore, now: int) -> None:
    await store.records.swap(None, record(now + 2**40, guid="F" * 32))
    await filled(store, now)

    async with asyncio.timeout(WAIT_SECONDS):
        while (await store.events.bounds()).floor < 9:
            await store.events.trim(now + 3_600_000, 2**40, 100)


async def test_log_is_cut_off_by_age_but_for_the_newest(store: MongoStore, documents: Documents, now: int) -> None:
    all_entries = await filled(store, now)
    append_at(documents, now)

    async with asyncio.timeout(WAIT_SECONDS):
        while (cut := await store.events.trim(now + 3, 2**40, 100)) == 0:
            await asyncio.sleep(0.01)
    assert cut == 3
    bounds = await store.events.bounds()
    assert (bounds.floor, bounds.newest) == (3, 10)
    assert bounds.floor_checksum == checksum_of(all_entries[2].entry.id) == await store.events.checksum(3)
    assert await store.events.checksum(2) is None
    with pytest.raises(EventsTrimmed):
        await store.events.read(2, 10, ALL)
    assert (await store.events.read(3, 10, ALL)).entries == all_entries[3:]
    assert await store.events.history(all_entries[0].entry.guid, 100, 10) == []
    assert (await store.events.size())[1] == now + 3

    assert await store.events.trim(now + 2**40, 2**40, 100) == 6
    assert (await store.events.read(9, 10, ALL)).entries == all_entries[9:]
    assert await store.events.trim(now + 2**40, 0, 100) == 0


async def test_log_is_cut_off_by_size_up_to_a_limit(store: MongoStore, now: int) -> None:
    await filled(store, now)
    size_bytes, _ = await store.events.size()

    async with asyncio.timeout(WAIT_SECONDS):
        while (cut := await store.events.trim(0, size_bytes // 2, 3)) == 0:
            await asyncio.sleep(0.01)
    assert cut == 3
    assert await store.events.trim(0, size_bytes // 2, 100) == 2
    assert (await store.events.size())[0] <= size_bytes // 2
    assert await store.events.trim(0, size_bytes // 2, 100) == 0


async def test_entries_are_deleted_once_no_sequencer_can_repeat_them(
    store: MongoStore, documents: Documents, now: int
) -> None:
    await filled(store, now, 5)
    append_at(documents, now)
    async with asyncio.timeout(WAIT_SECONDS):
        while await store.events.trim(now + 4, 2**40, 100) == 0:
            await asyncio.sleep(0.01)
    await store.events.trim(0, 2**40, 100)
    assert documents["log"].count_documents({}) == 5
    await asyncio.gather(
        *(store.records.swap(None, record(now, guid=f"{number:032X}")) for number in range(5, BATCH + 7))
    )
    await until_newest(store.events, BATCH + 7)
    await store.events.trim(0, 2**40, 100)
    assert documents["log"].count_documents({"_id": {"$lte": 4}}) == 0


async def test_log_is_cut_off_while_outboxes_are_pending(
    store: MongoStore, documents: Documents, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is itself in an outbox is never cut off, and what follows it."""
    await filled(store, now)
    await drained(documents)
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    await asyncio.sleep(0.3)  # until the sequencer waits
    await asyncio.gather(
        *(store.records.swap(None, record(now, guid=f"{number:032X}")) for number in range(100, 100 + BATCH + 50))
    )
    documents["records"].update_one(
        {"_id": f"{6:032X}"},
        {"$set": {"g.pending": 1, "g.out": [{"id": f"{6:032X}-{now + 6}"}]}},
    )

    assert await store.events.trim(now + 2**40, 2**40, 500) == 6
    assert (await store.events.bounds()).floor == 6


async def test_append_in_the_future_does_not_block_the_cut(store: MongoStore, documents: Documents, now: int) -> None:
    await filled(store, now)
    await drained(documents)
    append_at(documents, now)
    documents["log"].update_many({"_id": {"$lte": 4}}, {"$set": {"appended": now + 2**40}})

    assert [await store.events.trim(now + 6, 2**40, 2) for _ in range(4)] == [2, 2, 2, 0]


async def test_entries_are_deleted_as_fast_as_they_are_cut_off(
    store: MongoStore, documents: Documents, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidsvc.store.mongo.events.retention.BATCH", 4)
    for number in range(120):
        await store.records.swap(None, record(now, guid=f"{number:032X}"))
        if number % 6 == 5:
            await until_newest(store.events, number + 1)
            await drained(documents)
            assert await store.events.trim(now + 2**40, 2**40, 6) == (5 if number == 5 else 6)
    assert documents["log"].count_documents({}) <= 20


async def test_appended_events_are_counted_by_kind(patient_mongo_url: str, now: int) -> None:
    meter = StoreMetrics()
    async with open_mongo(patient_mongo_url, meter=meter) as store:
        await store.records.swap(None, first := record(now))
        await store.records.swap(first, first.model_copy(update={"version": now + 1, "updated": now + 1, "user": "b"}))
        await numbered_after(store.events, 0, 2)
    assert {kind: count for kind, count in meter.events.counts.items() if count} == {"created": 1, "updated": 1}


async def test_renewal_of_an_expired_record_is_always_logged(patient_mongo_url: str, now: int) -> None:
    async with open_mongo(patient_mongo_url, events=EventPolicy("changes")) as store:
        old = record(now - 60_000, expire=now // 1000 - 5)
        await store.records.swap(None, old)
        await store.records.swap(
            old, later := old.model_copy(update={"version": now, "updated": now, "expire": now // 1000 + 60})
        )
        longer = later.model_copy(update={"version": now + 1, "updated": now + 1, "expire": now // 1000 + 90})
        await store.records.swap(later, longer)
        assert [kind for kind, _ in await kinds(store, 3)] == ["created", "expired", "renewed"]
