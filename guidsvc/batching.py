"""Many callers, one call: what is asked for in one turn of the loop, or while all calls are out, goes out together.

This is the group commit of the SQLite store, the shared query of the MongoDB store and the shared round trip
of the Redis cache. It knows none of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Gathers items and hands them to `run`, which answers each, in order; if it raises, all of them raise.

    At most `limit` items go out in one call, and at most `in_flight` calls are out at once; items wait for a
    place in the order in which they came. An item whose caller has gone before it went out is dropped.
    """

    def __init__(self, run: Callable[[list[Item]], Awaitable[Sequence[Answer]]], *, limit: int, in_flight: int) -> None:
        self._run = run
        self._limit = limit
        self._places = in_flight
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._scheduled = False
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Answer:
        """Return the answer to this item, from whichever call it went out with."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, answer))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._send)
        return await answer

    async def drain(self) -> None:
        """Return when everything that was asked has been answered."""
        while self._scheduled or self._calls:
            await asyncio.gather(asyncio.sleep(0), *self._calls)

    def _send(self) -> None:
        self._scheduled = False
        self._waiting = [(item, answer) for item, answer in self._waiting if not answer.done()]
        while self._waiting and len(self._calls) < self._places:
            batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            call = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._called)

    def _called(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._send()

    async def _call(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._run([item for item, _ in batch])
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)
        except Exception as error:  # noqa: BLE001  # it is not swallowed: every caller gets it
            for _, waiting in batch:
                if not waiting.done():
                    waiting.set_exception(error)
