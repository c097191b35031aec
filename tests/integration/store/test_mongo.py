"""The MongoDB store, beyond the store's contract: durability, round trips, indexes and faults."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pymongo
import pytest
from pymongo import monitoring
from pymongo.errors import (
    AutoReconnect,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from guidsvc.domain import api_key as keys
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.receipt import Receipt
from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import CorruptRecord, OutcomeUnknown, StartError, StoreUnavailable
from guidsvc.runtime.fairness.decoding_turns import READERS, VALIDATED_BYTES
from guidsvc.store.mongo import records as records_module
from guidsvc.store.mongo.bulkhead import TIMEOUT_MS as TIMEOUT_MS_OF_STORE
from guidsvc.store.mongo.documents import LEASED, document_of, filter_of, model_of
from guidsvc.store.mongo.events.log import MongoEventLog
from guidsvc.store.mongo.expiry_search import NEAR, ExpirySearch
from guidsvc.store.mongo.failures import write_failure
from guidsvc.store.mongo.records import PROOF_SECONDS, SETTLED
from guidsvc.store.mongo.store import MongoStore, open_mongo
from tests.conftest import FakeClock
from tests.support.backing_servers import Server
from tests.support.factories import GUID, record
from tests.support.network_proxy import Damage, proxy
from tests.support.patience import MONGO_PATIENT_MS
from tests.support.turn_counter import TurnCounter

TIMEOUT_MS = 1_000


class Commands(monitoring.CommandListener):
    """The commands that all clients sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def named(self, name: str, collection: str = "records") -> list[dict[str, Any]]:
        """Return the commands of this name on a collection."""
        return [command for command in self.sent if command.get(name) == collection]


@pytest.fixture(scope="module")
def listener() -> Commands:
    commands = Commands()
    monitoring.register(commands)
    return commands


@pytest.fixture
def commands(listener: Commands) -> Commands:
    listener.sent.clear()
    return listener


