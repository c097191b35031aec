"""Leases of the sync client: a thread renews them."""

import logging
import threading
from types import TracebackType
from typing import Self

from guidsvc_client.errors import GuidsvcError, LeaseLost
from guidsvc_client.lease_state import BaseLease, LeaseState
from guidsvc_client.protocol import lease_flows
from guidsvc_client.protocol.lease_flows import Plan
from guidsvc_client.sync.session import Session

log = logging.getLogger("guidsvc_client")


class Lease(BaseLease):
    """A lease that a thread renews: `with client.lease(...) as lease`.

    Call `check()` before each step that needs the lease. The block itself raises LeaseLost at its end, unless it raises
    another exception.
    """

    _STATEMENT = "with"

    def __init__(self, session: Session, plan: Plan) -> None:
        super().__init__(plan)
        self._session = session.with_policy(session.policy.within(plan.ttl_seconds / 4))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {plan.guid}", daemon=True)

    def __enter__(self) -> Self:
        self._state = LeaseState(self.guid, self._session.run(lease_flows.acquire(self._plan)))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = self._held
        state.end()
        self._stopped.set()
        self._thread.join()
        if not state.is_lost:
            self._release(state)
        if state.is_lost and error is None:
            raise state.loss()
        if state.is_lost and error is not None and not isinstance(error, LeaseLost):
            error.add_note(str(state.loss()))

    def _renew(self) -> None:
        """Renew until the lease is released or lost."""
        state = self._held
        while not self._stopped.wait(state.seconds_until_renewal) and not state.is_lost:
            try:
                state.extend(self._session.run(lease_flows.renew(self._plan, state.term.version)))
            except GuidsvcError as error:
                log.debug("lease %s not renewed: %s", self.guid, error)
                state.fail(error)

    def _release(self, state: LeaseState) -> None:
        try:
            self._session.run(lease_flows.release(self._plan, state.term.version))
        except LeaseLost as error:
            state.fail(error)
        except GuidsvcError as error:
            log.warning("lease %s not released; it expires by itself: %s", self.guid, error)
