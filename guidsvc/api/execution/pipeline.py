"""The request pipeline: the steps that a request takes, in a Tornado handler and on the fast path alike.

A request enters, is authenticated, is executed in an admission slot, gets its extra headers, leaves, and is recorded.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http.client import OK

from guidsvc.api.contract import problems
from guidsvc.api.execution.context import ApiContext
from guidsvc.api.execution.guid_actions import ROUTE, Action, GuidRequest
from guidsvc.auth.session import Session
from guidsvc.domain.caller import Caller
from guidsvc.errors import ClientDisconnected, DeadlineExceeded, Overloaded, ShuttingDown
from guidsvc.http.client_address import network_of
from guidsvc.http.constants import CLIENT_CLOSED_REQUEST, METHODS
from guidsvc.http.response import Response
from guidsvc.monitoring.logs.access_log import Failure, without_secrets
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.admission import Slot
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.telemetry.metrics import QUICK_SECONDS
from guidsvc.telemetry.sampling import HeadSampler
from guidsvc.telemetry.tracing import OTHER, Completion, RequestTrace

LOGGED_PATH = 200
"""Maximum characters of a path in a log line."""
PUBLIC_REQUESTS = 16
"""Maximum number of requests for public paths, and of logins, that begin in one iteration of the event loop."""
ABORTED = "the service ended before the response was complete"
"""The reason of a request that is aborted at the end of the grace period."""
LISTS_WAIT = "too many lists are in progress; retry later"


class RequestPipeline:
    """The shared steps of a request, over the collaborators in the context."""

    def __init__(self, context: ApiContext) -> None:
        self.context = context
        self.in_flight = context.in_flight
        self.admission = context.admission
        self.readers = context.service.decoding_turns
        self.public_turns = FairSemaphore(PUBLIC_REQUESTS)
        """Turns of requests without a known caller, which need no admission slot."""
        self.is_access_controlled = context.authenticator is not None
        self._authenticator = context.authenticator
        self._requests = context.monitor.meters.requests
        self._access_log = context.access_log
        self.logs_requests = context.access_log is not None
        self.tracer = context.tracer
        self._has_diagnostics = bool(context.diagnostics)
        self.has_traces = self._has_diagnostics or self.tracer is not None
        """Whether the trace of a request is shown to its client, or exported."""
        self.sampler = HeadSampler(1) if self._has_diagnostics or self.tracer is None else self.tracer.sampler
        """Decides which requests need a trace, where requests have traces at all."""
        self.quick_reads = self._requests.quick(ROUTE, "GET", OK)
        """The counter of quick reads of a record."""

    def require_open(self) -> None:
        """Raise ShuttingDown if the service has ended: then no request may begin."""
        if self.in_flight.closed:
            raise ShuttingDown("the service has ended")

    def cached_session(self, authorization: str | None) -> Session | None:
        """Return the cached session, and spend one request of its rate limit; None if it must be authenticated."""
        return None if self._authenticator is None else self._authenticator.cached_session(authorization)

    def usable_session(self, authorization: str | None) -> Session | None:
        """Return the cached session without spending a request of its rate limit; None if it must be authenticated."""
        return None if self._authenticator is None else self._authenticator.usable_session(authorization)

    async def authenticate(self, authorization: str | None, address: str, scope: CancelScope) -> Session:
        """Return the session of a caller that has no cached one, where access is controlled.

        The request's admission slot is released: authenticated callers must not wait for this request. Its network
        takes the turns of its caller, which is not known yet.
        """
        assert self._authenticator is not None  # noqa: S101  # nosec B101  # see is_access_controlled
        self.release_slot(scope)
        scope.caller = queue_name(None, address)
        try:
            async with self.under_time_limit(scope):
                await self.public_turns.take_turn(scope.caller)
                return await self._authenticator.authenticate(authorization, address)
        finally:
            scope.caller = None

    @asynccontextmanager
    async def under_time_limit(self, scope: CancelScope) -> AsyncIterator[None]:
        """Run the block under the time limit of a request, although it does not use its slot yet."""
        try:
            async with cancel_scope.cancellable(scope, self.admission.budget_seconds):
                yield
        except BaseException as error:
            self.admission.release(scope)
            if isinstance(error, (DeadlineExceeded, ClientDisconnected)):
                self.admission.count_cancellation(scope)
            raise

    async def confirm(self, session: Session | None) -> None:
        """Raise Unauthorized if the caller's key or token has ended or its rights have changed."""
        if self._authenticator is not None and session is not None and not session.is_usable():
            await self._authenticator.confirm(session)

    def probable_caller(self, authorization: str | None, address: str) -> str | None:
        """Return the caller whose admission share a new request uses, or None if it is not known yet."""
        if self._authenticator is None:
            return queue_name(None, address)
        return self._authenticator.owner_of(authorization)

    def release_slot(self, scope: CancelScope | None) -> None:
        """Release the admission slot that the connection took: the request must wait for something else first."""
        if scope is not None:
            self.admission.release(scope)

    async def execute(
        self, slot: Slot, action: Action, request: GuidRequest, caller: Caller, session: Session | None
    ) -> Response:
        """Execute the action of a caller on a GUID, in an admission slot.

        Raise Unauthorized if the session has ended while the request waited for the slot.
        """
        async with slot:
            if session is not None:
                await self.confirm(session)
            if request.has_large_body:  # with the slot, which bounds how many wait, and how many are decoded
                await self.readers.take_turn(slot.caller)
                if session is not None and not session.is_usable():  # then the confirmation waits, so turns come after
                    await self.confirm(session)
                    await self.readers.take_turn(slot.caller)
            return await action.run(self.context.service.acting_for(caller), request)

    @asynccontextmanager
    async def list_slot(self, scope: CancelScope, name: str, slots: FairSemaphore) -> AsyncIterator[None]:
        """Hold a slot for a list, and then an admission slot, inside the block.

        A list waits for its turn without an admission slot: lists that wait must not reject other requests. Raise
        Overloaded, with nothing done, if its turn does not come in time.
        """
        turn = slots.slot(name) if slots.is_available(name) else self._turn(scope, name, slots)
        async with turn, self.admission.slot(scope, name):
            yield

    @asynccontextmanager
    async def _turn(self, scope: CancelScope, name: str, slots: FairSemaphore) -> AsyncIterator[None]:
        """Wait for a slot for a list, under the time limit of the request, and hold it inside the block."""
        self.release_slot(scope)
        scope.begun_at = scope.begun_at or asyncio.get_running_loop().time()
        seconds = self.admission.queue_seconds
        async with AsyncExitStack() as stack:
            try:
                slots.require_short_queue(name, seconds, LISTS_WAIT)
                async with self.under_time_limit(scope):
                    await stack.enter_async_context(slots.slot_within(name, seconds, LISTS_WAIT))
            except Overloaded:
                self.admission.refuse()
                raise
            yield

    def begin_trace(self, request_id: str, address: str, headers: Mapping[str, str], *, secure: bool) -> RequestTrace:
        """Return the trace of a request that begins; it is exported if that is configured."""
        trace = None if self.tracer is None else self.tracer.begin(request_id, address, headers, secure=secure)
        return RequestTrace(request_id, address) if trace is None else trace

    def begin_needed_trace(
        self, request_id: str, address: str, headers: Mapping[str, str], *, secure: bool
    ) -> RequestTrace | None:
        """Return the trace of a request that begins, or None if it is neither shown nor exported, nor a client's."""
        if self._has_diagnostics or self.tracer is None:
            return self.begin_trace(request_id, address, headers, secure=secure)
        return self.tracer.begin(request_id, address, headers, secure=secure)

    def extra_header_lines(
        self, session: Session | None, source: str | None, trace: RequestTrace, seconds: float
    ) -> bytes:
        """Return the rate limit headers and the diagnostic headers, if any, as header lines."""
        lines = rate_limit_header_lines(session)
        if not self._has_diagnostics:
            return lines
        return lines + self.context.diagnostics.header_lines(source, trace, seconds)

    def record_completion(  # noqa: PLR0913, PLR0917  # what is recorded of a request
        self,
        route: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        request_id: str,
        address: str,
        source: str | None,
        failure: Failure | None = None,
        trace: RequestTrace | None = None,
    ) -> None:
        """Count and log an answered request, and export its trace, if it has one.

        `source` is where the record came from, if one was read. `failure` describes why the request failed, for the log
        (`describe`).

        A `path` has at most LOGGED_PATH characters; that of a record always has.
        """
        if status == OK and seconds <= QUICK_SECONDS and method == "GET" and route == ROUTE:
            self.quick_reads.count += 1
            self.quick_reads.seconds += seconds
        else:
            self._requests.record(route, _label_of(method), status, seconds)
        if self._access_log is not None:
            ms = round(1000 * seconds, 2)
            trace_id = "" if trace is None else trace.trace_id
            self._access_log(method, path, status, ms, request_id, address, source, failure, trace_id)
        if self.tracer is not None and trace is not None and trace.waits is not None:
            self._requests.record_trace(route, seconds, trace.trace_id)
            self.tracer.end(trace, Completion(route, _label_of(method), path, status, source))

    def record_abort(  # noqa: PLR0913, PLR0917  # what is recorded of a request
        self,
        method: str,
        path: str,
        status: int,
        seconds: float,
        request_id: str,
        address: str,
        failure: Failure | None,
        trace_id: str,
    ) -> None:
        """Log a request without a complete response; `status` is 0 if none has begun."""
        if self._access_log is not None:
            ms = round(1000 * seconds, 2)
            self._access_log(method, path, status, ms, request_id, address, None, failure, trace_id)

    def describe(self, error: BaseException | None, session: Session | None) -> Failure | None:
        """Return the access log members of a failed request: the problem and the caller. None without an access log."""
        if self._access_log is None or error is None:
            return None
        members = {name: without_secrets(text) for name, text in problems.log_members(error).items()}
        return members if session is None else members | {"caller": session.caller.name, "owner": session.caller.owner}


def recorded_status(error: BaseException) -> int:
    """Return the status of a failed request in metrics, the access log and traces: that of its problem document.

    If the client disconnected, nobody gets one: CLIENT_CLOSED_REQUEST.
    """
    return CLIENT_CLOSED_REQUEST if isinstance(error, ClientDisconnected) else problems.problem_of(error).status


def queue_name(session: Session | None, address: str) -> str:
    """Return the name under which a caller takes its turns and its shares: its owner, or its network without a session.

    So an IPv6 client is one caller, however many of its addresses it uses.
    """
    return network_of(address) if session is None else session.caller.owner


def rate_limit_header_lines(session: Session | None) -> bytes:
    """Return the rate limit header lines, or none if the caller has no limit."""
    return b"" if session is None else session.allowance.header_lines()


def try_spend(session: Session | None) -> bool:
    """Spend one request of the caller's rate limit; if False, the handler sends the rejection."""
    return session is None or session.allowance.try_spend()


def _label_of(method: str) -> str:
    """Return the metrics label of a method. Clients can invent methods; the number of labels must stay bounded."""
    return method if method in METHODS else OTHER
