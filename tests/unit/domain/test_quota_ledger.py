"""Quota ledgers: their decisions on reservation requests, and their storage."""

import asyncio
from collections.abc import AsyncIterator

import pymongo
import pytest

from guidsvc.domain.quota_ledger import LEASE_MS, ROOM_MS, LedgerUpdate, QuotaLedger, ReservationRequest, living
from guidsvc.errors import CorruptRecord, QuotaExceeded
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from tests.conftest import FakeClock
from tests.support.factories import GUID, record

NOW = 1_795_000_000_000
QUOTA = 3


def new_ledger(**fields: object) -> QuotaLedger:
    defaults: dict[str, object] = {
        "owner": "alice",
        "version": 1,
        "entries": "{}",
        "quota": 3,
        "room": 0,
        "room_until": 0,
    }
    return QuotaLedger.model_validate(defaults | fields)


def requests(count: int, start: int = 0) -> list[ReservationRequest]:
    return [ReservationRequest.of(f"{number:032X}", None) for number in range(start, start + count)]


def ledger_update(
    old: QuotaLedger | None, requested: list[ReservationRequest], *, ended: tuple[str, ...] = (), now: int = NOW
) -> LedgerUpdate:
    return LedgerUpdate(old, requested, ended=ended, quota=QUOTA, now=now)


def test_new_owner_is_counted_and_gets_the_remaining_room() -> None:
    requested = requests(2)
    update = ledger_update(None, requested)
    assert not update.has_room
    update.count(0)

    ledger = update.after("alice")
    assert ledger is not None
    assert (ledger.owner, ledger.version, ledger.room, ledger.room_until) == ("alice", 1, 1, NOW + ROOM_MS)
    assert update.results == {request.name: True for request in requested}


def test_no_count_while_there_is_room() -> None:
    old = new_ledger(room=2, room_until=NOW + 1)

    assert ledger_update(old, requests(2)).has_room
    assert not ledger_update(old, requests(3)).has_room
    assert not ledger_update(old, requests(1), now=NOW + 1).has_room, "the count is too old"
    assert not ledger_update(old, requests(1), now=NOW + 1 - 2 * ROOM_MS).has_room, "the clock was set back"
    assert not ledger_update(new_ledger(room=2, room_until=NOW + 1, quota=4), requests(1)).has_room, (
        "the count is for another quota"
    )


def test_first_request_is_admitted_and_others_await_its_outcome() -> None:
    requested = requests(5)
    update = ledger_update(None, requested)
    update.count(1)

    assert list(update.results.values()) == [True, True, False, False, False]


def test_request_over_the_stored_count_is_rejected() -> None:
    (request,) = requests(1)
    update = ledger_update(None, [request])
    update.count(QUOTA)

    assert isinstance(update.results[request.name], QuotaExceeded)
    assert update.after("alice") is None, "nothing is written"


def test_reservation_holds_a_place_until_returned_or_expired() -> None:
    update = ledger_update(None, requests(2))
    update.count(0)
    ledger = update.after("alice")
    assert ledger is not None
    (first, second), (request,) = requests(2), requests(1, start=9)
    names = tuple(update.results)

    for ended, now, expected in (((), NOW, False), (names[:1], NOW, True), ((), NOW + LEASE_MS, True)):
        next_update = ledger_update(ledger, [request], ended=ended, now=now)
        next_update.count(1)
        assert next_update.results[request.name] is expected
    assert ledger_update(ledger, [request]).others("alice") == living(
        "alice", NOW, frozenset({first.guid, second.guid})
    )


def test_record_created_elsewhere_meanwhile_frees_no_place() -> None:
    """It was read as absent, and is live by now; other creations have only the remaining room."""
    new, stale = requests(2)
    live = {stale.guid} | {request.guid for request in requests(QUOTA - 1, start=9)}
    for requested in ([new, stale], [stale, new]):
        update = ledger_update(None, requested)
        update.count(len(live - update.others("alice").excluding))

        assert [str(result) for result in update.results.values()] == [str(QuotaExceeded(QUOTA))] * 2


def test_reserved_guid_takes_no_second_place() -> None:
    update = ledger_update(None, requests(QUOTA))
    update.count(0)
    repeated, newcomer = *requests(1), *requests(1, start=9)
    next_update = ledger_update(update.after("alice"), [newcomer, repeated])
    next_update.count(0)

    assert next_update.results == {newcomer.name: False, repeated.name: True}


