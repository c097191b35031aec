"""Turns of work in the event loop: little in one iteration, and groups alternate."""

import asyncio

import pytest

from guidsvc.runtime.fairness import loop_turns
from guidsvc.runtime.fairness.loop_turns import LoopTurns
from tests.support.turn_counter import TurnCounter


class Work:
    """Work of some turns, which notes each of them."""

    def __init__(self, turns: LoopTurns, name: str, log: list[str], left: int) -> None:
        self._turns, self._name, self._log, self._left = turns, name, log, left
        turns.append(name, self)

    def done(self) -> bool:
        return self._left == 0

    def proceed(self) -> None:
        self._log.append(self._name)
        self._left -= 1
        if self._left:
            self._turns.append(self._name, self)


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 1), (60.0, 24)])
async def test_turns_have_a_time_limit_in_an_iteration(
    monkeypatch: pytest.MonkeyPatch, seconds: float, most: int
) -> None:
    monkeypatch.setattr(loop_turns, "TURN_SECONDS", seconds)
    counter, turns, log = TurnCounter(), LoopTurns(), list[str]()
    monkeypatch.setattr(Work, "proceed", counter.counted(Work.proceed))
    async with counter.following_turns():
        for name, count in ("many", 20), ("few", 4):
            Work(turns, name, log, count)
        while len(log) < 24:
            await asyncio.sleep(0)
    assert counter.most == most
    assert log[:8] == ["many", "few"] * 4


async def test_error_in_a_turn_does_not_stop_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Work):
        def proceed(self) -> None:
            raise RuntimeError("broken")

    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    turns, log = LoopTurns(), list[str]()
    Broken(turns, "a", log, 1)
    Work(turns, "b", log, 2)
    while len(log) < 2:
        await asyncio.sleep(0)
    assert len(errors) == 1
