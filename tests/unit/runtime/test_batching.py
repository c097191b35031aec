"""The batcher: many callers share one call."""

import asyncio
import time

import pytest

from guidsvc.runtime.batching import NOT_SERVED, Batcher, NotServed, Patience
from guidsvc.telemetry.metrics import BatchMetrics
from guidsvc.telemetry.tracing import CURRENT, RequestTrace


class Calls:
    """Records the batches; the calls last until the gate opens."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def run(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        await self.gate.wait()
        return [10 * item for item in batch]


async def test_items_of_one_turn_share_one_call() -> None:
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls.run, limit=10, in_flight=1)

    assert await asyncio.gather(*(batcher.ask(item) for item in range(5))) == [0, 10, 20, 30, 40]
    assert calls.batches == [[0, 1, 2, 3, 4]]


async def test_items_during_running_calls_share_the_next_call() -> None:
    calls = Calls()
    batcher = Batcher(calls.run, limit=2, in_flight=2)
    requests = [asyncio.create_task(batcher.ask(item)) for item in range(7)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert calls.batches == [[0, 1], [2, 3]]

    calls.gate.set()
    assert await asyncio.gather(*requests) == [0, 10, 20, 30, 40, 50, 60]
    assert calls.batches == [[0, 1], [2, 3], [4, 5], [6]]


async def test_groups_take_turns() -> None:
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls.run, limit=4, in_flight=1)

    await asyncio.gather(*(batcher.ask(item, "many") for item in range(6)), batcher.ask(6, "few"), batcher.ask(7))
    assert calls.batches == [[0, 6, 7, 1], [2, 3, 4, 5]]


async def test_call_has_a_limit_by_weight() -> None:
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls.run, limit=10, in_flight=1, weight=lambda item: item, max_weight=5)

    await asyncio.gather(*(batcher.ask(item) for item in (2, 2, 2, 9, 0, 0, 5, 1)))
    assert calls.batches == [[2, 2], [2], [9], [0, 0, 5], [1]]


async def test_items_without_room_are_served_first_in_the_next_call() -> None:
    """Otherwise items that always come last would never be served."""
    batches: list[list[int]] = []

    async def run(batch: list[int]) -> list[int | NotServed]:
        batches.append(batch)
        await asyncio.sleep(0)
        return [*batch[:2], *[NOT_SERVED] * len(batch[2:])]

    batcher = Batcher(run, limit=4, in_flight=1)
    groups = ["a", "a", "a", "b", "c", "d", "d"]

    assert await asyncio.gather(*(batcher.ask(item, group) for item, group in enumerate(groups))) == list(range(7))
    assert batches == [[0, 3, 4, 5], [4, 5, 1, 6], [1, 6, 2], [2]]


async def test_cancelled_item_is_dropped_before_its_call() -> None:
    calls = Calls()
    batcher = Batcher(calls.run, limit=1, in_flight=1)
    first, second, third = (asyncio.create_task(batcher.ask(item)) for item in range(3))
    while not calls.batches:
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    calls.gate.set()

    assert [await first, await third] == [0, 20]
    assert calls.batches == [[0], [2]]


async def test_failed_call_fails_only_its_own_items() -> None:
    async def run(batch: list[int]) -> list[int]:
        if 1 in batch:
            raise ValueError("one")
        return batch

    batcher = Batcher(run, limit=2, in_flight=1)
    results = await asyncio.gather(*(batcher.ask(item) for item in range(4)), return_exceptions=True)

    assert [type(result) for result in results] == [ValueError, ValueError, int, int]


async def test_panic_of_a_library_fails_the_items_of_its_call() -> None:
    """A library in Rust raises a BaseException. Without an answer, the callers would wait forever."""

    class PanicException(BaseException):
        pass

    async def run(batch: list[int]) -> list[int]:
        if 1 in batch:
            raise PanicException("one")
        return batch

    batcher = Batcher(run, limit=2, in_flight=1)
    requests = (asyncio.wait_for(batcher.ask(item), 10) for item in range(4))
    results = await asyncio.gather(*requests, return_exceptions=True)

    assert [type(result) for result in results] == [RuntimeError, RuntimeError, int, int]


async def test_call_that_cannot_begin_fails_its_items() -> None:
    """For example, if no thread can be started. Without an answer, they would wait forever."""

    def run(_: list[int]) -> "asyncio.Future[list[int]]":
        raise RuntimeError("no thread")

    batcher: Batcher[int, int] = Batcher(run, limit=10, in_flight=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no thread"):
            await asyncio.wait_for(batcher.ask(1), 10)


async def test_error_result_is_raised_to_its_caller_only() -> None:
    async def run(batch: list[int]) -> list[int | Exception]:
        return [ValueError("one") if item == 1 else item for item in batch]

    batcher: Batcher[int, int] = Batcher(run, limit=4, in_flight=1)
    results = await asyncio.gather(*(batcher.ask(item) for item in range(3)), return_exceptions=True)

    assert [type(result) for result in results] == [int, ValueError, int]


async def test_drain_returns_when_all_items_are_answered() -> None:
    calls = Calls()
    batcher = Batcher(calls.run, limit=1, in_flight=1)
    requests = [asyncio.create_task(batcher.ask(item)) for item in range(3)]
    await asyncio.sleep(0)
    drained = asyncio.create_task(batcher.drain())
    while not calls.batches:
        await asyncio.sleep(0)
    assert not drained.done()

    calls.gate.set()
    await drained
    assert calls.batches == [[0], [1], [2]]
    assert [await each for each in requests] == [0, 10, 20]


async def test_fewer_results_than_items_is_a_fault() -> None:
    async def run(batch: list[int]) -> list[int]:
        return batch[1:]

    batcher = Batcher(run, limit=9, in_flight=1)
    results = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)

    assert results[0] == 2
    assert isinstance(results[1], ValueError)


async def test_item_over_its_time_limit_fails_and_others_are_answered() -> None:
    calls = Calls()
    patience: Patience[int] = Patience(0.2, lambda item: TimeoutError(f"{item} took too long"))
    batcher = Batcher(calls.run, limit=1, in_flight=1, patience=patience)
    first, second = asyncio.create_task(batcher.ask(1)), asyncio.create_task(batcher.ask(2))

    for request in (first, second):  # one in flight, and one in the queue
        with pytest.raises(TimeoutError, match="took too long"):
            await request
    third = asyncio.create_task(batcher.ask(3))
    calls.gate.set()
    assert await third == 30
    assert calls.batches == [[1], [3]]  # the second was withdrawn before it was sent
    await batcher.drain()


async def test_item_that_is_not_overdue_yet_is_checked_again() -> None:
    calls, checks = Calls(), 0

    def overdue(item: int) -> Exception | None:
        nonlocal checks
        checks += 1
        return TimeoutError(f"{item} took too long") if checks == 3 else None

    batcher = Batcher(calls.run, limit=1, in_flight=1, patience=Patience(0.05, overdue))
    with pytest.raises(TimeoutError, match="took too long"):
        await batcher.ask(1)
    assert checks == 3
    calls.gate.set()
    await batcher.drain()


async def test_time_limit_ends_with_its_deadline() -> None:
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls.run, limit=1, in_flight=1, patience=Patience(0.1, lambda _: TimeoutError()))

    for item in range(3):
        assert await batcher.ask(item) == 10 * item
        await asyncio.sleep(0.03)  # several checks run meanwhile
    await batcher.drain()


async def test_calls_and_waiting_items_are_measured() -> None:
    calls, meter = Calls(), BatchMetrics()
    batcher = Batcher(calls.run, limit=2, in_flight=1, meter=meter)
    requests = [asyncio.create_task(batcher.ask(item)) for item in range(5)]
    while not calls.batches:
        await asyncio.sleep(0)
    assert meter.waiting() == 3
    calls.gate.set()
    await asyncio.gather(*requests)

    assert meter.waiting() == 0
    assert (sum(meter.sizes.counts), meter.sizes.sum) == (3, 5)


async def test_call_has_the_context_of_none_of_its_callers() -> None:
    traces: list[RequestTrace | None] = []

    async def run(batch: list[int]) -> list[int]:
        traces.append(CURRENT.get())
        return batch

    batcher = Batcher(run, limit=2, in_flight=1)

    async def ask(item: int) -> None:
        CURRENT.set(RequestTrace(str(item)))
        await batcher.ask(item)

    await asyncio.gather(*map(ask, range(5)))
    assert traces == [None] * 3


async def test_long_queue_costs_as_little_per_item_as_a_short_one() -> None:
    async def run(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        return items

    async def seconds_per_item(number: int) -> float:
        batcher = Batcher(run, limit=1, in_flight=20)
        tasks = [asyncio.ensure_future(batcher.ask(item)) for item in range(number)]
        started = time.process_time()
        await asyncio.gather(*tasks)
        return (time.process_time() - started) / number

    short_queue = min([await seconds_per_item(500) for _ in range(5)])
    assert await seconds_per_item(10_000) < 4 * short_queue
