"""Turns of the writers of one GUID: all but two of them wait without an admission slot.

The first writer of a GUID holds its lock. A second one may wait for the lock; any other waits for its turn to do so.
Without this, the requests of a few callers for a few GUIDs would hold all slots while they wait for each other, and the
requests of others would be rejected.

A writer takes its slot again while it has the turn, never while it has the lock. So those that hold a slot while they
wait for the lock, as the operations of a batch do, always wait for a writer that has a slot.

The writer that has the turn may take the writes that wait, and execute them with its own (`write_chain`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import copy_context

from guidsvc.domain.caller import Caller
from guidsvc.domain.record import Record
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.cancel_scope import CancelScope

Make = Callable[[Record | None, int, int], Record]
"""Computes the new record; see `RecordWriter.write`."""
Change = tuple[Record | None, Record]
"""The old and the new record."""


class QueuedWrite:
    """A write that waits for its turn, with the context of its request.

    Its future gets the result if another writer executes it, and None when it has the turn.
    """

    __slots__ = ("caller", "context", "future", "is_taken", "make", "merged_bytes", "scope", "task", "while_live")

    def __init__(self, make: Make, caller: Caller, *, while_live: bool, merged_bytes: int) -> None:
        self.make = make
        self.caller = caller
        self.while_live = while_live
        self.merged_bytes = merged_bytes
        self.context = copy_context()
        self.task = asyncio.current_task()
        self.scope: CancelScope | None = None
        self.future: asyncio.Future[Change | None] = asyncio.get_running_loop().create_future()
        self.is_taken = False
        """Another writer executes it, so the request must not be cancelled."""

    @property
    def has_ended(self) -> bool:
        """Whether its request has ended: its client has disconnected, or its time limit has passed."""
        return self.scope is not None and self.scope.is_cancelled

    def begin(self) -> None:
        """Shield the request from cancellation, like any write that is sent to the store."""
        if self.scope is not None and not self.is_taken:
            self.is_taken = True
            self.scope.shield_depth += 1

    def settle(self, result: Change, error: Exception | None) -> None:
        """Set the result, or the error."""
        if self.future.done():  # the task was cancelled from outside, as in a shutdown
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    def end(self) -> None:
        """End the shield."""
        if self.scope is not None and self.is_taken:
            self.is_taken = False
            self.scope.shield_depth -= 1


class _Turn:
    """The turn of a GUID: the task that has it, and the writes that wait, in order of arrival."""

    __slots__ = ("holder", "queue")

    def __init__(self, holder: asyncio.Task[object] | None) -> None:
        self.holder = holder
        self.queue: deque[QueuedWrite] = deque()


class WriteTurns:
    """The turns of all GUIDs."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}  # only turns that a writer has

    @asynccontextmanager
    async def turn(self, guid: str, write: QueuedWrite) -> AsyncIterator[Change | None]:
        """Wait for the turn of a writer without its slot, and hold the turn and a slot in the block.

        Yield None if the write must be executed, or its result if another writer has executed it. The time limit of the
        request ends the wait.

        The operations of a batch share a slot that they cannot release, so they take no turns.
        """
        scope = write.scope = cancel_scope.CURRENT.get()
        if scope is None or scope.without_slot is None or scope.task is not write.task:
            yield None
            return
        has_turn = False
        try:
            async with scope.without_slot(scope):
                result = await self._wait(guid, write)
                has_turn = result is None
            yield result
        finally:
            write.end()
            if has_turn:
                self._pass_on(guid)

    def first(self, guid: str) -> QueuedWrite | None:
        """Return the first write that waits, if the current task has the turn of the GUID."""
        turn = self._turns.get(guid)
        if turn is None or turn.holder is not asyncio.current_task():
            return None
        while turn.queue and turn.queue[0].future.done():
            turn.queue.popleft()
        return turn.queue[0] if turn.queue else None

    def take(self, guid: str) -> QueuedWrite:
        """Remove the first write from the queue. The caller executes it, and sets the result of its future."""
        write = self._turns[guid].queue.popleft()
        write.begin()
        return write

    def put_back(self, guid: str, writes: Iterable[QueuedWrite]) -> None:
        """Return writes that were not executed to the front of the queue, in this order.

        A request that has ended meanwhile is cancelled instead: another chain would execute it past its time limit.
        """
        waiting = [write for write in writes if not write.future.done()]
        for write in waiting:
            write.end()
            if write.has_ended and write.task is not None:
                write.task.cancel()
        self._turns[guid].queue.extendleft(write for write in reversed(waiting) if not write.has_ended)

    async def _wait(self, guid: str, write: QueuedWrite) -> Change | None:
        turn = self._turns.get(guid)
        if turn is None:
            self._turns[guid] = _Turn(write.task)
            return None
        turn.queue.append(write)
        try:
            return await write.future
        except asyncio.CancelledError:
            if not write.future.cancelled() and write.future.exception() is None and write.future.result() is None:
                self._pass_on(guid)  # it got the turn at the moment it was cancelled
            raise

    def _pass_on(self, guid: str) -> None:
        """Give the turn to the next write that waits; drop the turn if there is none."""
        turn = self._turns[guid]
        while turn.queue:
            write = turn.queue.popleft()
            if not write.future.done():
                turn.holder = write.task
                write.future.set_result(None)
                return
        del self._turns[guid]