def test_reservations_share_places_only_if_all_fit() -> None:
    """The reservation of a record that was deleted since it was read holds a place that no longer exists."""
    update = ledger_update(None, requests(QUOTA))
    update.count(0)
    (repeated,) = requests(1)
    next_update = ledger_update(update.after("alice"), [repeated])
    next_update.count(1)

    assert next_update.results == {repeated.name: False}


def test_live_record_keeps_its_place_and_expired_one_needs_one() -> None:
    old = record(NOW, expire=NOW // 1000 + 1)
    request, newcomer = ReservationRequest.of(GUID, old), ReservationRequest.of("0" * 32, None)
    for now, is_live in ((NOW, True), (NOW + 1000, False)):
        update = ledger_update(None, [newcomer, request], now=now)
        update.count(QUOTA - 1 if is_live else QUOTA)
        assert (update.results[request.name] is True) is is_live
        assert isinstance(update.results[newcomer.name], QuotaExceeded)


def test_unchanged_page_is_not_written() -> None:
    old = new_ledger(entries=f'{{"{GUID}00": {NOW + 1}}}')

    assert ledger_update(old, []).after("alice") is None
    assert ledger_update(old, [], ended=(f"{GUID}00",)).after("alice") == new_ledger(version=2)
    assert ledger_update(old, [], now=NOW + 1).after("alice") == new_ledger(version=2)


@pytest.fixture(params=["sqlite", "mongo"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[Database]:
    async with open_store(url, exclusive=False) as opened:
        yield opened


@pytest.mark.parametrize("owner", ["", "alice", "Zürich 🜁"])
async def test_ledger_is_stored_as_put_and_changed_by_version(store: Database, owner: str) -> None:
    first = new_ledger(owner=owner)
    second = new_ledger(owner=owner, version=2, entries=f'{{"{GUID}0123": {NOW}}}', quota=7, room=5, room_until=NOW)

    assert await store.ledgers.get(owner) is None
    assert await store.ledgers.swap(None, first)
    assert not await store.ledgers.swap(None, second)
    assert await store.ledgers.get(owner) == first
    assert await store.ledgers.swap(first, second)
    assert not await store.ledgers.swap(first, second)
    assert await store.ledgers.get(owner) == second


async def test_one_of_fifty_racing_ledger_changes_wins(store: Database) -> None:
    old = new_ledger()
    await store.ledgers.swap(None, old)
    rivals = [new_ledger(version=2, room=number) for number in range(50)]

    results = await asyncio.gather(*(store.ledgers.swap(old, rival) for rival in rivals))

    assert results.count(True) == 1
    assert await store.ledgers.get("alice") == rivals[results.index(True)]


async def test_tally_includes_the_latest_write_of_another_process(store: Database, url: str, clock: FakeClock) -> None:
    async with open_store(url, exclusive=False) as other_store:
        for number in range(20):
            new = record(clock(), guid=f"{number:032X}", owner="alice")
            assert await other_store.records.swap(None, new)
            assert await store.records.count_linearizable(living("alice", clock())) == 1
            assert await store.records.count_linearizable(living("alice", clock(), without=frozenset({new.guid}))) == 0
            assert await other_store.records.swap(new, None)
            assert await store.records.count_linearizable(living("alice", clock())) == 0


async def test_tally_counts_live_records(store: Database, clock: FakeClock) -> None:
    for number, expire in enumerate((0, clock.seconds, clock.seconds + 1)):
        await store.records.swap(None, record(clock(), guid=f"{number:032X}", owner="alice", expire=expire))

    assert await store.records.count_linearizable(living("alice", clock())) == 1
    assert await store.records.count_linearizable(living("alice", clock() + 999)) == 1
    assert await store.records.count_linearizable(living("alice", clock() + 1000)) == 0


@pytest.mark.parametrize("entries", ["[]", '{"a": "b"}', "nonsense"])
async def test_invalid_ledger_is_reported_as_corrupt(mongo_url: str, entries: str) -> None:
    async with open_store(mongo_url, exclusive=False) as store:
        await store.ledgers.swap(None, new_ledger())
        with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
            client.get_default_database()["ledgers"].update_one({"_id": "alice"}, {"$set": {"entries": entries}})
        with pytest.raises(CorruptRecord):
            await store.ledgers.get("alice")
