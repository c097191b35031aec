"""The MongoDB store while MongoDB leaves one kind of operation unanswered: others are served, and all have a limit."""

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
"""Long enough for what MongoDB answers, on a slow machine, and so short that a test ends soon."""
OWNER, OTHER = "attacker", "victim"
Done = TypeVar("Done")


@pytest.fixture
async def store(way: MongoProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MongoStore]:
    """Yield a store whose sequencer does nothing meanwhile: its operations would count among those withheld."""
    monkeypatch.setattr(MongoEventLog, "poll_seconds", 3600.0)
    monkeypatch.setattr(MongoEventLog, "wake", lambda _: None)
    url = f"mongodb://127.0.0.1:{way.port}/guidsvc?directConnection=true"
    async with open_mongo(url, timeout_ms=TIMEOUT_MS) as opened:
        yield opened


async def create(store: MongoStore, clock: FakeClock, number: int) -> list[Record]:
    """Create records of the other owner."""
    made = [record(clock(), guid=f"{place:032X}", owner=OTHER) for place in range(number)]
    assert all(await asyncio.gather(*(store.records.swap(None, each) for each in made)))
    return made


async def read_all_kinds(store: MongoStore, made: Record) -> None:
    """Read in every way that waits for MongoDB."""
    await store.ping()
    assert await store.records.get(made.guid) == made
    assert await store.records.get_linearizable(made.guid) == made
    assert await store.records.find(Selection(owner=OTHER), "", 1) == [made]
    assert await store.records.count(Selection(owner=OTHER)) > 0
    assert await store.receipts.get("0" * 64) is None
    await store.fence.read()
    await store.store_id()


async def update(store: MongoStore, old: Record) -> str:
    """Update a record, and return what came of it."""
    try:
        await store.records.swap(old, old.model_copy(update={"version": old.version + 1}))
    except (OutcomeUnknown, StoreUnavailable) as error:
        return type(error).__name__
    return "done"


async def test_updates_without_an_answer_leave_threads_to_all_reads(
    store: MongoStore, way: MongoProxy, clock: FakeClock
) -> None:
    made = await create(store, clock, WRITERS)
    with way.withholding("update"):
        writes = [asyncio.create_task(update(store, each)) for each in made]
        while not way.withheld:
            await asyncio.sleep(0.01)
        await read_all_kinds(store, made[0])
        assert not any(write.done() for write in writes), "the reads waited for updates"

        outcomes = Counter(await asyncio.gather(*writes))

    assert outcomes == {"OutcomeUnknown": UPDATES, "StoreUnavailable": WRITERS - UPDATES}
    assert way.withheld == UPDATES, "what was not sent is said to be unavailable"
    assert await update(store, made[0]) == "done"


async def test_creations_without_an_answer_leave_threads_to_all_reads(
    store: MongoStore, way: MongoProxy, clock: FakeClock
) -> None:
    (made,) = await create(store, clock, 1)
    with way.withholding("insert"):
        writes = []
        for number in range(1, THREADS):
            new = record(clock(), guid=f"{number:032X}")
            writes.append(asyncio.ensure_future(store.records.swap(None, new)))
            await asyncio.sleep(0)  # so that each creation is a command of its own
            await asyncio.sleep(0)
        while not way.withheld:
            await asyncio.sleep(0.01)
        await read_all_kinds(store, made)
        assert not any(write.done() for write in writes), "the reads waited for creations"
        outcomes = Counter(type(each) for each in await asyncio.gather(*writes, return_exceptions=True))

    assert set(outcomes) == {OutcomeUnknown, StoreUnavailable}


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (Selection(owner=OWNER), Selection(owner=OTHER)),
        (Selection(queue_name="192.0.2.1"), Selection(queue_name="192.0.2.2")),
    ],
    ids=["owners", "addresses without access control"],
)
async def test_counts_of_a_caller_leave_threads_to_other_callers(
    store: MongoStore, way: MongoProxy, clock: FakeClock, mine: Selection, theirs: Selection
) -> None:
    (made,) = await create(store, clock, 1)
    with way.withholding("aggregate"):
        counts = [asyncio.create_task(store.records.count(mine)) for _ in range(5 * COUNTS)]
        while way.withheld < COUNTS - 1:
            await asyncio.sleep(0.01)
        await store.ping()
        assert await store.records.get(made.guid) == made
        assert await store.records.find(theirs, "", 1) == [made]
        assert await update(store, made) == "done"
        assert way.withheld == COUNTS - 1, "one caller never holds all threads"
        other = asyncio.create_task(store.records.count(theirs))
        while way.withheld < COUNTS:
            await asyncio.sleep(0.01)
        assert not any(count.done() for count in counts), "others waited for counts"

        for outcome in await asyncio.gather(other, *counts, return_exceptions=True):
            assert isinstance(outcome, StoreUnavailable)


async def as_caller(caller: str | None, work: Awaitable[Done]) -> Done:
    """Await work in the cancel scope of a caller; None stands for the service itself."""
    scope = CancelScope()
    scope.caller = caller
    CURRENT.set(None if caller is None else scope)  # in the context of the task that gather or create_task makes
    return await work


