"""Leases of the sync client: a thread renews and releases them."""

import logging
import threading
from types import TracebackType
from typing import Self

from guidsvc_client.errors import LeaseLost
from guidsvc_client.lease_state import BaseLease, LeaseState
from guidsvc_client.protocol import lease_flows
from guidsvc_client.protocol.lease_flows import Plan
from guidsvc_client.sync.session import Session

log = logging.getLogger("guidsvc_client")


class Lease(BaseLease):
    """A lease that a thread renews: `with client.lease(...) as lease`.

    Call `check()` before each step that needs the lease. The block itself raises LeaseLost at its end, unless it raises
    another exception. The end of the block waits for the thread only while the lease lasts, or for the time limit of a
    request: a service that responds without end would hold it up. Blocks may follow each other.
    """

    _STATEMENT = "with"

    def __init__(self, session: Session, plan: Plan) -> None:
        policy = session.policy.within(plan.ttl_seconds / 4)
        super().__init__(plan, policy.timeout_seconds)
        self._session = session.with_policy(policy)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        with self._entering() as plan:
            self._state = LeaseState(plan, self._session.run(lease_flows.acquire(plan)))
            self._stopped = threading.Event()
            self._thread = threading.Thread(
                target=self._renew_and_release,
                args=(self._state, self._stopped),
                name=f"lease {self.guid}",
                daemon=True,
            )
            try:
                self._thread.start()
            except BaseException:  # Ctrl+C: no block will begin that could end the thread
                self._stopped.set()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._leaving() as state:
            self._stopped.set()
            assert self._thread is not None  # noqa: S101  # nosec B101  # the block has begun
            self._thread.join(self._release_seconds(state))
            if self._thread.is_alive():
                log.warning("lease %s not released in time; it expires by itself", self.guid)
        if state.is_lost and error is None:
            raise state.loss()
        if state.is_lost and error is not None and not isinstance(error, LeaseLost):
            error.add_note(str(state.loss()))

    def _renew_and_release(self, state: LeaseState, stopped: threading.Event) -> None:
        """Renew until the end of the block. A thread that outlasts it never touches the lease of a later block."""
        while not stopped.wait(state.seconds_until_renewal) and not state.is_lost:
            try:
                state.extend(self._session.run(state.renewal()))
            except Exception as error:  # noqa: BLE001  # also that of a hook: the next renewal may have success
                log.debug("lease %s not renewed: %r", self.guid, error)
                state.fail(error)
        if not state.is_lost:
            self._release(state)

    def _release(self, state: LeaseState) -> None:
        try:
            self._session.run(state.release())
        except LeaseLost as error:
            state.fail(error)
        except Exception as error:  # noqa: BLE001  # also that of a client that was closed in the block
            log.warning("lease %s not released; it expires by itself: %r", self.guid, error)