@pytest.fixture
def idle_sequencer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sequencer of a store send no commands of its own."""
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)


@pytest.fixture
def url_of_idle_store(commands: Commands, mongo_url: str, idle_sequencer: None) -> str:
    """A database whose stores have an idle sequencer."""
    return mongo_url


@pytest.fixture
async def store(url_of_idle_store: str) -> AsyncIterator[MongoStore]:
    async with open_mongo(url_of_idle_store) as opened:
        yield opened


@pytest.fixture
async def store_with_time_limit(url_of_idle_store: str) -> AsyncIterator[MongoStore]:
    """A store with the time limit that the service has, which its commands show."""
    async with open_mongo(url_of_idle_store, timeout_ms=TIMEOUT_MS_OF_STORE) as opened:
        yield opened


async def test_writes_need_journaled_majority_and_are_retryable(
    store: MongoStore, commands: Commands, clock: FakeClock
) -> None:
    old, new = record(clock()), record(clock(), version=clock() + 1)
    await store.records.swap(None, old)
    await store.records.swap(old, new)
    await store.records.swap(new, None)

    writes = [command for command in commands.sent if {"insert", "update", "delete", "findAndModify"} & set(command)]
    for command in writes:
        assert command["writeConcern"] == {"w": "majority", "j": True} | command["writeConcern"]
        assert "txnNumber" in command
    assert {next(iter(command)) for command in writes} == {"insert", "update", "delete"}
    assert len(commands.named("insert", "log")) == 1


async def test_url_cannot_weaken_write_guarantees(mongo_url: str, commands: Commands, clock: FakeClock) -> None:
    async with open_mongo(f"{mongo_url}?w=0&journal=false&retryWrites=false&readPreference=secondary") as store:
        assert await store.records.swap(None, record(clock()))
        await store.fence.read()
        await store.records.get(GUID)

    assert (
        commands.named("insert")[0]["writeConcern"]
        == {"w": "majority", "j": True} | (commands.named("insert")[0]["writeConcern"])
    )
    assert "txnNumber" in commands.named("insert")[0]
    assert commands.named("find")[0]["readConcern"]["level"] == "majority"


async def test_operation_on_one_record_carries_its_id(store: MongoStore, commands: Commands, clock: FakeClock) -> None:
    old, new = record(clock()), record(clock(), version=clock() + 1)
    await store.records.swap(None, old)
    await store.records.swap(old, new)
    await store.records.get(GUID)
    await store.records.swap(new, None)

    assert commands.named("insert")[0]["documents"][0]["_id"] == GUID
    assert commands.named("update")[0]["updates"][0]["q"]["_id"] == GUID
    assert commands.named("find")[0]["filter"] == {"_id": {"$in": [GUID]}}
    assert commands.named("delete")[0]["deletes"][0]["q"]["_id"] == GUID


async def test_write_starts_and_ends_before_its_deadline(
    store_with_time_limit: MongoStore, commands: Commands, clock: FakeClock
) -> None:
    store = store_with_time_limit
    old, new = record(clock()), record(clock(), version=clock() + 1)
    await store.records.swap(None, old)
    not_after = (await store.fence.read()).now + 60_000

    assert await store.records.swap(old, new, not_after=not_after)
    assert await store.records.swap(new, None, not_after=not_after)

    update, delete = commands.named("update")[0], commands.named("delete")[-1]
    for command, (sent,) in (update, update["updates"]), (delete, delete["deletes"]):
        _, begin_ms = sent["q"]["$expr"]["$lte"]
        assert 0 < command["maxTimeMS"] <= not_after - begin_ms <= 2_000


async def test_write_past_its_deadline_is_not_sent(store: MongoStore, commands: Commands, clock: FakeClock) -> None:
    old = record(clock())
    await store.records.swap(None, old)

    assert not await store.records.swap(old, None, not_after=(await store.fence.read()).now)

    assert commands.named("delete") == []
    assert await store.records.get(GUID) == old


async def test_creation_with_deadline_is_a_durable_batched_upsert(
    store: MongoStore, commands: Commands, clock: FakeClock
) -> None:
    in_time = (await store.fence.read()).now + 60_000
    records = [record(clock(), guid=f"{number:032X}") for number in range(100)]
    assert all(await asyncio.gather(*(store.records.swap(None, each, not_after=in_time) for each in records)))

    (command,) = commands.named("update")
    assert command["writeConcern"] == {"w": "majority", "j": True} | command["writeConcern"]
    assert "txnNumber" in command
    assert [(update["q"]["_id"], update["upsert"]) for update in command["updates"]] == [
        (each.guid, True) for each in records
    ]
    assert commands.named("insert") == []


async def test_write_reaching_the_server_past_its_deadline_is_rejected(own_mongo: Server, clock: FakeClock) -> None:
    stored = record(clock(), guid="0" * 32)
    async with open_mongo(f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc", timeout_ms=MONGO_PATIENT_MS) as store:
        await store.records.swap(None, stored)
        not_after = (await store.fence.read()).now + 50
        own_mongo.pause()
        creation = store.records.swap(None, record(clock()), not_after=not_after + TIMEOUT_MS_OF_STORE)
        deletion = store.records.swap(stored, None, not_after=not_after)
        writes = asyncio.gather(creation, deletion, return_exceptions=True)
        while time.time() * 1000 <= not_after:
            await asyncio.sleep(0.01)
        own_mongo.resume()
        created, deleted = await writes
        assert created is False
        assert deleted is False or isinstance(deleted, OutcomeUnknown), "its deadline passed before the reply"
        assert await store.records.get(GUID) is None
        assert await store.records.get(stored.guid) == stored


async def test_creation_starts_early_enough_for_its_deadline(
    store_with_time_limit: MongoStore, commands: Commands, clock: FakeClock
) -> None:
    """MongoDB compares the time when a command begins; it may wait then until its time limit ends."""
    records = store_with_time_limit.records
    now = (await store_with_time_limit.fence.read()).now

    assert not await records.swap(None, record(clock()), not_after=now + TIMEOUT_MS_OF_STORE - 1)
    assert await records.swap(None, record(clock()), not_after=now + TIMEOUT_MS_OF_STORE + 60_000)
    assert all(command["maxTimeMS"] <= TIMEOUT_MS_OF_STORE for command in commands.named("update"))


def levels(commands: Commands) -> list[str]:
    """Return the read concerns of the reads of records."""
    return [command["readConcern"]["level"] for command in commands.named("find")]


async def test_read_is_valid_only_while_a_fence_reading_proves_primary(
    store: MongoStore, commands: Commands, clock: FakeClock
) -> None:
    await store.records.swap(None, record(clock()))

    assert await store.records.get(GUID) == record(clock())
    await store.fence.read()
    assert await store.records.get(GUID) == record(clock())
    store.fence.clock.set(time.monotonic() - PROOF_SECONDS, 0)
    assert await store.records.get_for_update(GUID) == record(clock())

    assert levels(commands) == ["linearizable", "majority", "linearizable"]


async def test_read_that_ends_after_the_proof_is_repeated(
    own_mongo: Server, commands: Commands, clock: FakeClock
) -> None:
    async with open_mongo(f"mongodb://127.0.0.1:{own_mongo.port}", timeout_ms=MONGO_PATIENT_MS) as store:
        await store.records.swap(None, record(clock()))
        await store.records.get(GUID)
        commands.sent.clear()
        own_mongo.pause()
        store.fence.clock.set(time.monotonic() - PROOF_SECONDS + 0.5, 0)
        reading = asyncio.create_task(store.records.get(GUID))
        while store.fence.clock.is_known(PROOF_SECONDS):
            await asyncio.sleep(0.01)
        own_mongo.resume()

        assert await reading == record(clock())

    assert levels(commands) == ["majority", "linearizable"]


async def test_sole_writer_needs_no_proof(mongo_url: str, commands: Commands, clock: FakeClock) -> None:
    async with open_mongo(mongo_url, exclusive=True) as store:
        await store.records.swap(None, record(clock()))
        await store.records.get(GUID)

    assert levels(commands) == ["majority"]


async def test_fence_and_key_are_read_linearizably_by_id(store: MongoStore, commands: Commands) -> None:
    await store.fence.read()
    await store.api_keys.get("k")

    (fence,) = [command for command in commands.sent if command.get("aggregate") == "fence"]
    (key,) = [command for command in commands.sent if command.get("find") == "keys"]
    assert fence["readConcern"]["level"] == key["readConcern"]["level"] == "linearizable"
    assert fence["pipeline"][0] == {"$match": {"_id": "records"}}
    assert key["filter"] == {"_id": "k"}


async def test_one_reply_holds_all_linearizable_reads(store: MongoStore, commands: Commands) -> None:
    await asyncio.gather(*(store.records.get_linearizable(f"{number:032X}") for number in range(SETTLED + 1)))

    assert sorted(len(command["filter"]["_id"]["$in"]) for command in commands.named("find")) == [1, SETTLED]
    assert set(levels(commands)) == {"linearizable"}


async def test_reads_of_one_loop_turn_share_one_query(store: MongoStore, commands: Commands) -> None:
    await asyncio.gather(*(store.records.get(f"{number % 30:032X}") for number in range(90)))

    assert [len(command["filter"]["_id"]["$in"]) for command in commands.named("find")] == [30]


@pytest.mark.parametrize("way", ["get", "get_linearizable", "find", "find_by_expire"])
async def test_little_metadata_of_documents_is_validated_per_loop_turn(
    store: MongoStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """However many documents a query finds, because all other requests wait for the end of a turn."""
    counter, metadata = TurnCounter(), json.dumps({"a": "b" * (VALIDATED_BYTES // 2 - 100)})
    made = [record(clock(), guid=f"{number:032X}", metadata=metadata) for number in range(32)]
    assert all(await asyncio.gather(*(store.records.swap(None, each) for each in made)))
    await store.fence.read()
    everything = Selection(kept_at=clock() // 1000)
    monkeypatch.setattr(records_module, "model_of", counter.counted(model_of))
    async with counter.following_turns():
        if way == "find":
            found: list[Record | None] = list(await store.records.find(everything, "", len(made)))
        elif way == "find_by_expire":
            found = list(await store.records.find_by_expire(everything, Position.start("expire"), len(made)))
        else:
            found = await asyncio.gather(*(getattr(store.records, way)(each.guid) for each in made))

    assert found == made
    assert 1 <= counter.most <= 2 * READERS


async def test_indexes_are_created_once_and_again_without_harm(store: MongoStore, mongo_url: str) -> None:
    async with open_mongo(mongo_url):
        pass
    indexes = await store.records._collection.index_information()

    assert "purge_at_ttl" not in indexes, "MongoDB would delete records whose events are not in the log"
    assert indexes["g_due"]["key"] == [("g.due", 1)]
    assert indexes["g_pending"]["sparse"]
    assert indexes["owner_expire_key"]["partialFilterExpression"] == {"owner": {"$gt": ""}}
    assert (await store.receipts._collection.index_information())["purge_at_ttl"]["expireAfterSeconds"] == 0
    assert (await store.records._collection.database["log"].index_information())["event"]["unique"]


async def test_store_name_changes_after_exclusive_use(mongo_url: str) -> None:
    names = []
    for exclusive in (False, False, True, False):
        async with open_mongo(mongo_url, exclusive=exclusive) as store:
            names.append(await store.store_id())

    assert names[0] == names[1]
    assert names[2] == names[3]
    assert len(set(names)) == 2


def test_document_of_a_key_without_note_is_that_of_version_0_1(clock: FakeClock) -> None:
    """A process of that version, which still runs during an upgrade, rejects a document with an unknown field."""
    key, _ = keys.generate("alice", ["read"], clock())

    assert "note" not in document_of(key)
    assert document_of(key.model_copy(update={"note": "n"}))["note"] == "n"


async def test_purge_at_is_stored_as_a_date(store: MongoStore, mongo_url: str, clock: FakeClock) -> None:
    await store.records.swap(None, new := record(clock()))

    with pymongo.MongoClient[dict[str, Any]](mongo_url, tz_aware=True) as client:
        document = client.get_default_database()["records"].find_one({"_id": GUID})
    assert document is not None
    assert document["purge_at"].timestamp() == new.purge_at


@pytest.mark.parametrize(
    "change",
    [{"user": ""}, {"expire": "soon"}, {"expire": 1.5}, {"version": None}, {"purge_at": 7.5}, {"color": "red"}],
)
async def test_corrupt_document_is_reported_and_others_are_served(
    store: MongoStore, mongo_url: str, clock: FakeClock, change: dict[str, Any]
) -> None:
    intact = record(clock(), guid="0" * 32)
    await asyncio.gather(store.records.swap(None, record(clock())), store.records.swap(None, intact))
    with pymongo.MongoClient[dict[str, Any]](mongo_url) as client:
        client.get_default_database()["records"].update_one({"_id": GUID}, {"$set": change})

    broken, read = await asyncio.gather(store.records.get(GUID), store.records.get(intact.guid), return_exceptions=True)
    assert isinstance(broken, CorruptRecord)
    assert read == intact


async def written(store: MongoStore, new: Record) -> None:
    """Create a record. Repeat that until it is read: a busy machine may take longer than the time limit."""
    while await eventually(store, new.guid) != new:
        with suppress(OutcomeUnknown, StoreUnavailable):
            await store.records.swap(None, new)


async def test_paused_server_fails_reads_and_leaves_writes_unknown(own_mongo: Server, clock: FakeClock) -> None:
    url = f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc"
    async with open_mongo(url, timeout_ms=TIMEOUT_MS) as store:
        await written(store, old := record(clock()))
        own_mongo.pause()
        with pytest.raises(StoreUnavailable):
            await store.records.get(GUID)
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            await store.records.swap(old, record(clock(), version=clock() + 1))
        with pytest.raises(StoreUnavailable):
            await store.ping()
        own_mongo.resume()
        assert await eventually(store) is not None


@pytest.mark.usefixtures("idle_sequencer")
async def test_write_without_reply_is_unknown_and_may_still_apply(own_mongo: Server, clock: FakeClock) -> None:
    url = f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc"
    async with open_mongo(url, timeout_ms=TIMEOUT_MS) as store:
        await written(store, record(clock(), guid="0" * 32))  # so that a connection is open, and free
        own_mongo.pause()
        with pytest.raises(OutcomeUnknown):
            await store.records.swap(None, record(clock()))
        own_mongo.resume()
        while await eventually(store) is None:
            await asyncio.sleep(0)


async def test_write_to_dead_server_fails_only_if_never_sent(own_mongo: Server, clock: FakeClock) -> None:
    url = f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc"
    async with open_mongo(url, timeout_ms=TIMEOUT_MS) as store:
        await written(store, old := record(clock()))
        own_mongo.kill()
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            await store.records.swap(old, None)
        with pytest.raises(StoreUnavailable):
            await store.records.swap(old, None)
        with pytest.raises(StoreUnavailable):
            await store.records.get(GUID)
        own_mongo.start()
        assert await eventually(store) == old


async def test_write_with_lost_reply_is_verified_and_reported_done(own_mongo: Server, clock: FakeClock) -> None:
    created, updated = record(clock.now), record(clock.now, version=clock.now + 1)
    async with proxy(own_mongo.port, random.Random(7)) as mongo_proxy:
        url = f"mongodb://127.0.0.1:{mongo_proxy.port}/test?directConnection=true"
        changes = [(None, created), (created, updated), (updated, None)]
        async with open_mongo(url) as store:
            for number, (old, new) in enumerate(changes):
                with mongo_proxy.damaging(Damage.SWALLOWED, max_count=1):
                    assert await store.records.swap(old, new)
                assert mongo_proxy.resets == number + 1
                assert await store.records.get(GUID) == new


async def test_silent_server_stops_the_start(own_mongo: Server) -> None:
    own_mongo.kill()

    with pytest.raises(StartError, match="MongoDB cannot be used"):
        async with open_mongo(f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc", timeout_ms=TIMEOUT_MS):
            pass


@pytest.mark.parametrize("url", ["mongodb://", "mongodb://host:port/", "mongodb://h/?w=many&x", "mongodb://h/a b"])
async def test_malformed_url_stops_the_start(url: str) -> None:
    with pytest.raises(StartError, match="store_url"):
        async with open_mongo(url, timeout_ms=TIMEOUT_MS):
            pass


@pytest.mark.parametrize(
    "error",
    [
        WaitQueueTimeoutError("no connection"),  # perhaps for the retry of a write whose reply was lost
        AutoReconnect("connection closed"),
        NetworkTimeout("timed out"),
        ExecutionTimeout("operation exceeded time limit", 50),
        WriteConcernError("waiting for replication timed out", 64),
        WTimeoutError("waiting for replication timed out", 64),
        OperationFailure("interrupted at shutdown", 11600, {"errorLabels": ["RetryableWriteError"]}),
    ],
)
def test_possibly_executed_write_is_never_reported_failed(error: PyMongoError) -> None:
    for label in (getattr(error, "details", None) or {}).get("errorLabels", []):
        error._add_error_label(label)
    assert isinstance(write_failure(error), OutcomeUnknown)


@pytest.mark.parametrize(
    "error",
    [
        ServerSelectionTimeoutError("no primary"),
        OperationFailure("not authorized", 13),
    ],
)
def test_write_that_surely_failed_is_unavailable(error: PyMongoError) -> None:
    assert isinstance(write_failure(error), StoreUnavailable)


async def eventually(store: MongoStore, guid: str = GUID) -> Record | None:
    """Read a record once the server replies again."""
    while True:
        try:
            return await store.records.get(guid)
        except StoreUnavailable:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("selection", "index"),
    [
        (Selection(), {"_id": 1}),
        (Selection(user="x"), {"user": 1, "_id": 1, "expire": 1, "purge_at": 1}),
        (Selection(user="x", expire_from=1), {"expire": 1, "_id": 1, "purge_at": 1}),
        (Selection(expire_from=1, expire_before=9), {"expire": 1, "_id": 1, "purge_at": 1}),
        (Selection(owner="x"), {"owner": 1, "_id": 1, "expire": 1, "purge_at": 1}),
        (Selection(owner="x", user="y"), {"owner": 1, "user": 1, "_id": 1, "expire": 1, "purge_at": 1}),
        (Selection(owner="x", expire_from=1), {"owner": 1, "expire": 1, "_id": 1, "purge_at": 1}),
        (Selection(owner="x", user="y", expire_from=1), {"owner": 1, "expire": 1, "_id": 1, "purge_at": 1}),
        (Selection(owner="", expire_from=1), {"expire": 1, "_id": 1, "purge_at": 1}),
    ],
    ids=str,
)
async def test_every_search_uses_an_index(mongo_url: str, selection: Selection, index: dict[str, int]) -> None:
    async with open_mongo(mongo_url) as store:
        hint = await store.records.index_for(selection)
        cursor = store.records._collection.find({"_id": {"$gt": ""}} | filter_of(selection)).hint(hint).sort("_id", 1)
        plan = (await cursor.explain())["queryPlanner"]["winningPlan"]

    stages = []
    while plan:
        stages.append(plan)
        plan = plan.get("inputStage")
    assert "COLLSCAN" not in {stage["stage"] for stage in stages}
    assert [stage["keyPattern"] for stage in stages if stage["stage"] == "IXSCAN"] == [index]


@pytest.mark.parametrize("near", [1, 5, 1000])
async def test_near_and_selected_pages_by_expiry_are_the_same(mongo_url: str, clock: FakeClock, near: int) -> None:
    async with open_mongo(mongo_url) as store:
        later = clock.seconds + 3600
        records = [
            record(clock(), guid=f"{n:032X}", expire=later + n % 7, user=f"{n % 3}", owner="a" * (n % 2))
            for n in range(50)
        ]
        await asyncio.gather(*(store.records.swap(None, each) for each in records))
        records.sort(key=lambda each: (each.expire, each.guid))

        for selection, index, key_index in (
            (Selection(user="1"), "expire_key", "user_key"),
            (Selection(user="1", expire_from=later + 2, expire_before=later + 5), "expire_key", "user_key"),
            (Selection(owner="a"), "owner_expire_key", None),
            (Selection(owner="a", user="1"), "owner_expire_key", "owner_user_key"),
        ):
            search = ExpirySearch(store.records._collection, selection, index=index, key_index=key_index, near=near)
            for position, limit in itertools.product((0, 20, 45, 49), (1, 5, 50)):
                found = await search.page(Position(records[position].guid, records[position].expire), limit)
                expected = [each.guid for each in records[position + 1 :] if selection.holds(each)]
                assert [document["_id"] for document in found] == expected[:limit]


async def test_page_by_expiry_reads_no_more_documents_than_it_returns(
    mongo_url: str, clock: FakeClock, commands: Commands
) -> None:
    """A document may have 16 KiB."""
    async with open_mongo(mongo_url) as store:
        later = clock.seconds + 3600
        records = [record(clock(), guid=f"{n:032X}", expire=later + n, user="ab"[n % 2]) for n in range(10)]
        await asyncio.gather(*(store.records.swap(None, each) for each in records))
        collection = store.records._collection
        search = ExpirySearch(collection, Selection(user="a"), index="expire_key", key_index="user_key")
        commands.sent.clear()
        found = await search.page(Position("", 0), 2)

    assert [document["_id"] for document in found] == [records[index].guid for index in (0, 2)]
    whole = [command for command in commands.named("find") if "expire" not in command["projection"]]
    assert [command["limit"] for command in whole] == [2]


async def test_page_by_expiry_is_whole_although_a_record_moves(
    mongo_url: str, clock: FakeClock, commands: Commands
) -> None:
    """It moves between the search and the read of its document; it is left out, and the next record follows."""
    async with open_mongo(mongo_url) as store:
        later = clock.seconds + 3600
        records = [record(clock(), guid=f"{n:032X}", expire=later + n, user="a") for n in range(5)]
        await asyncio.gather(*(store.records.swap(None, each) for each in records))
        collection = store.records._collection
        search = ExpirySearch(collection, Selection(user="a"), index="expire_key", key_index="user_key", near=1)
        read, moved = search._documents, list[object]()

        async def move_and_read(entries: list[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], bool]:
            if len(entries) == 3 and not moved:
                moved.append(await collection.update_one({"_id": records[2].guid}, {"$set": {"expire": later + 9}}))
            return await read(entries, limit)

        search._documents = move_and_read  # type: ignore[method-assign]
        found = await search.page(Position("", 0), 3)
    assert moved
    assert [document["_id"] for document in found] == [records[index].guid for index in (0, 1, 3)]


async def test_frequent_matches_are_searched_in_key_order(mongo_url: str, clock: FakeClock) -> None:
    async with open_mongo(mongo_url, few=3) as store:
        for number in range(4):
            await store.records.swap(None, record(clock(), guid=f"{number:032X}"))
        assert await store.records.index_for(Selection(expire_from=1)) == "_id_"
        assert await store.records.index_for(Selection(expire_from=1, user="x")) == "user_key"
        assert len(await store.records.find(Selection(expire_from=1), "", 10)) == 4


@pytest.mark.parametrize("user", [None, "u"])
async def test_search_for_an_owner_reads_no_entries_of_others(
    mongo_url: str, clock: FakeClock, commands: Commands, user: str | None
) -> None:
    """Its commands and their indexes are the same, however many records of others expire in its range."""
    selection = Selection(owner="a", user=user, expire_from=1)
    async with open_mongo(mongo_url) as store:
        sent = []
        for begin, end in itertools.pairwise([0, 0, NEAR - 1, NEAR + 1]):
            others = [record(clock(), guid=f"{number:032X}", owner="b") for number in range(begin, end)]
            if others:
                await store.records._collection.insert_many(map(document_of, others))
            commands.sent.clear()
            assert await store.records.find(selection, "", 9) == []
            assert await store.records.find_by_expire(selection, Position("", 0), 9) == []
            assert await store.records.count(selection) == 0
            searches = commands.named("find") + commands.named("aggregate")
            pairs = [(str(each.get("filter") or each["pipeline"]), each.get("hint")) for each in searches]
            sent.append([each for each in pairs if "'g." not in each[0]])  # without those of the sequencer

    assert sent[1:] == sent[:1] * 2
    key_index = "owner_key" if user is None else "owner_user_key"
    assert {hint for _, hint in sent[0]} == {"owner_expire_key", key_index}
    assert all("'owner': 'a'" in wanted for wanted, _ in sent[0])


async def test_write_rejected_by_the_database_hides_its_record(mongo_url: str, clock: FakeClock) -> None:
    async with open_mongo(mongo_url) as store:
        old = record(clock(), user="old")
        await store.records.swap(None, old)
        with pymongo.MongoClient[dict[str, Any]](mongo_url) as client:
            rules = {"$jsonSchema": {"properties": {"user": {"enum": ["old"]}}}}
            client.get_default_database().command("collMod", "records", validator=rules)
        rejected = record(clock(), user="canary", guid="A" * 32)
        for before, after in ((None, rejected), (old, record(clock(), user="canary", version=clock() + 1))):
            with pytest.raises((OutcomeUnknown, StoreUnavailable), match="code 121") as error:
                await store.records.swap(before, after)
            assert "canary" not in str(error.value)


def put_receipts(url: str, clock: FakeClock, number: int, **fields: object) -> list[str]:
    """Store receipts past the service; return their keys in order."""
    receipts = [
        Receipt.model_validate(plain_receipt(clock) | {"key": f"{index:096x}"} | fields) for index in range(number)
    ]
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        client.get_default_database()["receipts"].insert_many([document_of(new) for new in receipts])
    return [new.key for new in receipts]


def plain_receipt(clock: FakeClock) -> dict[str, Any]:
    """Return the fields of a receipt without a response."""
    now = clock()
    return {
        "fingerprint": "f" * 64,
        "attempt": 1,
        "leased_until": now,
        "seed": "0" * 32,
        "claimed": now,
        "purge_at": clock.seconds + 3600,
    }


async def test_opening_releases_leases_in_bounded_steps_by_index(
    mongo_url: str, commands: Commands, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update of all open receipts would read the whole collection and exceed the time limit at every start."""
    monkeypatch.setattr("guidsvc.store.mongo.store.RELEASES", 100)
    async with open_mongo(mongo_url):
        keys = put_receipts(mongo_url, clock, 250)
    commands.sent.clear()

    async with open_mongo(mongo_url, exclusive=True) as store:
        leases = {stored.leased_until for key in keys if (stored := await store.receipts.get(key)) is not None}

    assert leases == {0}
    updates = [update["updates"][0]["q"] for update in commands.named("update", "receipts")]
    assert [len(query["_id"]["$in"]) for query in updates] == [100, 100, 50]
    for find in [find for find in commands.named("find", "receipts") if "hint" in find]:
        assert (find["hint"], find["limit"]) == ("open_leased_until", 100)


