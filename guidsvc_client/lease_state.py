"""The state of a lease as its holder knows it: its granted time, and whether it is lost."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

from guidsvc_client.clock import clock
from guidsvc_client.errors import LeaseLost
from guidsvc_client.problems import InternalError, LifeLimit, Problem
from guidsvc_client.protocol import lease_flows
from guidsvc_client.protocol.call import Flow
from guidsvc_client.protocol.lease_flows import Plan, Term
from guidsvc_client.protocol.retrying import NOT_DONE, backoff_seconds, is_perhaps_done


class LeaseState:
    """The state of a lease in one block. Once lost, it stays lost, even if a late response says that it was renewed."""

    def __init__(self, plan: Plan, term: Term) -> None:
        self.plan = plan
        self.term = term
        self._lock = threading.Lock()
        self._next = term.renews
        self._failures = 0
        self._error: Exception | None = None
        self._loss: str | None = None
        self._has_ended = False
        self._is_in_doubt = False
        """Whether a renewal since the last confirmed one may have taken effect."""

    @property
    def remaining_seconds(self) -> float:
        """The seconds for which the lease is still granted, by the clock of this host."""
        return 0.0 if self.is_lost else max(0.0, self.term.ends - clock())

    @property
    def seconds_until_renewal(self) -> float:
        """The seconds to wait before the next renewal, or as long as a thread can wait: earlier does no harm."""
        return min(max(0.0, min(self._next, self.term.ends) - clock()), threading.TIMEOUT_MAX)

    @property
    def is_lost(self) -> bool:
        """Whether the lease is lost."""
        with self._lock:
            return self._is_lost()

    def renewal(self) -> Flow[Term]:
        """Return the flow that renews the lease."""
        return lease_flows.renew(self.plan, self.term, is_in_doubt=self._is_in_doubt, on_recognised=self._recognise)

    def release(self) -> Flow[None]:
        """Return the flow that releases the lease."""
        return lease_flows.release(self.plan, self.term, is_in_doubt=self._is_in_doubt)

    def extend(self, term: Term) -> None:
        """Record a renewal, unless the lease was lost before its response arrived."""
        with self._lock:
            if not self._is_lost():
                self.term, self._next, self._failures, self._error = term, term.renews, 0, None
                self._is_in_doubt = False

    def fail(self, error: Exception) -> None:
        """Record a failed renewal, and when to try again. The end of the granted time stays."""
        with self._lock:
            self._error = error
            self._is_in_doubt = self._is_in_doubt or not _is_rejected(error)
            if isinstance(error, LeaseLost):
                self._loss = self._loss or str(error)
            self._next = self.term.ends if isinstance(error, LifeLimit) else clock() + backoff_seconds(self._failures)
            self._failures += 1

    def interrupt(self) -> None:
        """Record that a renewal was cancelled before its response: it may have taken effect."""
        with self._lock:
            self._is_in_doubt = True

    def end(self) -> None:
        """Record the end of the work. After that, the lease can no longer be lost by time."""
        with self._lock:
            self._has_ended = not self._is_lost()

    def check(self) -> None:
        """Raise LeaseLost if the lease is lost."""
        if self.is_lost:
            raise self.loss()

    def loss(self) -> LeaseLost:
        """Return the error of a lease that is lost."""
        error = self._error
        if isinstance(error, LeaseLost):
            return error
        lost = LeaseLost(self.plan.guid, self._loss or "")
        lost.__cause__ = error
        return lost

    def _recognise(self, term: Term) -> None:
        """Record another version of the lease that is certainly this block's. The end of the granted time stays."""
        with self._lock:
            if not self._is_lost():
                self.term, self._is_in_doubt = term, False

    def _is_lost(self) -> bool:
        if self._loss is None and not self._has_ended and clock() >= self.term.ends:
            self._loss = "its time has run out, and no renewal was confirmed in time"
        return self._loss is not None


def _is_rejected(error: Exception) -> bool:
    """Return whether a renewal that failed with this error has certainly changed nothing."""
    is_perhaps_faulty = is_perhaps_done(error) or isinstance(error, InternalError)
    return isinstance(error, NOT_DONE) or (isinstance(error, Problem) and not is_perhaps_faulty)


class BaseLease:
    """The interface of a lease for its holder. The clients add how to acquire, renew and release it."""

    _STATEMENT: ClassVar[str]
    """The statement whose block holds the lease."""

    def __init__(self, plan: Plan, request_seconds: float) -> None:
        self._plan = plan
        self._request_seconds = request_seconds
        self._state: LeaseState | None = None
        self._block = threading.Lock()
        """Locked from the beginning of a block to its end."""

    @property
    def guid(self) -> str:
        """The GUID of the lease."""
        return self._plan.guid

    @property
    def token(self) -> int:
        """The version of the record: a fencing token, which rises with each holder and each renewal."""
        return self._held.term.version

    @property
    def remaining_seconds(self) -> float:
        """The seconds for which the lease is still granted; 0 if it is lost."""
        return self._held.remaining_seconds

    @property
    def is_lost(self) -> bool:
        """Whether the lease is lost."""
        return self._held.is_lost

    def check(self) -> None:
        """Raise LeaseLost if the lease is lost."""
        self._held.check()

    @contextmanager
    def _entering(self) -> Generator[Plan]:
        """Begin a block, and yield its plan. Until its end, no other block can begin."""
        if not self._block.acquire(blocking=False):
            raise RuntimeError("the lease is used by another block; call `client.lease(...)` for each holder")
        try:
            self._plan = self._plan.for_next_block()
            yield self._plan
        except BaseException:
            self._block.release()
            raise

    @contextmanager
    def _leaving(self) -> Generator[LeaseState]:
        """End a block, and yield its state. After that, the next block can begin."""
        state = self._held
        state.end()
        try:
            yield state
        finally:
            self._block.release()

    def _release_seconds(self, state: LeaseState) -> float:
        """Return how long to wait for the release: as long as the lease lasts, but time for a request at least.

        A thread cannot wait longer than `threading.TIMEOUT_MAX`.
        """
        return min(max(state.remaining_seconds, self._request_seconds), threading.TIMEOUT_MAX)

    @property
    def _held(self) -> LeaseState:
        if self._state is None:
            statement = f"{self._STATEMENT} client.lease(...) as lease:"
            raise RuntimeError(f"the lease is not acquired yet; use it inside `{statement}`")
        return self._state
