"""How much is done at a time: what is more waits a little, and what is more than that is refused at once.

A read that is at hand, and what is asked of the service itself (is it alive? is it ready?), needs no place here. All
else takes one while it is done. It owns the places, the queue for them and the time that a request has, and knows
nothing of what is done.

    free places       it begins
    none              it waits for one, for a short time
    its caller has as many requests waiting as there is room left in the queue, or the first of them has waited a tenth
    of that time; or the loop is so far behind that what it reads now was sent long ago, and may be waited for no more
                      it is refused before anything is done for it: a queue that is not served in time serves nobody

While the loop is behind, a caller that has no request in progress still gets a free place. So the callers whose many
requests keep the loop busy are refused, and others are not.

Callers get free places in turn, the requests of one caller in order of arrival. So one caller's overload delays and
refuses only that caller's requests. A caller is a string, such as an owner or an address: Admission only compares it.

Room in the queue is shared by a dynamic threshold (Choudhury and Hahne, 1998): a caller may have as many requests
waiting as there is room left. One caller alone fills half of the queue, k callers 1/(k+1) each, and a caller that has
none waiting nearly always finds room. Nothing that waits needs to be removed for it.
"""

import asyncio
from types import TracebackType

import structlog

from guidsvc.errors import ClientDisconnected, DeadlineExceeded, Overloaded
from guidsvc.runtime.cancel_scope import CURRENT, CancelScope
from guidsvc.runtime.fairness.fair_slots import FairPlaces

PLACES, QUEUE_SECONDS, REQUEST_SECONDS = 256, 1.0, 5.0
QUEUE = 8
"""So many times as many as there are places may wait for one, of one caller alone; twice as many of all callers."""
OWNER_SHARE = 0.75
"""The part of the places that one owner may have at a time, so that slow requests of one owner leave places free."""
LONG = 0.1
"""While the first of a caller has waited for this part of its time, more of that caller are refused. What waits fills
memory, and to go through much of that takes time: at 0.5 a fifth of what could be done was lost under overload
(`python -m bench.overload`)."""
LATE = 0.2
"""A loop that twice comes to a look by this part of the time in the queue too late is behind with what it was sent."""
LOOKS = 20
"""So often is looked, in the time for which a request may wait, for those who have."""
TOLD_SECONDS = 10.0
"""An overload is told in the log no more often than this."""

_log = structlog.get_logger(__name__)


