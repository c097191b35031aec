"""Admission control: bounded concurrency with a short queue; excess load is shed immediately.

Cached reads, health probes and other fixed answers need no slot. Logins, lists, and updates behind others of their GUID
wait without one. Every other request holds one while it is processed. Admission owns the slots, their queue and the
time budget of a request, and knows nothing of the work itself. Each request, or part of a batch, has a CancelScope: the
`scope` below.

    a slot is free    the request starts
    no slot is free   the request waits briefly in the queue
    the caller has as many queued requests as the queue has room left; or the caller's first queued request has waited
    a tenth of the queue time; or the event loop lags so far behind that clients may have given up on what it reads
                      the request is rejected before any work: waiting in such a queue would be in vain

While the event loop lags, a caller without requests in progress still gets a free slot. So only the callers whose
requests keep the loop busy are rejected.

Callers get free slots in turn; the requests of one caller are served in order of arrival. So one caller's overload
delays and rejects only that caller's requests. A caller is a string, such as an owner or a network, which Admission
only compares.

A dynamic threshold (Choudhury and Hahne, 1998) shares the queue: a caller may have as many requests queued as the queue
has room left. One caller alone fills half of the queue, k callers 1/(k+1) each. A caller with none queued nearly always
finds room, without evicting a queued request.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType

from guidsvc.errors import ClientDisconnected, DeadlineExceeded, Overloaded
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.runtime.fairness.fair_slots import LONG, FairSlots
from guidsvc.runtime.fairness.slot_waiter import SlotWaiter
from guidsvc.runtime.overload import OverloadWarnings, ScanTimer

SLOTS, QUEUE_SECONDS, REQUEST_SECONDS = 256, 1.0, 5.0
QUEUE = 8
"""Queued requests per slot that one caller alone may have. All callers together may have twice as many."""
OWNER_SHARE = 0.75
"""Share of the slots that one owner may hold, so that one owner's slow requests leave slots free."""

_CANCELLATIONS = asyncio.CancelledError, DeadlineExceeded, ClientDisconnected


