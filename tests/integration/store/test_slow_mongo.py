"""MongoDB that answers slowly: an operation sends few commands, and the sequencer takes smaller batches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from guidsvc.domain import api_key as keys
from guidsvc.domain.commands.list_parameters import Position
from guidsvc.domain.receipt import Receipt
from guidsvc.domain.selection import Selection
from guidsvc.errors import StoreUnavailable
from guidsvc.store.mongo.events import log as event_log
from guidsvc.store.mongo.events.log import MongoEventLog
from guidsvc.store.mongo.events.sequencer import BATCH, GROWTH, MIN_REPLY, Sequencer
from guidsvc.store.mongo.store import MongoStore, open_mongo
from tests.conftest import ExpectedLogs
from tests.support.events import ALL
from tests.support.factories import record
from tests.support.mongo_proxy import MongoProxy

COUNT = BATCH
"""More documents than the 101 that MongoDB sends first unless it is told otherwise."""
FURTHER = {"getMore", "killCursors"}
"""Commands that follow another one in the same operation."""
RUN_SEQUENCER = MongoEventLog.run_sequencer


@pytest.fixture
async def store(proxied_mongo: MongoProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MongoStore]:
    """A store whose sequencer runs only if the test runs it."""

    async def wait(_: MongoEventLog) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(MongoEventLog, "run_sequencer", wait)
    url = f"mongodb://127.0.0.1:{proxied_mongo.port}/guidsvc?directConnection=true"
    async with open_mongo(url, timeout_ms=20_000) as opened:
        yield opened


async def create_all(store: MongoStore, now: int, **fields: object) -> None:
    """Create records, each with an event in its outbox."""
    created = [store.records.swap(None, record(now, guid=f"{number:032X}", **fields)) for number in range(COUNT)]
    assert all(await asyncio.gather(*created))


async def move(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    await create_all(store, now)
    return store.events._sequencer.run_round


async def move_again(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    """Let another process have moved the events to the log, but not out of their outboxes."""
    await create_all(store, now)
    sequencer = store.events._sequencer
    head, batch = await sequencer.head(), await sequencer._read_outboxes(None)
    await sequencer._append(head, batch)
    return sequencer.run_round


async def expire(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    await create_all(store, now - 60_000, expire=now // 1000 - 5)
    store.events._steps._is_complete = True  # so that all of a step is for records that are due
    return lambda: store.events._steps.advance(now, COUNT)


async def trim(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    await create_all(store, now)
    assert await store.events._sequencer.run_round() == COUNT
    return lambda: store.events.trim(now + 3_600_000, 2**30, 2 * COUNT)


async def read_events(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    await create_all(store, now)
    assert await store.events._sequencer.run_round() == COUNT

    async def read() -> int:
        return len((await store.events.read(0, COUNT, ALL)).entries)

    return read


async def list_by_guid(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    await create_all(store, now)

    async def read() -> int:
        return len(await store.records.find(Selection(), "", COUNT))

    return read


async def list_by_expiry(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    await create_all(store, now, owner="alice")

    async def read() -> int:
        return len(await store.records.find_by_expire(Selection(owner="alice"), Position("", 0), COUNT))

    return read


async def list_keys(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    created = [store.api_keys.swap(None, keys.generate("alice", ["read"], now)[0]) for _ in range(COUNT)]
    assert all(await asyncio.gather(*created))

    async def read() -> int:
        return len(await store.api_keys.list("", COUNT))

    return read


async def purge_receipts(store: MongoStore, now: int) -> Callable[[], Awaitable[int]]:
    members: dict[str, Any] = {"fingerprint": "a", "attempt": 1, "leased_until": 0, "seed": "0" * 32, "claimed": 0}
    purge_at = now // 1000 + 3600  # later than MongoDB itself deletes them
    receipts = [Receipt(key=f"{number:064x}", purge_at=purge_at, **members) for number in range(COUNT)]
    assert all(await asyncio.gather(*(store.receipts.swap(None, receipt) for receipt in receipts)))
    return lambda: store.receipts.purge(purge_at + 1, COUNT)


@pytest.mark.parametrize(
    "prepare",
    [move, move_again, expire, trim, read_events, list_by_guid, list_by_expiry, list_keys, purge_receipts],
    ids=lambda function: function.__name__,
)
async def test_operation_on_many_documents_reads_one_reply(
    store: MongoStore,
    proxied_mongo: MongoProxy,
    now: int,
    prepare: Callable[[MongoStore, int], Awaitable[Callable[[], Awaitable[int]]]],
) -> None:
    operate = await prepare(store, now)
    proxied_mongo.commands.clear()
    done = await operate()

    assert done in {COUNT, COUNT - 1}, "a trim leaves the newest entry"
    assert proxied_mongo.commands.keys() & FURTHER == set()


async def test_large_events_are_read_in_smaller_replies(store: MongoStore, now: int) -> None:
    """Few of them fill a batch, and the others in the reply would be read in vain. Small ones end that."""
    sequencer = store.events._sequencer
    await create_all(store, now, metadata=f'{{"a":"{"x" * 16_000}"}}')
    moved, reply_sizes = [], []
    while count := await sequencer.run_round():
        moved.append(count)
        reply_sizes.append(sequencer._reply_size)

    assert sum(moved) == COUNT
    assert reply_sizes[0] == max(MIN_REPLY, moved[0] + 1) < BATCH
    await store.records.swap(None, record(now))
    for _ in range(3):
        await sequencer.run_round()
    assert sequencer._reply_size == BATCH + 1


async def test_batch_is_halved_after_a_failure_and_grows_slowly(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequencer, outcomes = store.events._sequencer, iter([None, None, 1, 1, *[1] * BATCH])

    async def next_outcome(_: Sequencer, guid: str | None) -> int:
        outcome = next(outcomes)
        if outcome is None:
            raise StoreUnavailable("MongoDB: no answer in time")
        return outcome

    monkeypatch.setattr(Sequencer, "_move", next_outcome)
    limits = [sequencer._limit]
    for is_failure in (True, True, False, False):
        if is_failure:
            with pytest.raises(StoreUnavailable):
                await sequencer.run_round()
        else:
            await sequencer.run_round()
        limits.append(sequencer._limit)
    assert limits == [BATCH, BATCH // 2, BATCH // 4, BATCH // 4 + GROWTH, BATCH // 4 + 2 * GROWTH]
    for _ in range(BATCH // GROWTH):
        await sequencer.run_round()
    assert sequencer._limit == BATCH


async def test_sequencer_that_fails_now_and_then_is_not_reported(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other round succeeds, for longer than the time after which a failing sequencer is reported."""
    monkeypatch.setattr(event_log, "FAILING_SECONDS", 0.1)
    monkeypatch.setattr(event_log, "RETRY_SECONDS", 0.01)
    rounds = 0

    async def fail_every_other(_: Sequencer) -> int:
        nonlocal rounds
        rounds += 1
        if rounds % 2:
            return 1
        raise StoreUnavailable("MongoDB: no answer in time")

    monkeypatch.setattr(Sequencer, "run_round", fail_every_other)
    running = asyncio.create_task(RUN_SEQUENCER(store.events))
    while rounds < 10:
        await asyncio.sleep(0.01)
    running.cancel()


async def test_sequencer_that_fails_is_reported_once(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.add("event sequencer failing")
    monkeypatch.setattr(event_log, "FAILING_SECONDS", 0.0)
    monkeypatch.setattr(event_log, "RETRY_SECONDS", 0.01)
    rounds = 0

    async def fail(_: Sequencer) -> int:
        nonlocal rounds
        rounds += 1
        raise StoreUnavailable("MongoDB: no answer in time")

    monkeypatch.setattr(Sequencer, "run_round", fail)
    running = asyncio.create_task(RUN_SEQUENCER(store.events))
    while rounds < 3:
        await asyncio.sleep(0.01)
    running.cancel()
    assert sum("event sequencer failing" in line.getMessage() for line in caplog.records) == 1
