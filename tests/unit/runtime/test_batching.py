"""Many callers, one call."""

import asyncio

import pytest

from guidsvc.runtime.batching import Batcher, Patience
from guidsvc.telemetry.metrics import BatchMetrics
from guidsvc.telemetry.tracing import CURRENT, RequestTrace


class Calls:
    """What was called, and calls that last until they are let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def run(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        await self.gate.wait()
        return [10 * item for item in batch]


async def test_what_is_asked_in_one_turn_goes_out_in_one_call() -> None:
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls.run, limit=10, in_flight=1)

    assert await asyncio.gather(*(batcher.ask(item) for item in range(5))) == [0, 10, 20, 30, 40]
    assert calls.batches == [[0, 1, 2, 3, 4]]


async def test_what_is_asked_while_all_calls_are_out_goes_out_with_the_next() -> None:
    calls = Calls()
    batcher = Batcher(calls.run, limit=2, in_flight=2)
    asked = [asyncio.create_task(batcher.ask(item)) for item in range(7)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert calls.batches == [[0, 1], [2, 3]]

    calls.gate.set()
    assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40, 50, 60]
    assert calls.batches == [[0, 1], [2, 3], [4, 5], [6]]


async def test_a_caller_that_went_away_before_its_call_is_dropped_from_it() -> None:
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


async def test_a_call_that_fails_fails_all_who_went_out_with_it_and_nobody_else() -> None:
    async def run(batch: list[int]) -> list[int]:
        if 1 in batch:
            raise ValueError("one")
        return batch

    batcher = Batcher(run, limit=2, in_flight=1)
    answers = await asyncio.gather(*(batcher.ask(item) for item in range(4)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [ValueError, ValueError, int, int]


async def test_an_answer_that_is_an_error_is_raised_to_who_asked_for_it_alone() -> None:
    async def run(batch: list[int]) -> list[int | Exception]:
        return [ValueError("one") if item == 1 else item for item in batch]

    batcher: Batcher[int, int] = Batcher(run, limit=4, in_flight=1)
    answers = await asyncio.gather(*(batcher.ask(item) for item in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [int, ValueError, int]


async def test_drain_returns_when_everything_has_been_answered() -> None:
    calls = Calls()
    batcher = Batcher(calls.run, limit=1, in_flight=1)
    asked = [asyncio.create_task(batcher.ask(item)) for item in range(3)]
    await asyncio.sleep(0)
    drained = asyncio.create_task(batcher.drain())
    while not calls.batches:
        await asyncio.sleep(0)
    assert not drained.done()

    calls.gate.set()
    await drained
    assert calls.batches == [[0], [1], [2]]
    assert [await each for each in asked] == [0, 10, 20]


async def test_fewer_answers_than_items_is_a_fault_of_the_call() -> None:
    async def run(batch: list[int]) -> list[int]:
        return batch[1:]

    batcher = Batcher(run, limit=9, in_flight=1)
    answers = await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True)

    assert answers[0] == 2
    assert isinstance(answers[1], ValueError)


async def test_who_waits_too_long_is_told_and_the_others_are_answered() -> None:
    calls = Calls()
    patience: Patience[int] = Patience(0.2, lambda item: TimeoutError(f"{item} took too long"))
    batcher = Batcher(calls.run, limit=1, in_flight=1, patience=patience)
    first, second = asyncio.create_task(batcher.ask(1)), asyncio.create_task(batcher.ask(2))

    for late in (first, second):  # one that is out, and one that waits for a place
        with pytest.raises(TimeoutError, match="took too long"):
            await late
    third = asyncio.create_task(batcher.ask(3))
    calls.gate.set()
    assert await third == 30
    assert calls.batches == [[1], [3]]  # the second was withdrawn before it went out
    await batcher.drain()


async def test_an_item_that_is_not_overdue_yet_is_looked_at_again() -> None:
    calls, looks = Calls(), 0

    def overdue(item: int) -> Exception | None:
        nonlocal looks
        looks += 1
        return TimeoutError(f"{item} took too long") if looks == 3 else None

    batcher = Batcher(calls.run, limit=1, in_flight=1, patience=Patience(0.05, overdue))
    with pytest.raises(TimeoutError, match="took too long"):
        await batcher.ask(1)
    assert looks == 3
    calls.gate.set()
    await batcher.drain()


async def test_patience_ends_with_what_it_is_for() -> None:
    calls = Calls()
    calls.gate.set()
    batcher = Batcher(calls.run, limit=1, in_flight=1, patience=Patience(0.1, lambda _: TimeoutError()))

    for item in range(3):
        assert await batcher.ask(item) == 10 * item
        await asyncio.sleep(0.03)  # through some looks
    await batcher.drain()


async def test_what_goes_out_and_what_waits_is_measured() -> None:
    calls, meter = Calls(), BatchMetrics()
    batcher = Batcher(calls.run, limit=2, in_flight=1, meter=meter)
    asked = [asyncio.create_task(batcher.ask(item)) for item in range(5)]
    while not calls.batches:
        await asyncio.sleep(0)
    assert meter.waiting() == 3
    calls.gate.set()
    await asyncio.gather(*asked)

    assert meter.waiting() == 0
    assert (sum(meter.sizes.counts), meter.sizes.sum) == (3, 5)


async def test_a_call_is_none_of_its_callers_in_particular() -> None:
    seen: list[RequestTrace | None] = []

    async def run(batch: list[int]) -> list[int]:
        seen.append(CURRENT.get())
        return batch

    batcher = Batcher(run, limit=2, in_flight=1)

    async def ask(item: int) -> None:
        CURRENT.set(RequestTrace(str(item)))
        await batcher.ask(item)

    await asyncio.gather(*map(ask, range(5)))
    assert seen == [None] * 3