class Admission:
    """Places for `most` requests, `seconds` for who waits for one, and `budget` seconds for a request in all.

    One caller has at most the part `share` of the places, and at least one.
    """

    def __init__(
        self,
        most: int = PLACES,
        *,
        seconds: float = QUEUE_SECONDS,
        budget: float = REQUEST_SECONDS,
        share: float = 1.0,
    ) -> None:
        self._most = most
        self._places: FairPlaces[_Waiting] = FairPlaces(most, max(1, int(share * most)))
        self._waiting = self._places.waiting
        self._seconds = seconds
        self._budget = budget
        self.queue_seconds = seconds
        self.budget_seconds = budget
        self._doing: dict[CancelScope, float] = {}  # since when, in this order
        self._looking: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the next look is
        self._late = 0  # so many in a row were; one may be anything: a pause of the machine, and no load
        self._told = self._told_of = 0.0  # when, and how many had been refused then
        # Counters, for whoever tells of them
        self.refused = 0
        """Refused at once: there was no place, and no room in the queue."""
        self.expired = 0
        """Refused after they had waited in vain."""
        self.overdue = 0
        """Their time was over before they were done."""
        self.dropped = 0
        """Their client went away before they were done."""

    @property
    def in_progress(self) -> int:
        """So many requests, or parts of one, have a place."""
        return self._most - self._places.free

    @property
    def waiting(self) -> int:
        """So many wait for one."""
        return self._waiting.length

    def is_idle(self) -> bool:
        """Whether nothing has a place, or waits for one."""
        return not self.in_progress and not self.waiting

    @property
    def is_contended(self) -> bool:
        """Whether some callers may be refused now: then `is_full_for` tells which."""
        return self._late > 1 or self._waiting.length > 0

    def is_full_for(self, caller: str | None) -> bool:
        """Whether a request of this caller that comes now is refused; None stands for callers not known yet."""
        if self._late > 1:
            return not self._is_spared(caller)
        first = self._waiting.first(caller)
        if first is not None and asyncio.get_running_loop().time() - first.since > LONG * self._seconds:
            return True
        return self._waiting.count(caller) >= 2 * QUEUE * self._most - self._waiting.length

    def refuse(self) -> Overloaded:
        """Count a request that is refused, and return what it is told."""
        self.refused += 1
        self._tell()
        return Overloaded("there is more to do than can be done in time")

    def slot(self, errand: CancelScope, caller: str = "", *, patient: bool = False) -> "Slot":
        """Return a place for an errand of a caller, to be taken with `async with`.

        Overloaded, if there is none in time; one who is `patient` waits: what it is a part of has been begun.
        TooLate, or Abandoned, if it is left before it is done.
        """
        return Slot(self, errand, caller, patient=patient)

    def try_acquire(self, errand: CancelScope) -> bool:
        """Take a place for an errand that has just come, if one is free and the loop is in time; whether it did.

        A place is counted to the caller as soon as that is known: at `begin` at the latest.
        """
        return (self._late <= 1 or self._is_spared(errand.caller)) and self._take_free(errand)

    def _is_spared(self, caller: str | None) -> bool:
        """Whether a caller gets a place though the loop is late: it is known, has no other request, and one is free."""
        if caller is None or self._places.free <= 0:
            return False
        return self._places.count(caller) == 0 and self._waiting.count(caller) == 0

    def begin(self, errand: CancelScope, caller: str = "") -> bool:
        """Begin an errand of a caller in this task. `end` ends it.

        Return whether it has a place; if not, it has to wait for one.
        """
        if errand.left:
            raise errand.error()
        errand.task, errand.begun = asyncio.current_task(), True
        CURRENT.set(errand)
        if errand in self._doing:
            if errand.caller is None and self._places.assign(caller):
                errand.caller = caller
            if errand.caller == caller:
                return True
            self.release(errand)
        errand.caller = caller
        return self.try_acquire(errand)

    def end(self, errand: CancelScope, error: BaseException | None = None) -> BaseException | None:
        """End an errand, and return the error that it ended with: being cut off as it was left is no cancellation."""
        self.release(errand)
        task, errand.task = errand.task, None
        if not errand.left or not isinstance(error, asyncio.CancelledError | DeadlineExceeded | ClientDisconnected):
            return error
        if errand.gone:
            self.dropped += 1
        else:
            self.overdue += 1
        if not isinstance(error, asyncio.CancelledError) or task is None:
            return error
        task.uncancel()
        return errand.error()

    async def acquire(self, errand: CancelScope, *, patient: bool = False) -> None:
        """Wait for a place for an errand that has begun; Overloaded, if there is none in time."""
        if patient and self._take_free(errand):
            return
        if not patient and self.is_full_for(errand.caller):
            raise self.refuse()
        loop = asyncio.get_running_loop()
        since = loop.time()
        await self._wait(errand.caller, _Waiting(loop.create_future(), since, patient=patient))
        self._doing[errand] = loop.time() if patient else since
        self._look_later(loop)

    def _take_free(self, errand: CancelScope) -> bool:
        if not self._places.take(errand.caller):
            return False
        loop = asyncio.get_running_loop()
        self._doing[errand] = loop.time()
        self._look_later(loop)
        return True

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._looking is None:
            self._due = loop.time() + self._seconds / LOOKS
            self._looking = loop.call_at(self._due, self._look)

    def release(self, errand: CancelScope) -> None:
        """Give the place of an errand, if it has one, to the caller whose turn it is."""
        if self._doing.pop(errand, None) is not None:
            self._release(errand.caller)

    async def _wait(self, caller: str | None, waiting: "_Waiting") -> None:
        self._waiting.append(caller, waiting)
        self._look_later(asyncio.get_running_loop())
        try:
            await waiting.place
        except asyncio.CancelledError:
            if waiting.has_place:
                self._release(caller)  # it was given one in the very moment in which it was left
            else:
                self._waiting.remove(caller, waiting)
            raise
        finally:
            del waiting  # or the traceback of an error would lead back to it

    def _release(self, caller: str | None) -> None:
        waiting = self._places.release(caller)
        if waiting is not None:
            waiting.place.set_result(None)

    def _look(self) -> None:
        """Tell those who have waited too long: one look at all costs less than an alarm for each."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._looking = None
        self._late = self._late + 1 if now - self._due > LATE * self._seconds else 0
        for caller, each in list(self._waiting):
            if now - each.since >= self._seconds and not each.patient and not each.done():
                self.expired += 1
                self._tell()
                self._waiting.remove(caller, each)
                each.place.set_exception(Overloaded(f"no place was free within {self._seconds} s"))
        for errand, since in self._doing.items():
            if now - since < self._budget:
                break
            errand.cancel(gone=False)
        if self._doing or self._waiting.length or self._late:
            self._look_later(loop)

    def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told >= TOLD_SECONDS or not self._told:
            refused = self.refused + self.expired
            _log.warning("overload, requests are refused", refused=refused - int(self._told_of), places=self._most)
            self._told, self._told_of = now, refused


class _Waiting:
    """One who waits for a place."""

    __slots__ = ("patient", "place", "since")

    def __init__(self, place: asyncio.Future[None], since: float, *, patient: bool) -> None:
        self.place = place
        self.since = since
        self.patient = patient

    @property
    def has_place(self) -> bool:
        return self.place.done() and not self.place.cancelled() and self.place.exception() is None

    def done(self) -> bool:
        return self.place.done()


class Slot:
    """A place that is taken by `async with`."""

    __slots__ = ("_admission", "_caller", "_errand", "_patient")

    def __init__(self, admission: Admission, errand: CancelScope, caller: str, *, patient: bool) -> None:
        self._admission = admission
        self._errand = errand
        self._caller = caller
        self._patient = patient

    async def __aenter__(self) -> None:  # noqa: D105  # told of above
        try:
            if not self._admission.begin(self._errand, self._caller):
                await self._admission.acquire(self._errand, patient=self._patient)
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(  # noqa: D105
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        told = self._admission.end(self._errand, error)
        if told is not error and told is not None:
            try:
                raise told from error
            finally:
                del told, error  # or its traceback would lead back to it
