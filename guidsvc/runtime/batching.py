"""Batching: items submitted in one event-loop iteration, or while all calls are in flight, share one call.

The SQLite store uses it for group commit, the MongoDB store for shared queries, and the Redis cache for shared round
trips. This module knows none of them.
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
"""Scans for timed-out items per timeout."""


class Patience(NamedTuple, Generic[Item]):
    """The timeout for an answer, in seconds since `ask`, and the error that the caller gets then.

    If `overdue` returns None, the caller waits on, and the item is looked at again.
    """

    seconds: float
    overdue: Callable[[Item], Exception | None]


class _Asked(NamedTuple, Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    since: float
    errand: CancelScope | None  # None if the item is not droppable


class Batcher(Generic[Item, Answer]):
    """Collects items and passes them to `run`, which returns one answer for each, in order.

    If `run` raises, all callers of that batch get the error. An answer that is an exception is raised to its caller
    only.

    A call carries at most `limit` items, and at most `in_flight` calls run at once; items wait in order of arrival.
    An item is dropped if its caller was cancelled or timed out before it was sent. A `droppable` item is also dropped
    if its cancel scope was cancelled before that; its caller gets the scope's error.

    If `run` is not a coroutine function, it executes in the same step that decides what to send. `run` uses the context
    in which the batcher was created, because a call belongs to none of its callers in particular.
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
        """Submit an item, and return its answer."""
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
            del answer  # otherwise it and the traceback of its error would form a cycle

    async def drain(self) -> None:
        """Wait until all submitted items have been answered."""
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
        """Time out items. One scan of all costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        self._drop()
        everyone = [asked for batch in (self._waiting, *self._calls.values()) for asked in batch]
        left = [asked for asked in everyone if not asked.answer.done()]
        for asked in left:
            is_overdue = loop.time() - asked.since >= patience.seconds
            error = patience.overdue(asked.item) if is_overdue else None
            if error is not None:
                asked.answer.set_exception(error)
        self._looking = loop.call_later(patience.seconds / LOOKS, self._look, patience) if left else None


def _answers_of(call: asyncio.Future[Sequence[Answer | Exception]], count: int) -> Sequence[Answer | Exception]:
    """Return `count` answers of a call. If it failed, each is its error; a missing answer is a ValueError.

    The error is not raised here: its traceback would reference the waiting futures, and they the error.
    """
    error = call.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    answers = list(call.result()[:count]) if error is None else []
    missing = count - len(answers)
    return [*answers, *[error or ValueError(f"{missing} of {count} items have no answer")] * missing]