class Admission:
    """An admission controller with this number of `slots`.

    A request waits at most `seconds` for a slot, and takes at most `budget` seconds in all. One caller holds at most
    the fraction `share` of the slots, but may always hold one.
    """

    def __init__(
        self,
        slots: int = SLOTS,
        *,
        seconds: float = QUEUE_SECONDS,
        budget: float = REQUEST_SECONDS,
        share: float = 1.0,
    ) -> None:
        self._slot_count = slots
        self._slots: FairSlots[SlotWaiter] = FairSlots(slots, max(1, int(share * slots)))
        self._waiting = self._slots.waiting
        self._new_waiting = 0  # of these, the requests that are new, and no part of one that was begun
        self.queue_seconds = seconds
        self.budget_seconds = budget
        self._started_at: dict[CancelScope, float] = {}  # when their time limits began
        self._without_slot: Counter[str | None] = Counter()  # by caller: those that have released their slot for a wait
        self._scan_timer = ScanTimer(seconds, self._scan)
        self._warnings = OverloadWarnings(slots)
        # Counters, for the metrics
        self.refused = 0
        """Requests rejected immediately; see `is_full_for`."""
        self.expired = 0
        """Requests rejected because no slot became free in time."""
        self.overdue = 0
        """Requests cancelled because their time budget was used up."""
        self.dropped = 0
        """Requests cancelled because their client disconnected."""

    @property
    def in_progress(self) -> int:
        """The number of requests, or parts of batches, that hold a slot."""
        return self._slot_count - self._slots.free

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a slot, or have released theirs to wait for something else."""
        return self._waiting.length + self._without_slot.total()

    def is_idle(self) -> bool:
        """Return whether no request holds a slot or waits for one."""
        return not self.in_progress and not self.waiting

    @property
    def is_contended(self) -> bool:
        """Whether some callers may be rejected now; `is_full_for` decides for each caller."""
        return self._scan_timer.is_lagging or self._waiting.length > 0

    def is_full_for(self, caller: str | None) -> bool:
        """Return whether a new request of this caller is rejected. None stands for a caller not yet known."""
        if self._scan_timer.is_lagging:
            return not self._is_spared(caller)
        first = self._waiting.first(caller)
        if first is not None and asyncio.get_running_loop().time() - first.since > LONG * self.queue_seconds:
            return True
        # Parts of requests that were begun leave the room of the others: a caller may have any number of them.
        return self._waiting.count(caller) >= 2 * QUEUE * self._slot_count - self._new_waiting

    def refuse(self) -> Overloaded:
        """Count a rejected request, and return the error for it."""
        self.refused += 1
        self._warn()
        return Overloaded("the service is overloaded; retry later")

    def slot(self, scope: CancelScope, caller: str = "", *, patient: bool = False) -> "Slot":
        """Return a slot for a caller's request, for use with `async with`.

        Entering raises Overloaded if no slot becomes free in time. A `patient` request is part of a batch that has
        already started, so it waits without limit. Raises DeadlineExceeded or ClientDisconnected if `scope` is
        cancelled.
        """
        return Slot(self, scope, caller, patient=patient)

    def try_acquire(self, scope: CancelScope) -> bool:
        """Take a slot for a new request if one is free, and return whether it did.

        While the event loop lags, only a known caller without other requests gets one.

        The slot counts towards the caller's share once the caller is known: in `begin` at the latest.
        """
        return (not self._scan_timer.is_lagging or self._is_spared(scope.caller)) and self._take_free(scope)

    def _is_spared(self, caller: str | None) -> bool:
        """Return whether a caller gets a slot although the loop lags: it is known, has no requests, and one is free."""
        if caller is None or self._slots.free <= 0:
            return False
        return self._slots.count(caller) == 0 and self._waiting.count(caller) == 0

    def begin(self, scope: CancelScope, caller: str = "") -> bool:
        """Begin a caller's request in this task, and return whether it holds a slot. If not, it must `acquire` one.

        Every request that begins must `end`.
        """
        if scope.is_cancelled:
            raise scope.error()
        scope.task, scope.has_started = asyncio.current_task(), True
        scope.without_slot = self.without_slot
        CURRENT.set(scope)
        if scope in self._started_at:
            if scope.caller is None and self._slots.assign(caller):
                scope.caller = caller
            if scope.caller == caller:
                return True
            self.release(scope)
        scope.caller = caller
        return self.try_acquire(scope)

    def end(self, scope: CancelScope, error: BaseException | None = None) -> BaseException | None:
        """End a request, and return its error.

        A CancelledError caused by `scope.cancel` becomes DeadlineExceeded or ClientDisconnected.
        """
        self.release(scope)
        task, scope.task = scope.task, None
        if error is None or not scope.is_cancelled or not isinstance(error, _CANCELLATIONS):
            return error
        self.count_cancellation(scope)
        if not isinstance(error, asyncio.CancelledError) or task is None:
            return error
        task.uncancel()
        return scope.error()

    def count_cancellation(self, scope: CancelScope) -> None:
        """Count a request that was cancelled."""
        if scope.is_disconnected:
            self.dropped += 1
        else:
            self.overdue += 1

    async def acquire(self, scope: CancelScope, *, patient: bool = False) -> None:
        """Wait for a slot for a request that has begun. Raise Overloaded if none becomes free in time."""
        if patient and self._take_free(scope):
            return
        if not patient and self.is_full_for(scope.caller):
            raise self.refuse()
        loop = asyncio.get_running_loop()
        since = loop.time()
        await self._wait(scope.caller, SlotWaiter(loop.create_future(), since, patient=patient))
        self._started_at[scope] = scope.begun_at or (loop.time() if patient else since)
        self._scan_timer.schedule(loop)

    def _take_free(self, scope: CancelScope) -> bool:
        if not self._slots.take(scope.caller):
            return False
        loop = asyncio.get_running_loop()
        self._started_at[scope] = scope.begun_at or loop.time()
        if not self._scan_timer.is_scheduled:
            self._scan_timer.schedule(loop)
        return True

    def release(self, scope: CancelScope) -> None:
        """Release the slot of a request, if it holds one, to the next caller in turn."""
        if self._started_at.pop(scope, None) is not None:
            self._release(scope.caller)

    @asynccontextmanager
    async def without_slot(self, scope: CancelScope) -> AsyncIterator[None]:
        """Run a block that waits without the slot of a request, and then wait for a slot again, as patiently.

        The time limit of the request applies. A caller may have as many requests in such blocks as the room for all has
        left, which is that of the queue; raise Overloaded at once for any other. Without a slot, just run the block.
        """
        begun_at, waiting = self._started_at.get(scope), self._without_slot
        if begun_at is None:
            yield
            return
        if waiting[scope.caller] >= 2 * QUEUE * self._slot_count - waiting.total():
            raise self.refuse()
        scope.begun_at, end = begun_at, begun_at + self.budget_seconds
        timer = asyncio.get_running_loop().call_at(end, partial(scope.cancel, is_disconnected=False))
        waiting[scope.caller] += 1
        self.release(scope)
        try:
            yield
            await self.acquire(scope, patient=True)
        finally:
            timer.cancel()
            waiting[scope.caller] -= 1
            if not waiting[scope.caller]:
                del waiting[scope.caller]

    async def _wait(self, caller: str | None, waiter: SlotWaiter) -> None:
        self._waiting.append(caller, waiter)
        self._new_waiting += not waiter.patient
        self._scan_timer.schedule(asyncio.get_running_loop())
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.has_slot:
                self._release(caller)  # it got a slot at the moment it was cancelled
            else:
                self._waiting.remove(caller, waiter)
            raise
        finally:
            self._new_waiting -= not waiter.patient
            del waiter  # otherwise it and the traceback of its error would form a cycle

    def _release(self, caller: str | None) -> None:
        waiter = self._slots.release(caller)
        if waiter is not None:
            waiter.future.set_result(None)

    def _scan(self) -> None:
        """Time out waiting and running requests. One scan of all costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for caller, waiter in list(self._waiting):
            if now - waiter.since >= self.queue_seconds and not waiter.patient and not waiter.done():
                self.expired += 1
                self._warn()
                self._waiting.remove(caller, waiter)
                waiter.future.set_exception(
                    Overloaded(f"no slot became free within {self.queue_seconds} s; retry later")
                )
        for scope, since in self._started_at.items():
            if now - since >= self.budget_seconds:
                scope.cancel(is_disconnected=False)
        if self._started_at or self._waiting.length or self._scan_timer.is_late:
            self._scan_timer.schedule(loop)

    def _warn(self) -> None:
        self._warnings.warn(asyncio.get_running_loop().time(), self.refused + self.expired)


class Slot:
    """An admission slot as an async context manager; see `Admission.slot`."""

    __slots__ = ("_admission", "_patient", "_scope", "caller")

    def __init__(self, admission: Admission, scope: CancelScope, caller: str, *, patient: bool) -> None:
        self._admission = admission
        self._scope = scope
        self.caller = caller
        """The caller that gets the slot."""
        self._patient = patient

    async def __aenter__(self) -> None:  # noqa: D105  # see the class
        try:
            if not self._admission.begin(self._scope, self.caller):
                await self._admission.acquire(self._scope, patient=self._patient)
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(  # noqa: D105
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._admission.end(self._scope)
        else:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        outcome = self._admission.end(self._scope, error)
        if outcome is not error and outcome is not None:
            try:
                raise outcome from error
            finally:
                del outcome, error  # otherwise the error and its traceback would form a cycle
