"""Bulkheads: each kind of operation has its own threads, and a time limit that begins with the call.

motor runs every operation in a thread of one pool, whose queue has no time limit. A thread waits as long as MongoDB
does not answer, up to the time limit. With shared threads, updates that hang (no majority, a stalled disk) would hold
them all, and reads that MongoDB does answer would fail. So an operation waits here, not in motor's queue.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from contextvars import copy_context
from typing import Any, TypeVar

import pymongo
from motor.frameworks import asyncio as motor_threads

from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.batching import SCANS
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.runtime.fairness.fair_slots import FairSlots
from guidsvc.store.work_time import add_work

TIMEOUT_MS = 2_000
"""Time limit for an operation: the wait for a thread and all retries included."""
GRACE_SECONDS = 0.5
"""Time for the driver to report the end of the time limit of a sent operation: it knows the outcome."""
LEAST_SECONDS = 0.1
"""An operation with less time left is not sent, because MongoDB would hardly answer in time."""
QUERIES = 16
"""Maximum number of concurrent calls of each batcher of records: reads, linearizable reads and creations."""
READS, FINDS, COUNTS, UPDATES, PINGS = 16, 8, 6, 20, 2
"""Threads of the other kinds of operations. Only operations on records are batched."""
RESERVED = 2
"""Of the threads for reads, and of those for updates, the number that only the service's own work may use."""
THREADS = 3 * QUERIES + READS + FINDS + COUNTS + UPDATES + PINGS
"""Threads of a process: 100, as many as the driver's connections to one server (`maxPoolSize`)."""
UNSENT = "MongoDB: not sent in time, because other operations of its kind have no answer"
UNANSWERED = "MongoDB: no answer in time"
_Done = TypeVar("_Done")


class Queued:
    """An operation that waits to be sent, and its time limit."""

    __slots__ = ("deadline", "sent_at")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """The end of the time limit, by `time.monotonic()`."""
        self.sent_at: float | None = None

    @property
    def is_sent(self) -> bool:
        """Whether it was sent to MongoDB."""
        return self.sent_at is not None

    def send(self) -> float:
        """Mark it as sent, and return the seconds left; StoreUnavailable if too few are left."""
        now = time.monotonic()
        if self.deadline - now < LEAST_SECONDS:
            raise StoreUnavailable(UNSENT)
        self.sent_at = now
        return self.deadline - now

    def overdue(self, unanswered: type[GuidsvcError]) -> GuidsvcError | None:
        """Return the error at the end of the time limit: `unanswered` if it was sent, None if the driver's may come."""
        if not self.is_sent:
            return StoreUnavailable(UNSENT)
        return unanswered(UNANSWERED) if time.monotonic() >= self.deadline + GRACE_SECONDS else None