async def test_updates_of_a_caller_leave_turns_to_others(store: MongoStore, way: MongoProxy, clock: FakeClock) -> None:
    """Nor do all callers together take the threads of the service's own work."""
    made = await create(store, clock, 5 * UPDATES + 2)
    most = UPDATES - RESERVED
    with way.withholding("update"):
        writes = [asyncio.create_task(as_caller(OWNER, update(store, each))) for each in made[2:]]
        while way.withheld < most - 1:
            await asyncio.sleep(0.01)
        other = asyncio.create_task(as_caller(OTHER, update(store, made[0])))
        while way.withheld < most:
            await asyncio.sleep(0.01)
        await store.ping()
        assert way.withheld == most, "all callers together leave threads to the service"
        own = asyncio.create_task(as_caller(None, update(store, made[1])))
        while way.withheld < most + 1:
            await asyncio.sleep(0.01)
        assert not any(each.done() for each in (other, own, *writes)), "the others waited for the first caller"
        await asyncio.gather(other, own, *writes)


async def test_updates_of_callers_are_sent_in_turn(store: MongoStore, clock: FakeClock) -> None:
    """An update of a caller that has no other one overtakes a long queue of another caller."""
    made = await create(store, clock, 10 * UPDATES + 1)
    writes = [asyncio.create_task(as_caller(OWNER, update(store, each))) for each in made[1:]]
    await asyncio.sleep(0)
    assert await asyncio.create_task(as_caller(OTHER, update(store, made[0]))) == "done"
    assert sum(write.done() for write in writes) < 5 * UPDATES
    await asyncio.gather(*writes)


async def test_reads_of_a_caller_leave_threads_to_others(store: MongoStore, way: MongoProxy, clock: FakeClock) -> None:
    with way.withholding("find"):
        mine = [asyncio.create_task(as_caller(OWNER, store.receipts.get(f"{each:064}"))) for each in range(3 * READS)]
        while way.withheld < READS - RESERVED - 1:
            await asyncio.sleep(0.01)
        others = asyncio.create_task(as_caller(OTHER, store.receipts.get("0" * 64)))
        while way.withheld < READS - RESERVED:
            await asyncio.sleep(0.01)
        await as_caller(None, store.fence.read())
        assert not any(each.done() for each in (others, *mine))
        await asyncio.gather(others, *mine, return_exceptions=True)


async def test_turn_of_a_gone_caller_ends_with_its_operation(
    store: MongoStore, way: MongoProxy, clock: FakeClock
) -> None:
    """Otherwise a caller that asks for slow counts and disconnects would hold all threads."""
    mine = Selection(owner=OWNER)
    with way.withholding("aggregate"):
        for _ in range(3):
            counts = [asyncio.create_task(store.records.count(mine)) for _ in range(COUNTS)]
            while way.withheld < COUNTS - 1:
                await asyncio.sleep(0.01)
            await store.ping()
            for count in counts:
                count.cancel()
            await asyncio.gather(*counts, return_exceptions=True)
        assert way.withheld == COUNTS - 1
    assert await store.records.count(Selection(owner=OTHER)) == 0


async def test_long_queue_costs_as_little_per_operation_as_a_short_one() -> None:
    async def seconds_per_operation(number: int) -> float:
        bulkhead = Bulkhead(UPDATES, 600_000)
        tasks = [asyncio.ensure_future(bulkhead.run(partial(asyncio.sleep, 0))) for _ in range(number)]
        begun = time.process_time()
        await asyncio.gather(*tasks)
        return (time.process_time() - begun) / number

    short = min([await seconds_per_operation(500) for _ in range(5)])
    long = min([await seconds_per_operation(10_000) for _ in range(2)])
    assert long < 10 * short, "it would be 20 times as much if each operation went through the queue"


async def test_waiting_update_is_dropped_with_its_request(store: MongoStore, way: MongoProxy, clock: FakeClock) -> None:
    made = await create(store, clock, UPDATES + 1)
    scope = CancelScope()
    with way.withholding("update"):
        writes = [asyncio.create_task(update(store, each)) for each in made[:UPDATES]]
        while way.withheld < UPDATES:
            await asyncio.sleep(0.01)
        token = CURRENT.set(scope)
        waiting = asyncio.create_task(update(store, made[-1]))
        CURRENT.reset(token)
        await asyncio.sleep(0)
        scope.cancel(is_disconnected=False)
        with pytest.raises(DeadlineExceeded):
            await waiting
        await asyncio.gather(*writes)

    assert way.withheld == UPDATES


async def test_thread_of_a_caller_that_gives_up_stays_counted(
    store: MongoStore, way: MongoProxy, clock: FakeClock
) -> None:
    """Otherwise cancelled callers would fill motor's queue, which has no time limit."""
    made = await create(store, clock, UPDATES + 1)
    with way.withholding("update"):
        writes = [asyncio.create_task(update(store, each)) for each in made[:UPDATES]]
        while way.withheld < UPDATES:
            await asyncio.sleep(0.01)
        for write in writes:
            write.cancel()
        late = asyncio.create_task(update(store, made[-1]))
        await store.ping()
        assert way.withheld == UPDATES, "the update waits for a thread"
        assert await late in {"OutcomeUnknown", "StoreUnavailable"}
