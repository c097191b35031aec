"""Groups of swaps in SQLite: one transaction, with a result for each swap."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from guidsvc.domain import lifecycle
from guidsvc.domain.events.entry import change_of
from guidsvc.domain.record import Record
from guidsvc.errors import CorruptRecord, DeadlineExceeded, GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.store.contract import Swap
from guidsvc.store.sqlite.engine import GROUPS, TRANSACTION_BYTES, SqliteEngine
from guidsvc.store.sqlite.events.appender import RecordSwap
from guidsvc.store.sqlite.schema import open_reader, open_writer
from guidsvc.store.sqlite.search.finder import Finder
from guidsvc.store.sqlite.store import SqliteStore
from guidsvc.telemetry.metrics import StoreMetrics
from tests.conftest import FakeClock
from tests.support.factories import record
from tests.support.turn_counter import no_turn


@pytest.fixture
def write_seconds() -> float:
    return 30.0


@pytest.fixture
async def store(path: Path, write_seconds: float) -> AsyncIterator[SqliteStore]:
    with closing(open_writer(path)) as writer, closing(open_reader(path)) as reader:
        engine = SqliteEngine(writer, reader, Finder(path), write_seconds=write_seconds, meter=StoreMetrics())
        opened = SqliteStore(engine)
        try:
            yield opened
        finally:
            await opened.aclose()


def new_records(clock: FakeClock, count: int, start: int = 0) -> list[Record]:
    """Return records of different GUIDs."""
    return [record(clock(), guid=f"{number:032X}") for number in range(start, start + count)]


async def test_each_swap_of_a_group_has_its_own_result(store: SqliteStore, clock: FakeClock) -> None:
    present, deleted, changed, created, expired = new_records(clock, 5)
    for item in (present, deleted, changed):
        assert await store.records.swap(None, item)
    updated = changed.model_copy(update={"version": changed.version + 1, "user": "b"})
    swaps = [
        Swap(None, present),
        Swap(deleted, None),
        Swap(changed, updated),
        Swap(None, created, not_after=2**60),
        Swap(None, expired, not_after=0),
        Swap(updated.model_copy(update={"guid": "F" * 32}), updated),
    ]

    assert await store.records.swap_many(swaps) == [False, True, True, True, False, False]
    guids = [item.guid for item in (present, deleted, changed, created, expired)]
    assert await store.records.get_many_for_update(guids, no_turn) == {
        item.guid: item for item in (present, updated, created)
    }


async def test_groups_share_transactions_up_to_a_limit(store: SqliteStore, clock: FakeClock) -> None:
    meter = store._engine.meter.batch("commit")
    groups = [new_records(clock, 3, 10 * number) for number in range(GROUPS + 1)]
    writes = asyncio.gather(*(store.records.swap_many([Swap(None, item) for item in group]) for group in groups))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert meter.waiting() == 3, "the last group waits; the others are being committed"
    assert await writes == [[True] * 3] * len(groups)
    assert (sum(meter.sizes.counts), meter.sizes.sum, meter.waiting()) == (2, 3 * len(groups), 0)


class Transactions:
    """The transactions of a store from now on: the GUIDs that each writes, and its bytes of metadata and events."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guids: list[list[str]] = []
        self.sizes: list[int] = []
        self._swaps = store._engine.writer.swaps
        monkeypatch.setattr(store._engine.writer, "swaps", self._record)

    def _record(self, changes: Sequence[RecordSwap]) -> list[bool | GuidsvcError]:
        self.guids.append([change.new.guid for change in changes])
        self.sizes.append(sum(map(self._metadata_bytes, changes)))
        return self._swaps(changes)

    @staticmethod
    def _metadata_bytes(change: RecordSwap) -> int:
        """Return the size of the metadata in the row of the record, and in the entries that the log gets."""
        logged = change_of(change.old, change.new)
        in_log = (entry.metadata for entry in (*logged.owed, *logged.entries))
        return sum(len(metadata or "") for metadata in (change.new.metadata, *in_log))


def large_records(clock: FakeClock, count: int, start: int = 0) -> list[Record]:
    """Return records that have 16,000 bytes of metadata each."""
    metadata = '{"a":"%s"}' % ("x" * 15_992)
    return [item.model_copy(update={"metadata": metadata}) for item in new_records(clock, count, start)]


