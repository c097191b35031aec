"""Counting of calls within one turn of the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class TurnCounter:
    """The calls of a function: `most` is the highest number in one turn of the event loop."""

    def __init__(self) -> None:
        self.most = 0
        self._calls = 0

    def counted(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function, with its calls counted."""

        def call(*arguments: P.args, **named: P.kwargs) -> R:
            self._calls += 1
            self.most = max(self.most, self._calls)
            return function(*arguments, **named)

        return call

    @asynccontextmanager
    async def following_turns(self) -> AsyncIterator[None]:
        """Begin to count again with each turn, inside the block."""

        async def follow() -> None:
            while True:
                self._calls = 0
                await asyncio.sleep(0)

        turns = asyncio.create_task(follow())
        try:
            yield
        finally:
            turns.cancel()
