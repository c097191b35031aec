"""Count calls per turn of the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def no_turn() -> None:
    """Fail: the work needs no turn."""
    raise AssertionError("a turn was taken")


class TurnCounter:
    """Counts the calls of a function: `most` is the highest number in one turn of the event loop."""

    def __init__(self) -> None:
        self.most = 0
        self._calls = 0

    def counted(self, function: Callable[P, R], weigh: Callable[P, int] = lambda *_, **__: 1) -> Callable[P, R]:
        """Wrap a function so that its calls are counted, each with its weight."""

        def call(*arguments: P.args, **options: P.kwargs) -> R:
            self._calls += weigh(*arguments, **options)
            self.most = max(self.most, self._calls)
            return function(*arguments, **options)

        return call

    @asynccontextmanager
    async def following_turns(self) -> AsyncIterator[None]:
        """Within the block, restart the count with each turn."""

        async def restart_each_turn() -> None:
            while True:
                self._calls = 0
                await asyncio.sleep(0)

        task = asyncio.create_task(restart_each_turn())
        try:
            yield
        finally:
            task.cancel()
