"""The time of a measured service: clocks that are stopped, and timers that do not fire."""

import asyncio
import time
from functools import partial

import pytest

from bench.cost.stopped_time import CLOCKS, StoppableLoop, StoppableTime


@pytest.fixture
def stoppable(monkeypatch: pytest.MonkeyPatch) -> StoppableTime:
    """The clocks of the `time` module, replaced for a test."""
    for name in CLOCKS:
        monkeypatch.setattr(time, name, getattr(time, name))
    stoppable = StoppableTime()
    stoppable.replace_clocks()
    return stoppable


@pytest.mark.parametrize("name", CLOCKS)
def test_clock_advances_until_it_is_stopped(stoppable: StoppableTime, name: str) -> None:
    clock = getattr(time, name)
    read = partial(clock, time.CLOCK_MONOTONIC) if name == "clock_gettime" else clock
    before = read()
    while (running := read()) == before:
        pass

    stoppable.is_stopped = True

    assert [read() for _ in range(1000)] == [running] * 1000


def test_timers_of_a_stopped_loop_do_not_fire() -> None:
    fired: list[str] = []

    async def stop_with_timers(loop: StoppableLoop) -> None:
        loop.call_later(0.001, fired.append, "before")
        loop.stop_time()
        loop.call_later(0.001, fired.append, "after")
        loop.call_at(loop.time() + 0.001, fired.append, "at")
        stopped_at = loop.time()
        await asyncio.to_thread(time.sleep, 0.05)
        assert loop.time() == stopped_at

    loop = StoppableLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(stop_with_timers(loop))

    assert fired == []
