"""The MongoDB store while MongoDB leaves one kind of operation unanswered: other kinds are served, each in bounds."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import TypeVar

import pytest

from guidsvc.domain.record import Record
from guidsvc.domain.selection import Selection
from guidsvc.errors import DeadlineExceeded, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.store.mongo.bulkhead import COUNTS, READS, RESERVED, THREADS, UPDATES, Bulkhead
from guidsvc.store.mongo.events.log import MongoEventLog
from guidsvc.store.mongo.store import MongoStore, open_mongo
from tests.conftest import FakeClock
from tests.support.factories import record
from tests.support.mongo_proxy import MongoProxy

WRITERS = 5 * UPDATES
TIMEOUT_MS = 3_000
"""Long enough for a slow machine, short enough for a fast test."""
OWNER, OTHER = "attacker", "victim"
Result = TypeVar("Result")


@pytest.fixture
async def store(proxied_mongo: MongoProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MongoStore]:
    """Yield a store with an idle sequencer, whose operations would otherwise count as withheld."""
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    url = f"mongodb://127.0.0.1:{proxied_mongo.port}/guidsvc?directConnection=true"
    async with open_mongo(url, timeout_ms=TIMEOUT_MS) as opened:
        yield opened


async def create(store: MongoStore, clock: FakeClock, number: int) -> list[Record]:
    """Create records of `OTHER`."""
    records = [record(clock(), guid=f"{index:032X}", owner=OTHER) for index in range(number)]
    assert all(await asyncio.gather(*(store.records.swap(None, new) for new in records)))
    return records


async def read_all_kinds(store: MongoStore, stored: Record) -> None:
    """Read in every way that needs MongoDB."""
    await store.ping()
    assert await store.records.get(stored.guid) == stored
    assert await store.records.get_linearizable(stored.guid) == stored
    assert await store.records.find(Selection(owner=OTHER), "", 1) == [stored]
    assert await store.records.count(Selection(owner=OTHER)) > 0
    assert await store.receipts.get("0" * 64) is None
    await store.fence.read()
    await store.store_id()


async def update(store: MongoStore, old: Record) -> str:
    """Update a record; return the outcome."""
    try:
        await store.records.swap(old, old.model_copy(update={"version": old.version + 1}))
    except (OutcomeUnknown, StoreUnavailable) as error:
        return type(error).__name__
    return "done"


async def test_updates_without_an_answer_leave_threads_to_all_reads(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock
) -> None:
    records = await create(store, clock, WRITERS)
    with proxied_mongo.dropping("update"):
        writes = [asyncio.create_task(update(store, old)) for old in records]
        while not proxied_mongo.dropped_commands:
            await asyncio.sleep(0.01)
        await read_all_kinds(store, records[0])
        assert not any(write.done() for write in writes), "the reads waited for updates"

        outcomes = Counter(await asyncio.gather(*writes))

    assert outcomes == {"OutcomeUnknown": UPDATES, "StoreUnavailable": WRITERS - UPDATES}
    assert proxied_mongo.dropped_commands == UPDATES, "updates that were not sent are reported as unavailable"
    assert await update(store, records[0]) == "done"


async def test_creations_without_an_answer_leave_threads_to_all_reads(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock
) -> None:
    (stored,) = await create(store, clock, 1)
    with proxied_mongo.dropping("insert"):
        writes = []
        for number in range(1, THREADS):
            new = record(clock(), guid=f"{number:032X}")
            writes.append(asyncio.ensure_future(store.records.swap(None, new)))
            await asyncio.sleep(0)  # so that each creation is a command of its own
            await asyncio.sleep(0)
        while not proxied_mongo.dropped_commands:
            await asyncio.sleep(0.01)
        await read_all_kinds(store, stored)
        assert not any(write.done() for write in writes), "the reads waited for creations"
        outcomes = Counter(type(outcome) for outcome in await asyncio.gather(*writes, return_exceptions=True))

    assert set(outcomes) == {OutcomeUnknown, StoreUnavailable}


@pytest.mark.parametrize(
    ("selection", "other_selection"),
    [
        (Selection(owner=OWNER), Selection(owner=OTHER)),
        (Selection(queue_name="192.0.2.1"), Selection(queue_name="192.0.2.2")),
    ],
    ids=["owners", "addresses without access control"],
)
async def test_counts_of_a_caller_leave_threads_to_other_callers(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock, selection: Selection, other_selection: Selection
) -> None:
    (stored,) = await create(store, clock, 1)
    with proxied_mongo.dropping("aggregate"):
        counts = [asyncio.create_task(store.records.count(selection)) for _ in range(5 * COUNTS)]
        while proxied_mongo.dropped_commands < COUNTS - 1:
            await asyncio.sleep(0.01)
        await store.ping()
        assert await store.records.get(stored.guid) == stored
        assert await store.records.find(other_selection, "", 1) == [stored]
        assert await update(store, stored) == "done"
        assert proxied_mongo.dropped_commands == COUNTS - 1, "one caller must not take all threads"
        other_count = asyncio.create_task(store.records.count(other_selection))
        while proxied_mongo.dropped_commands < COUNTS:
            await asyncio.sleep(0.01)
        assert not any(count.done() for count in counts), "the other operations waited for counts"

        for outcome in await asyncio.gather(other_count, *counts, return_exceptions=True):
            assert isinstance(outcome, StoreUnavailable)


async def as_caller(caller: str | None, work: Awaitable[Result]) -> Result:
    """Await work in the cancel scope of a caller; None stands for the service itself."""
    scope = CancelScope()
    scope.caller = caller
    CURRENT.set(None if caller is None else scope)  # in the context of the task that gather or create_task makes
    return await work


async def test_updates_of_a_caller_leave_turns_to_others(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock
) -> None:
    """All callers together leave threads to the service itself."""
    records = await create(store, clock, 5 * UPDATES + 2)
    limit = UPDATES - RESERVED
    with proxied_mongo.dropping("update"):
        writes = [asyncio.create_task(as_caller(OWNER, update(store, old))) for old in records[2:]]
        while proxied_mongo.dropped_commands < limit - 1:
            await asyncio.sleep(0.01)
        other_update = asyncio.create_task(as_caller(OTHER, update(store, records[0])))
        while proxied_mongo.dropped_commands < limit:
            await asyncio.sleep(0.01)
        await store.ping()
        assert proxied_mongo.dropped_commands == limit, "all callers together leave threads to the service"
        service_update = asyncio.create_task(as_caller(None, update(store, records[1])))
        while proxied_mongo.dropped_commands < limit + 1:
            await asyncio.sleep(0.01)
        assert not any(old.done() for old in (other_update, service_update, *writes)), (
            "the others waited for the first caller"
        )
        await asyncio.gather(other_update, service_update, *writes)


async def test_updates_of_callers_are_sent_in_turn(store: MongoStore, clock: FakeClock) -> None:
    """An update of a caller that has no other one overtakes a long queue of another caller."""
    records = await create(store, clock, 10 * UPDATES + 1)
    writes = [asyncio.create_task(as_caller(OWNER, update(store, old))) for old in records[1:]]
    await asyncio.sleep(0)
    assert await asyncio.create_task(as_caller(OTHER, update(store, records[0]))) == "done"
    assert sum(write.done() for write in writes) < 5 * UPDATES
    await asyncio.gather(*writes)


async def test_reads_of_a_caller_leave_threads_to_others(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock
) -> None:
    with proxied_mongo.dropping("find"):
        reads = [
            asyncio.create_task(as_caller(OWNER, store.receipts.get(f"{number:064}"))) for number in range(3 * READS)
        ]
        while proxied_mongo.dropped_commands < READS - RESERVED - 1:
            await asyncio.sleep(0.01)
        other_read = asyncio.create_task(as_caller(OTHER, store.receipts.get("0" * 64)))
        while proxied_mongo.dropped_commands < READS - RESERVED:
            await asyncio.sleep(0.01)
        await as_caller(None, store.fence.read())
        assert not any(number.done() for number in (other_read, *reads))
        await asyncio.gather(other_read, *reads, return_exceptions=True)


async def test_turn_of_a_gone_caller_ends_with_its_operation(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock
) -> None:
    """Otherwise a caller that requests slow counts and disconnects could take all threads."""
    selection = Selection(owner=OWNER)
    with proxied_mongo.dropping("aggregate"):
        for _ in range(3):
            counts = [asyncio.create_task(store.records.count(selection)) for _ in range(COUNTS)]
            while proxied_mongo.dropped_commands < COUNTS - 1:
                await asyncio.sleep(0.01)
            await store.ping()
            for count in counts:
                count.cancel()
            await asyncio.gather(*counts, return_exceptions=True)
        assert proxied_mongo.dropped_commands == COUNTS - 1
    assert await store.records.count(Selection(owner=OTHER)) == 0


async def test_long_queue_costs_as_little_per_operation_as_a_short_one() -> None:
    async def seconds_per_operation(number: int) -> float:
        bulkhead = Bulkhead(UPDATES, 600_000)
        tasks = [asyncio.ensure_future(bulkhead.run(partial(asyncio.sleep, 0))) for _ in range(number)]
        started = time.process_time()
        await asyncio.gather(*tasks)
        return (time.process_time() - started) / number

    short_queue = min([await seconds_per_operation(500) for _ in range(5)])
    long_queue = min([await seconds_per_operation(10_000) for _ in range(2)])
    assert long_queue < 10 * short_queue, "it would be 20 times as much if each operation went through the queue"


async def test_waiting_update_is_dropped_with_its_request(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock
) -> None:
    records = await create(store, clock, UPDATES + 1)
    scope = CancelScope()
    with proxied_mongo.dropping("update"):
        writes = [asyncio.create_task(update(store, old)) for old in records[:UPDATES]]
        while proxied_mongo.dropped_commands < UPDATES:
            await asyncio.sleep(0.01)
        token = CURRENT.set(scope)
        waiting = asyncio.create_task(update(store, records[-1]))
        CURRENT.reset(token)
        await asyncio.sleep(0)
        scope.cancel(is_disconnected=False)
        with pytest.raises(DeadlineExceeded):
            await waiting
        await asyncio.gather(*writes)

    assert proxied_mongo.dropped_commands == UPDATES


async def test_thread_of_a_caller_that_gives_up_stays_counted(
    store: MongoStore, proxied_mongo: MongoProxy, clock: FakeClock
) -> None:
    """Otherwise cancelled callers would fill motor's queue, which has no time limit."""
    records = await create(store, clock, UPDATES + 1)
    with proxied_mongo.dropping("update"):
        writes = [asyncio.create_task(update(store, old)) for old in records[:UPDATES]]
        while proxied_mongo.dropped_commands < UPDATES:
            await asyncio.sleep(0.01)
        for write in writes:
            write.cancel()
        waiting = asyncio.create_task(update(store, records[-1]))
        await store.ping()
        assert proxied_mongo.dropped_commands == UPDATES, "the update waits for a thread"
        assert await waiting in {"OutcomeUnknown", "StoreUnavailable"}
