"""Bulkheads: each kind of operation has a number of threads of its own, and a time limit that begins when it is asked.

motor runs every operation in a thread of one pool, whose queue has no time limit. A thread waits as long as MongoDB
does not answer, up to the time limit. With shared threads, updates that hang (no majority, a stalled disk) would hold
them all, and reads that MongoDB does answer would fail. So an operation waits here, not in motor's queue.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import pymongo
from motor.frameworks import asyncio as motor_threads

from guidsvc.errors import GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.batching import Batcher, Patience
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore

TIMEOUT_MS = 2_000
"""Time limit for an operation: the wait for a thread and all retries included."""
GRACE_SECONDS = 0.5
"""How long the driver may take to report that the time limit of what it sent has ended: it knows what was done."""
LEAST_SECONDS = 0.1
"""An operation with less time left is not sent, because MongoDB would hardly answer in time."""
QUERIES = 16
"""Maximum number of concurrent calls of each batcher of records: reads, linearizable reads and creations."""
READS, FINDS, COUNTS, UPDATES, PINGS = 16, 8, 6, 20, 2
"""Threads of the other kinds of operations. Only operations on records are batched."""
THREADS = 3 * QUERIES + READS + FINDS + COUNTS + UPDATES + PINGS
"""Threads of a process: 100, as many as the driver's connections to one server (`maxPoolSize`)."""
UNSENT = "MongoDB: not sent in time, because other operations of its kind have no answer"
UNANSWERED = "MongoDB: no answer in time"
_Done = TypeVar("_Done")


class Queued:
    """What waits to be sent, and its time limit."""

    __slots__ = ("deadline", "is_sent")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """The end of the time limit, by `time.monotonic()`."""
        self.is_sent = False

    def send(self) -> float:
        """Mark it as sent, and return the seconds left; StoreUnavailable if too few are left."""
        left = self.deadline - time.monotonic()
        if left < LEAST_SECONDS:
            raise StoreUnavailable(UNSENT)
        self.is_sent = True
        return left

    def overdue(self, unanswered: type[GuidsvcError]) -> GuidsvcError | None:
        """Return the error at the end of the time limit: `unanswered` if it was sent, None if the driver's may come."""
        if not self.is_sent:
            return StoreUnavailable(UNSENT)
        return unanswered(UNANSWERED) if time.monotonic() >= self.deadline + GRACE_SECONDS else None


class _Operation(Queued):
    __slots__ = ("is_droppable", "work")

    def __init__(self, work: Callable[[], Awaitable[object]], deadline: float, *, is_droppable: bool) -> None:
        super().__init__(deadline)
        self.work = work
        self.is_droppable = is_droppable


class Bulkhead:
    """At most `threads` operations at once; others wait in order of arrival.

    An operation that was not sent within the time limit raises StoreUnavailable; one that was sent and has no answer
    raises `unanswered`, which is OutcomeUnknown for writes. An operation occupies its thread until MongoDB or the time
    limit ends it, even if its caller is cancelled.
    """

    def __init__(self, threads: int, timeout_ms: int, *, unanswered: type[GuidsvcError] = StoreUnavailable) -> None:
        self._seconds = timeout_ms / 1000
        self._operations: Batcher[_Operation, Any] = Batcher(
            self._run,
            limit=1,
            in_flight=threads,
            patience=Patience(self._seconds, lambda operation: operation.overdue(unanswered)),
            droppable=lambda operation: operation.is_droppable,
        )

    async def run(
        self, work: Callable[[], Awaitable[_Done]], *, since: float | None = None, is_droppable: bool = False
    ) -> _Done:
        """Run the work within the time limit, which begins at `since` (`time.monotonic()`), by default now.

        Droppable work is dropped if the cancel scope of its caller is cancelled before it is sent.
        """
        begun = time.monotonic() if since is None else since
        operation = _Operation(work, begun + self._seconds, is_droppable=is_droppable)
        done: _Done = await self._operations.ask(operation)
        return done

    async def drain(self) -> None:
        """Wait until every operation has ended, also those whose caller was cancelled."""
        await self._operations.drain()

    async def _run(self, operations: list[_Operation]) -> list[object]:
        (operation,) = operations
        with pymongo.timeout(operation.send()):
            return [await operation.work()]


class FairBulkhead(Bulkhead):
    """A bulkhead of long reads, such as counts: groups, such as owners, get its threads in turn.

    The semaphore only decides whose turn it is. It does not bound the threads, as the bulkhead below does: a group
    returns its slot when its caller is cancelled, while the operation still occupies its thread.
    """

    def __init__(self, threads: int, timeout_ms: int) -> None:
        super().__init__(threads, timeout_ms)
        self._slots = FairSemaphore(threads)

    async def run_in_turn(self, group: Hashable, work: Callable[[], Awaitable[_Done]]) -> _Done:
        """Run the work when it is the group's turn. The time limit includes the wait."""
        since = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds), self._slots.slot(group):
                return await self.run(work, since=since)
        except TimeoutError as error:
            raise StoreUnavailable(UNANSWERED) from error


class Bulkheads:
    """The bulkheads of a store, by kind of operation."""

    def __init__(self, timeout_ms: int = TIMEOUT_MS) -> None:
        self.timeout_ms = timeout_ms
        self.reads = Bulkhead(READS, timeout_ms)
        self.finds = FairBulkhead(FINDS, timeout_ms)
        self.counts = FairBulkhead(COUNTS, timeout_ms)
        self.updates = Bulkhead(UPDATES, timeout_ms, unanswered=OutcomeUnknown)
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