async def test_transaction_has_a_limit_in_bytes(
    store: SqliteStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = Transactions(store, monkeypatch)
    grouped, single = large_records(clock, 200), large_records(clock, 100, 1_000)
    results = await store.records.swap_many([Swap(None, item) for item in grouped])
    assert await asyncio.gather(*(store.records.swap(None, item) for item in single)) == [True] * 100

    assert results == [True] * 200
    assert [guid for guids in transactions.guids for guid in guids] == [item.guid for item in (*grouped, *single)]
    assert max(transactions.sizes) <= TRANSACTION_BYTES
    assert len(transactions.sizes) < 15, "transactions are as large as they may be"


@pytest.mark.parametrize("change", ["deleted", "deleted late", "revoked", "made valid again"])
async def test_transaction_has_a_limit_in_bytes_of_events(
    store: SqliteStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The event of a change has the metadata of the record before it, or there are several events."""
    stored = large_records(clock, 200)
    assert await store.records.swap_many([Swap(None, item) for item in stored]) == [True] * 200
    if change in {"deleted late", "made valid again"}:
        clock.now = 1000 * stored[0].expire
    transactions = Transactions(store, monkeypatch)
    swaps = [Swap(item, _changed(item, clock, change)) for item in stored]
    results = await asyncio.gather(
        store.records.swap_many(swaps[:100]), *(store.records.swap(item.old, item.new) for item in swaps[100:])
    )

    assert results == [[True] * 100] + [True] * 100
    assert max(transactions.sizes) <= TRANSACTION_BYTES
    assert len(transactions.sizes) < 15, "transactions are as large as they may be"


def _changed(item: Record, clock: FakeClock, change: str) -> Record:
    if change.startswith("deleted"):
        return lifecycle.delete(item, clock())
    members = {"expire": clock.seconds} if change == "revoked" else {"expire": clock.seconds + 60, "metadata": None}
    return item.model_copy(update={**members, "updated": clock(), "version": item.version + 1})


async def test_callers_take_turns_in_transactions(
    store: SqliteStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = Transactions(store, monkeypatch)
    may_write = threading.Event()
    store._engine.in_thread(may_write.wait)
    many = large_records(clock, 600)
    few = new_records(clock, 2, 1_000)

    async def write(caller: str, records: Sequence[Record], count: int) -> None:
        """Write some of the records as a group, the others one by one."""
        scope = CancelScope()
        scope.caller = caller
        CURRENT.set(scope)
        await asyncio.gather(
            store.records.swap_many([Swap(None, item) for item in records[:count]]),
            *(store.records.swap(None, item) for item in records[count:]),
        )

    writes = [asyncio.ensure_future(write("many", many, 300)), asyncio.ensure_future(write("few", few, 1))]
    await asyncio.sleep(0)
    may_write.set()
    await asyncio.gather(*writes)

    for item in few:
        place = next(place for place, guids in enumerate(transactions.guids) if item.guid in guids)
        assert place < 4, "the first or second of groups or of single writes"


async def test_unreadable_row_hides_no_group(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    first, second = new_records(clock, 2)
    await store.records.swap_many([Swap(None, first), Swap(None, second)])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE records SET user = '' WHERE guid = ?", (first.guid,))

    with pytest.raises(CorruptRecord, match=first.guid):
        await store.records.get_many_for_update([first.guid, second.guid], no_turn)
    assert await store.records.get_many_for_update([second.guid, "F" * 32], no_turn) == {second.guid: second}


@pytest.mark.parametrize("write_seconds", [0.2])
async def test_overdue_group_is_unknown_only_if_it_was_sent(store: SqliteStore, path: Path, clock: FakeClock) -> None:
    groups = [[Swap(None, item) for item in new_records(clock, 2, 10 * number)] for number in range(2)]
    with closing(sqlite3.connect(path, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        running = asyncio.create_task(store.records.swap_many(groups[0]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        queued = await store.records.swap_many(groups[1])
        lock.execute("ROLLBACK")

    assert [type(item) for item in (*queued, *await running)] == [*[StoreUnavailable] * 2, *[OutcomeUnknown] * 2]
    while len(await store.records.get_many_for_update([swap.guid for group in groups for swap in group], no_turn)) != 2:
        await asyncio.sleep(0)
    assert await store.records.get_many_for_update([swap.guid for swap in groups[1]], no_turn) == {}


async def test_group_of_a_cancelled_scope_is_not_sent(store: SqliteStore, clock: FakeClock) -> None:
    scope = CancelScope()
    CURRENT.set(scope)
    write = asyncio.create_task(store.records.swap_many([Swap(None, item) for item in new_records(clock, 2)]))
    await asyncio.sleep(0)
    scope.cancel(is_disconnected=False)

    assert [type(item) for item in await write] == [DeadlineExceeded] * 2
    assert await store.records.get_many_for_update([item.guid for item in new_records(clock, 2)], no_turn) == {}


async def test_chain_shares_the_transaction_of_other_writes(store: SqliteStore, clock: FakeClock) -> None:
    (first,) = new_records(clock, 1)
    assert await store.records.swap(None, first)
    states = [first.model_copy(update={"version": first.version + number}) for number in range(6)]
    meter = store._engine.meter.batch("commit")
    commits = sum(meter.sizes.counts)
    writes = [store.records.swap_chain([Swap(*pair) for pair in pairwise(states)])]
    writes += [store.records.swap_chain([Swap(None, item)]) for item in new_records(clock, 2, 10)]

    assert await asyncio.gather(*writes) == [[True] * 5, [True], [True]]
    assert sum(meter.sizes.counts) == commits + 1


async def test_failing_change_fails_its_whole_chain(store: SqliteStore, clock: FakeClock, path: Path) -> None:
    (first,) = new_records(clock, 1)
    assert await store.records.swap(None, first)
    states = [first.model_copy(update={"version": first.version + number}) for number in range(3)]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        condition = f"BEFORE UPDATE ON records WHEN NEW.version = {states[2].version}"
        other.execute(f"CREATE TRIGGER fault {condition} BEGIN SELECT raise(ABORT, 'a fault'); END")

    results = await store.records.swap_chain([Swap(*pair) for pair in pairwise(states)])
    assert [type(result) for result in results] == [StoreUnavailable] * 2
    assert await store.records.get(first.guid) == first
