"""Many callers, one call: what is asked for in one turn of the loop, or while all calls are out, goes out together.

This is the group commit of the SQLite store, the shared query of the MongoDB store and the shared round trip
of the Redis cache. It knows none of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Generic, NamedTuple, TypeVar

from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.telemetry.metrics import BatchMetrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")

LOOKS = 10
"""So often is looked, in the time that an answer may take, for items that have waited longer."""


class Patience(NamedTuple, Generic[Item]):
    """How long an answer may take, from the moment it was asked for, and what the caller is told if it does."""

    seconds: float
    overdue: Callable[[Item], Exception]


class _Asked(NamedTuple, Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    since: float
    errand: CancelScope | None  # where it may be dropped with it


class Batcher(Generic[Item, Answer]):
    """Gathers items and hands them to `run`, which answers each, in order; if it raises, all of them raise.

    What is `droppable` is dropped too when the errand that it is a part of has been left before it went out; its caller
    is told so, and not cut off. An answer that is an exception is raised to who asked for it, and to nobody else.

    At most `limit` items go out in one call, and at most `in_flight` calls are out at once; items wait for a
    place in the order in which they came. An item whose caller has gone, or was told that it took too long, before it
    went out is dropped. Where `run` is no coroutine it is called in the very step in which that is decided. It runs in
    the context in which the batcher was made: a call is no more of one of its callers than of the others.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        limit: int,
        in_flight: int,
        patience: Patience[Item] | None = None,
        droppable: Callable[[Item], bool] | None = None,
        meter: BatchMetrics | None = None,
    ) -> None:
        self._run = run
        self._limit = limit
        self._places = in_flight
        self._patience = patience
        self._droppable = droppable
        self._meter = BatchMetrics() if meter is None else meter
        self._meter.waiting = lambda: len(self._waiting)
        self._context = copy_context()
        self._waiting: list[_Asked[Item, Answer]] = []
        self._scheduled = False
        self._calls: dict[asyncio.Future[Sequence[Answer | Exception]], list[_Asked[Item, Answer]]] = {}
        self._looking: asyncio.TimerHandle | None = None

    async def ask(self, item: Item) -> Answer:
        """Return the answer to this item, from whichever call it went out with."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        errand = CURRENT.get() if self._droppable is not None and self._droppable(item) else None
        self._waiting.append(_Asked(item, answer, loop.time(), errand))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._send, context=self._context)
        if self._looking is None and self._patience is not None:
            pause = self._patience.seconds / LOOKS
            self._looking = loop.call_later(pause, self._look, self._patience, context=self._context)
        try:
            return await answer
        finally:
            del answer  # or the traceback of an error would lead back to it

    async def drain(self) -> None:
        """Return when everything that was asked has been answered."""
        while self._scheduled or self._calls:
            await asyncio.sleep(0)
            if self._calls:
                await asyncio.wait(self._calls)
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _send(self) -> None:
        self._scheduled = False
        self._drop()
        self._waiting = [asked for asked in self._waiting if not asked.answer.done()]
        while self._waiting and len(self._calls) < self._places:
            batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            call = asyncio.ensure_future(self._run([asked.item for asked in batch]))
            self._calls[call] = batch
            self._meter.sizes.observe(len(batch))
            call.add_done_callback(self._answered)

    def _drop(self) -> None:
        for asked in self._waiting:
            if asked.errand is not None and asked.errand.left and not asked.answer.done():
                asked.answer.set_exception(asked.errand.error())

    def _answered(self, call: asyncio.Future[Sequence[Answer | Exception]]) -> None:
        batch = self._calls.pop(call)
        for asked, answer in zip(batch, _answers_of(call, len(batch)), strict=True):
            if asked.answer.done():
                continue
            if isinstance(answer, Exception):
                asked.answer.set_exception(answer)
            else:
                asked.answer.set_result(answer)
        self._send()

    def _look(self, patience: Patience[Item]) -> None:
        """Tell those who have waited too long: one look at all costs less than an alarm for each."""
        loop = asyncio.get_running_loop()
        self._drop()
        everyone = [asked for batch in (self._waiting, *self._calls.values()) for asked in batch]
        left = [asked for asked in everyone if not asked.answer.done()]
        for asked in left:
            if loop.time() - asked.since >= patience.seconds:
                asked.answer.set_exception(patience.overdue(asked.item))
        self._looking = loop.call_later(patience.seconds / LOOKS, self._look, patience) if left else None


def _answers_of(call: asyncio.Future[Sequence[Answer | Exception]], count: int) -> Sequence[Answer | Exception]:
    """Return what a call answers to each of so many items: its error where it failed, or where an answer is missing.

    The error is not raised here: its traceback would lead to those who wait, and from there back to the error.
    """
    error = call.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    answers = list(call.result()[:count]) if error is None else []
    missing = count - len(answers)
    return [*answers, *[error or ValueError(f"{missing} of {count} items have no answer")] * missing]
