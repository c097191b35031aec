"""The time budget of one iteration of the event loop."""

import asyncio

import pytest

from guidsvc.runtime.fairness.iteration_budget import IterationBudget
from tests.support.turn_counter import TurnCounter


@pytest.mark.parametrize(("cost_seconds", "most"), [(0.0, 100), (1.0, 4), (3.0, 2), (9.0, 1)])
async def test_work_ends_for_an_iteration_once_its_time_is_spent(cost_seconds: float, most: int) -> None:
    now, counter, done = 0.0, TurnCounter(), []
    budget = IterationBudget(4.0, lambda: now)

    def work(number: int) -> None:
        nonlocal now
        now += cost_seconds
        done.append(number)

    counted = counter.counted(work)

    async def task(number: int) -> None:
        await budget.wait()
        counted(number)

    async with counter.following_turns():
        await asyncio.gather(*map(task, range(100)))

    assert done == [*range(100)], "in order"
    assert counter.most == most


async def test_each_iteration_has_its_own_time() -> None:
    now = 0.0
    budget = IterationBudget(1.0, lambda: now)
    await budget.wait()
    now = 100.0
    await asyncio.sleep(0)
    waiter = asyncio.create_task(budget.wait())
    await asyncio.sleep(0)

    assert waiter.done()