class _Operation(Queued):
    """An operation of a group, such as a caller; `scope` may drop it before it is sent."""

    __slots__ = ("future", "group", "scope", "work")

    def __init__(
        self, work: Callable[[], Awaitable[Any]], deadline: float, group: Hashable, scope: CancelScope | None
    ) -> None:
        super().__init__(deadline)
        self.work = work
        self.group = group
        self.scope = scope
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(self) -> bool:
        """Return whether it no longer waits to be sent."""
        self.drop_if_cancelled()
        return self.future.done()

    def drop_if_cancelled(self) -> None:
        if self.scope is not None and self.scope.is_cancelled and not self.is_sent and not self.future.done():
            self.future.set_exception(self.scope.error())

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Bulkhead:
    """At most `threads` operations at once. Callers take turns; one caller's operations wait in order of arrival.

    One caller never holds all threads, and `reserved` ones are for the service's own work, which has no caller.

    An operation that was not sent within the time limit raises StoreUnavailable; one that was sent and has no answer
    raises `unanswered`, which is OutcomeUnknown for writes. An operation occupies its thread, and the turn of its
    caller, until MongoDB or the time limit ends it, even if the caller is cancelled.
    """

    def __init__(
        self, threads: int, timeout_ms: int, *, unanswered: type[GuidsvcError] = StoreUnavailable, reserved: int = 0
    ) -> None:
        self._seconds = timeout_ms / 1000
        self._unanswered = unanswered
        most = max(1, threads - reserved - 1)
        self._slots: FairSlots[_Operation] = FairSlots(threads, most, reserved=reserved)
        self._running: dict[asyncio.Task[Any], _Operation] = {}
        self._context = copy_context()  # an operation must not have its caller's: it may outlive the caller
        self._scan_timer: asyncio.TimerHandle | None = None

    async def run(
        self,
        work: Callable[[], Awaitable[_Done]],
        *,
        since: float | None = None,
        is_droppable: bool = False,
        group: Hashable = None,
    ) -> _Done:
        """Run the work within the time limit, which begins at `since` (`time.monotonic()`), by default now.

        It takes the turns of its group, by default of the caller of the cancel scope. Droppable work is dropped if the
        cancel scope is cancelled before it is sent.
        """
        scope = CURRENT.get()
        if group is None and scope is not None:
            group = scope.caller
        begun = time.monotonic() if since is None else since
        operation = _Operation(work, begun + self._seconds, group, scope if is_droppable else None)
        if self._slots.take(group):
            self._start(operation)
        else:
            self._slots.waiting.append(group, operation)
        self._schedule_scan()
        try:
            done: _Done = await operation.future
            return done
        finally:
            self._slots.waiting.remove(group, operation)
            if operation.sent_at is not None:
                add_work(time.monotonic() - operation.sent_at)
            del operation  # otherwise it and the traceback of its error would form a cycle

    async def drain(self) -> None:
        """Wait until every operation has ended, also those whose caller was cancelled."""
        while self._running:
            await asyncio.wait(self._running)
        if self._scan_timer is not None:
            self._scan_timer.cancel()
            self._scan_timer = None

    def _start(self, operation: _Operation) -> None:
        task = asyncio.get_running_loop().create_task(self._send(operation), context=self._context.copy())
        self._running[task] = operation
        task.add_done_callback(self._end)

    async def _send(self, operation: _Operation) -> object:
        with pymongo.timeout(operation.send()):
            return await operation.work()

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Pass the outcome on, and give the thread to the next caller in turn."""
        operation = self._running.pop(task)
        if task.cancelled():
            operation.future.cancel()
        elif (error := task.exception()) is not None:
            operation.fail(error)
        elif not operation.future.done():
            operation.future.set_result(task.result())
        following = self._slots.release(operation.group)
        if following is not None:
            self._start(following)

    def _schedule_scan(self) -> None:
        if self._scan_timer is None:
            loop = asyncio.get_running_loop()
            self._scan_timer = loop.call_later(self._seconds / SCANS, self._scan, context=self._context)

    def _scan(self) -> None:
        """Time out and drop operations. One scan of all costs less than a timer for each."""
        self._scan_timer = None
        now = time.monotonic()
        for operation in [*(each for _, each in self._slots.waiting), *self._running.values()]:
            error = operation.overdue(self._unanswered) if now >= operation.deadline else None
            if error is not None:
                operation.fail(error)
            operation.drop_if_cancelled()
        if self._running:
            self._schedule_scan()


class Bulkheads:
    """The bulkheads of a store, by kind of operation."""

    def __init__(self, timeout_ms: int = TIMEOUT_MS) -> None:
        self.timeout_ms = timeout_ms
        self.reads = Bulkhead(READS, timeout_ms, reserved=RESERVED)
        self.finds = Bulkhead(FINDS, timeout_ms)
        self.counts = Bulkhead(COUNTS, timeout_ms)
        self.updates = Bulkhead(UPDATES, timeout_ms, unanswered=OutcomeUnknown, reserved=RESERVED)
        self.pings = Bulkhead(PINGS, timeout_ms)

    async def drain(self) -> None:
        """Wait until every operation has ended."""
        for bulkhead in (self.reads, self.finds, self.counts, self.updates, self.pings):
            await bulkhead.drain()


def reserve_threads() -> None:
    """Let motor use THREADS threads. Its own setting, MOTOR_MAX_WORKERS, counts only before it is imported."""
    if motor_threads.max_workers < THREADS:
        motor_threads.max_workers = THREADS
        motor_threads._reset_global_executor()  # type: ignore[no-untyped-call]  # noqa: SLF001  # it has no public one