async def test_opening_reads_only_receipts_with_an_open_lease(
    mongo_url: str, commands: Commands, clock: FakeClock
) -> None:
    async with open_mongo(mongo_url) as store:
        put_receipts(mongo_url, clock, 100, answer="{}")
        put_receipts(mongo_url, clock, 1, key="f" * 96, leased_until=0)
        cursor = store.records._collection.database["receipts"].find(LEASED).hint("open_leased_until")
        plan = (await cursor.explain())["queryPlanner"]["winningPlan"]
    commands.sent.clear()
    async with open_mongo(mongo_url, exclusive=True):
        pass

    assert plan["inputStage"]["stage"] == "IXSCAN"
    assert plan["inputStage"]["isPartial"]
    assert commands.named("update", "receipts") == []


async def test_receipts_are_counted_in_bounded_parts(
    mongo_url: str, commands: Commands, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One count of a large collection would exceed the time limit."""
    monkeypatch.setattr("guidsvc.store.mongo.repository.COUNTED", 10)
    async with open_mongo(mongo_url) as store:
        put_receipts(mongo_url, clock, 25, answer="12345")
        assert await store.receipts.usage("") == (25, 125)
        assert await store.receipts.usage("0" * 95) == (16, 80)
        assert await store.receipts.usage("f") == (0, 0)

    limits = [stage["$limit"] for count in commands.named("aggregate", "receipts") for stage in count["pipeline"][2:3]]
    assert limits == [10] * len(limits)
    assert len(limits) == 3 + 2 + 1
    assert {count["hint"] for count in commands.named("aggregate", "receipts")} == {"_id_"}
