"""An eligible single-GUID request that cannot be answered at once; it calls the same functions as the handlers.

Its collaborators come from the FastPathDispatcher that created it.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from guidsvc.api.contract import problems
from guidsvc.api.execution import responses as replies
from guidsvc.api.execution.guid_actions import ACTIONS, GuidRequest
from guidsvc.api.fast_path.eligibility import request_id_for
from guidsvc.auth.authenticator import Session
from guidsvc.domain.caller import ANYONE, DELETE, READ, WRITE, Caller, Scope
from guidsvc.errors import NotFound, StoreUnavailable
from guidsvc.http.headers.diagnostics import source_of
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.telemetry.tracing import CURRENT, RequestTrace

if TYPE_CHECKING:
    from guidsvc.api.fast_path.dispatcher import FastPathDispatcher

_NEEDS: Mapping[str, Scope] = {"GET": READ, "HEAD": READ, "PUT": WRITE, "PATCH": WRITE, "DELETE": DELETE}


class DirectRequest:
    """A fast-path request, until it is answered."""

    __slots__ = (
        "_begun", "_errand", "_guid", "_kept", "_login", "_method", "_name", "_remote", "_secure", "_way", "last",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913  # all that there is to know of a request
        self,
        way: "FastPathDispatcher",
        method: str,
        guid: str,
        kept: Mapping[str, str],
        remote: str,
        login: Session | None = None,
        *,
        secure: bool,
    ) -> None:
        self._login = login
        self._way = way
        self._remote = remote
        self._secure = secure
        self._method = method
        self._guid = guid
        self._kept = kept
        self._name = request_id_for(kept)
        self._errand = CancelScope()
        self._begun = False
        self.last = False
        """Whether the connection closes after the answer."""
        way.under_way.add(self)

    def reject_if_overloaded(self) -> bytes | None:
        """Return the rejection if no admission slot is available; else None."""
        way = self._way
        if not self._is_refused():
            way.admission.try_acquire(self._errand)
            return None
        way.under_way.discard(self)
        path, given = f"/guid/{self._guid}", self._kept.get("X-Request-Id")
        return way.refusals.answer(self._method, path, given, self._remote, secure=self._secure)

    def _is_refused(self) -> bool:
        way = self._way
        if not way.admission.is_contended or way.under_way.draining:
            return False
        caller = self._errand.caller = way.caller_of(self._kept, self._remote)
        return way.admission.is_full_for(caller)

    async def answer(self, sent: bytes) -> bytes:
        """Execute the request with this body, and return the answer."""
        way, method, name, head = self._way, self._method, self._name, self._method == "HEAD"
        begun, trace, source, errand = perf_counter(), RequestTrace(name, self._remote), None, self._errand
        secure = self._secure
        CURRENT.set(trace)  # this is a task of its own
        self._begun = True
        try:
            if way.under_way.closed:
                raise StoreUnavailable("the service has ended")
            caller = await self._caller()
            if not way.admission.begin(errand, self._remote if way.guard is None else caller.owner):
                await way.admission.acquire(errand)
            service = way.service.acting_for(caller)
            answer = await ACTIONS[method](service, GuidRequest(method, self._guid, self._kept, lambda: sent))
            way.admission.end(errand)
            self.last, status = way.under_way.draining, answer.status
            source = source_of(method, status, trace)
            more = way.extra_header_lines(trace, source, begun, self._login)
            reply = replies.serialize(answer, name, head=head, last=self.last, more=more, secure=secure)
        except BaseException as failure:  # answered, and logged if an operator must see it
            error = way.admission.end(errand, failure)
            if not isinstance(error, Exception):
                raise
            replies.log_failure(error, name)
            self.last, status = way.under_way.draining, problems.problem_of(error).status
            trace.is_opaque = isinstance(error, NotFound)
            more = way.extra_header_lines(trace, None, begun, self._login)
            reply = replies.serialize_problem(error, name, head=head, last=self.last, more=more, secure=secure)
            del error  # break the cycle through its traceback, which would keep the body alive
        finally:
            way.under_way.discard(self)
        way.record_completion((method, self._guid, status), begun, name, self._remote, source)
        return reply

    async def _caller(self) -> Caller:
        """Return the caller. Raise Forbidden if it lacks the scope."""
        guard, authorization = self._way.guard, self._kept.get("Authorization")
        if guard is None:
            return ANYONE
        if self._login is None:
            self._login = guard.cached_session(authorization)
        if self._login is None:
            self._way.admission.release(self._errand)  # a slot must not be held during authentication
            self._login = await guard.authenticate(authorization, self._remote)
        self._login.require_scope(_NEEDS[self._method])
        return self._login.caller

    def abandon(self) -> None:
        """Cancel the request: the client has disconnected. Writes already sent to the store complete."""
        self._errand.cancel(gone=True)
        if not self._begun:
            self._way.under_way.discard(self)
