"""Batching: items submitted in one event-loop iteration, or while all calls are in flight, share one call.

The SQLite store uses it for group commit, the MongoDB store for shared queries, and the Redis cache for shared round
trips. This module knows none of them.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import copy_context
from enum import Enum
from time import perf_counter
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.telemetry import tracing
from guidsvc.telemetry.metrics import BatchMetrics
from guidsvc.telemetry.tracing import RequestTrace

Item = TypeVar("Item")
Result = TypeVar("Result")

SCANS = 10
"""Scans for timed-out items per timeout."""


class NotServed(Enum):
    """The answer to an item for which a call had no room: the item goes out with the next call, before all others."""

    NOT_SERVED = "not served"


NOT_SERVED = NotServed.NOT_SERVED
_Call: TypeAlias = asyncio.Future[Sequence[Result | Exception | NotServed]]


class Patience(NamedTuple, Generic[Item]):
    """The timeout for an answer, in seconds since `ask`, and the error that the caller gets then.

    If `overdue` returns None, the caller waits on, and the item is looked at again.
    """

    seconds: float
    overdue: Callable[[Item], Exception | None]


class _Pending(NamedTuple, Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    since: float
    scope: CancelScope | None  # None if the item is not droppable
    group: Hashable


class Batcher(Generic[Item, Result]):
    """Collects items and passes them to `run`, which returns one answer for each, in order.

    If `run` raises, all callers of that batch get the error. An answer that is an exception is raised to its caller
    only. At least one answer of a call is not NOT_SERVED.

    A call carries at most `limit` items, and at most `in_flight` calls run at once. With `weight`, its items weigh at
    most `max_weight` together, unless it is one item. After a call without room for all of its items, the next calls
    carry fewer. Groups take turns; with `by_caller`, these are the callers of the cancel scopes. Items of one group
    wait in order of arrival.
    An item is dropped if its caller was cancelled or timed out before it was sent. A `droppable` item is also dropped
    if its cancel scope was cancelled before that; its caller gets the scope's error.

    If `run` is not a coroutine function, it executes in the same step that decides what to send. `run` uses the context
    in which the batcher was created, because a call belongs to none of its callers in particular.

    A call with several items is recorded in the traces of its callers. `size` is the number of changes or reads in an
    item; None means one.
    """

    def __init__(  # noqa: PLR0913  # in what its users differ
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception | NotServed]]],
        *,
        limit: int,
        in_flight: int,
        patience: Patience[Item] | None = None,
        droppable: Callable[[Item], bool] | None = None,
        meter: BatchMetrics | None = None,
        size: Callable[[Item], int] | None = None,
        weight: Callable[[Item], int] | None = None,
        max_weight: int = 0,
        by_caller: bool = False,
    ) -> None:
        self._by_caller = by_caller
        self._run = run
        self._weight = weight
        self._max_weight = max_weight
        self._size = size
        self._limit = self._room = limit
        self._max_in_flight = in_flight
        self._patience = patience
        self._droppable = droppable
        self._meter = BatchMetrics() if meter is None else meter
        self._meter.waiting = lambda: sum(map(len, self._waiting.values()))
        self._context = copy_context()
        self._waiting: OrderedDict[Hashable, deque[_Pending[Item, Result]]] = OrderedDict()  # next turn first
        self._scheduled = False
        self._calls: dict[_Call[Result], list[_Pending[Item, Result]]] = {}
        self._scan_timer: asyncio.TimerHandle | None = None
        self._traces: dict[asyncio.Future[Result], RequestTrace] = {}  # of the callers that are sampled
        self._begun: dict[_Call[Result], float] = {}  # when the calls began

    async def ask(self, item: Item, group: Hashable = None) -> Result:
        """Submit an item, and return its answer."""
        scope = CURRENT.get()
        if self._by_caller and scope is not None:
            group = scope.caller
        if self._droppable is None or not self._droppable(item):
            scope = None
        future = self.submit(item, scope, group)
        trace = tracing.CURRENT.get()
        if trace is not None and trace.waits is not None:
            self._traces[future] = trace
        try:
            return await future
        finally:
            if self._traces:
                self._traces.pop(future, None)
            del future  # otherwise it and the traceback of its error would form a cycle

    def submit(self, item: Item, scope: CancelScope | None = None, group: Hashable = None) -> asyncio.Future[Result]:
        """Submit an item, and return the future of its answer. No trace records it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if group not in self._waiting:
            self._waiting[group] = deque()
        self._waiting[group].append(_Pending(item, future, loop.time(), scope, group))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._send, context=self._context)
        if self._scan_timer is None and self._patience is not None:
            pause = self._patience.seconds / SCANS
            self._scan_timer = loop.call_later(pause, self._scan, self._patience, context=self._context)
        return future

    async def drain(self) -> None:
        """Wait until all submitted items have been answered."""
        while self._scheduled or self._calls:
            await asyncio.sleep(0)
            if self._calls:
                await asyncio.wait(self._calls)
        if self._scan_timer is not None:
            self._scan_timer.cancel()
            self._scan_timer = None

    def _send(self) -> None:
        self._scheduled = False
        self._drop()
        while len(self._calls) < self._max_in_flight and (batch := self._next_batch()):
            try:
                call = asyncio.ensure_future(self._run([pending.item for pending in batch]))
            except Exception as error:  # noqa: BLE001  # the callers get it; otherwise they would wait forever
                for pending in batch:
                    pending.future.set_exception(error)
                continue
            self._calls[call] = batch
            if self._traces:
                self._begun[call] = perf_counter()
            self._meter.sizes.observe(len(batch))
            call.add_done_callback(self._deliver)

    def _next_batch(self) -> list[_Pending[Item, Result]]:
        """Remove and return the first items that still wait, one of each group in turn."""
        batch: list[_Pending[Item, Result]] = []
        left = self._max_weight
        while self._waiting and len(batch) < self._room:
            group, items = self._waiting.popitem(last=False)
            pending = items.popleft()
            if items:
                self._waiting[group] = items
            if pending.future.done():
                continue
            if self._weight is not None:
                left -= self._weight(pending.item)
                if left < 0 and batch:
                    self._put_back([pending])
                    break
            batch.append(pending)
        return batch

    def _put_back(self, not_served: list[_Pending[Item, Result]]) -> None:
        """Queue the items again, before all others, so that the next call serves them first."""
        for pending in reversed(not_served):
            if pending.group not in self._waiting:
                self._waiting[pending.group] = deque()
            self._waiting[pending.group].appendleft(pending)
            self._waiting.move_to_end(pending.group, last=False)

    def _drop(self) -> None:
        if self._droppable is None:
            return
        for items in self._waiting.values():
            for pending in items:
                if pending.scope is not None and pending.scope.is_cancelled and not pending.future.done():
                    pending.future.set_exception(pending.scope.error())

    def _deliver(self, call: _Call[Result]) -> None:
        batch = self._calls.pop(call)
        if self._begun:
            self._record_call(batch, self._begun.pop(call, None))
        not_served: list[_Pending[Item, Result]] = []
        for pending, result in zip(batch, _results_of(call, len(batch)), strict=True):
            if pending.future.done():
                continue
            if result is NOT_SERVED:
                not_served.append(pending)
            elif isinstance(result, Exception):
                pending.future.set_exception(result)
            else:
                pending.future.set_result(result)
        if not_served:
            self._room = max(1, 2 * (len(batch) - len(not_served)))
            self._put_back(not_served)
        elif self._room < self._limit:
            self._room = min(2 * self._room, self._limit)
        self._send()

    def _record_call(self, batch: list[_Pending[Item, Result]], begun: float | None) -> None:
        """Record a call that several items shared in the trace of one of their requests, with links to the others."""
        part, operation = self._meter.part, self._meter.operation
        if begun is not None and part and len(batch) > 1:
            traces = (self._traces[pending.future] for pending in batch if pending.future in self._traces)
            calls = len(batch) if self._size is None else sum(self._size(pending.item) for pending in batch)
            tracing.record_shared_wait(part, operation, perf_counter() - begun, calls, traces)

    def _scan(self, patience: Patience[Item]) -> None:
        """Time out items. One scan of all costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        self._drop()
        submitted = [pending for items in (*self._waiting.values(), *self._calls.values()) for pending in items]
        unanswered = [pending for pending in submitted if not pending.future.done()]
        for pending in unanswered:
            is_overdue = loop.time() - pending.since >= patience.seconds
            error = patience.overdue(pending.item) if is_overdue else None
            if error is not None:
                pending.future.set_exception(error)
        self._scan_timer = loop.call_later(patience.seconds / SCANS, self._scan, patience) if unanswered else None


def _results_of(call: _Call[Result], count: int) -> Sequence[Result | Exception | NotServed]:
    """Return `count` answers of a call. If it failed, each is its error; a missing answer is a ValueError.

    The error is not raised here: its traceback would reference the waiting futures, and they the error. A library in
    Rust that panics raises a BaseException: without an answer, the callers would wait forever.
    """
    raised = call.exception()
    error = raised if raised is None or isinstance(raised, Exception) else RuntimeError(repr(raised))
    results = list(call.result()[:count]) if error is None else []
    missing = count - len(results)
    return [*results, *[error or ValueError(f"{missing} of {count} items have no answer")] * missing]
