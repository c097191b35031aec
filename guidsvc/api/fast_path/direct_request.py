"""A fast-path request that cannot be answered at once. It passes through the same steps as in a handler."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from time import perf_counter
from typing import Any, NamedTuple

from guidsvc.api.execution.guid_actions import (
    ACTIONS,
    COLLECTION_ROUTE,
    CREATION,
    RENEWAL,
    RENEWAL_ROUTE,
    ROUTE,
    Action,
    GuidRequest,
)
from guidsvc.api.execution.pipeline import ABORTED, RequestPipeline, queue_name, recorded_status
from guidsvc.api.execution.responses import log_failure, serialize, serialize_problem
from guidsvc.api.fast_path.eligibility import request_id_for
from guidsvc.api.fast_path.load_shedding import LoadShedder
from guidsvc.api.parsing.body import SMALL_BYTES
from guidsvc.auth.session import Session
from guidsvc.domain.caller import ANYONE, Caller
from guidsvc.errors import NotFound, ShuttingDown
from guidsvc.http.headers.diagnostics import source_of
from guidsvc.http.response import Response
from guidsvc.monitoring.logs.access_log import Failure
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.services.guid_service import BegunGet
from guidsvc.telemetry.tracing import CURRENT, RequestTrace

CREATES = frozenset({"POST", "PUT"})
"""The methods that create a record in the collection."""


class EligibleRequest(NamedTuple):
    """The head of a request that the fast path may serve; `session` is its caller's, if it is cached.

    `guid` is that of the path, or empty for the collection.
    """

    method: str
    guid: str
    headers: Mapping[str, str]
    address: str
    secure: bool
    session: Session | None = None
    is_renewal: bool = False

    @property
    def path(self) -> str:
        """The path of the request."""
        if self.is_renewal:
            return f"/guid/{self.guid}/renewal"
        return f"/guid/{self.guid}" if self.guid else COLLECTION_ROUTE

    @property
    def action(self) -> Action:
        """The action of the request."""
        if self.is_renewal:
            return RENEWAL
        return ACTIONS[self.method] if self.guid or self.method not in CREATES else CREATION


class DirectRequest:
    """A fast-path request, until it is answered."""

    __slots__ = (
        "_begun",
        "_cancel_scope",
        "_has_begun",
        "_is_aborted",
        "_pipeline",
        "_request",
        "_request_id",
        "_session",
        "_shedder",
        "_started_at",
        "_trace_id",
        "last",
    )
    route = ROUTE
    """The path template of the request, for the metrics."""

    def __init__(self, pipeline: RequestPipeline, shedder: LoadShedder, request: EligibleRequest) -> None:
        self._pipeline = pipeline
        self._shedder = shedder
        self._request = request
        self._request_id = request_id_for(request.headers)
        self._session = request.session
        self._cancel_scope = CancelScope()
        self._has_begun = False
        self._is_aborted = False  # the service has ended before the answer
        self._begun: BegunGet | None = None
        self._started_at = 0.0  # when the read, or `respond`, began
        self._trace_id = ""
        self.last = False
        """Whether the connection closes after the answer."""
        pipeline.in_flight.add(self)

    def reject_if_overloaded(self) -> bytes | None:
        """Return the rejection if no admission slot is available; else None."""
        pipeline, request = self._pipeline, self._request
        if not self._should_reject():
            self._acquire_slot()
            return None
        pipeline.in_flight.discard(self)
        return self._shedder.reject(
            request.method, request.path, request.headers, request.address, secure=request.secure, last=self.last
        )

    def _acquire_slot(self) -> None:
        self._pipeline.admission.try_acquire(self._cancel_scope)

    def _should_reject(self) -> bool:
        pipeline, request = self._pipeline, self._request
        if not pipeline.admission.is_contended or pipeline.in_flight.draining:
            return False
        caller = pipeline.probable_caller(request.headers.get("Authorization"), request.address)
        self._cancel_scope.caller = caller
        return pipeline.admission.is_full_for(caller)

    def answer_soon(self, callback: Callable[[bytes | None], object]) -> bool:  # noqa: ARG002  # see `DirectRead`
        """Return False: the request needs a task."""
        return False

    async def respond(self, body: bytes) -> bytes:
        """Execute the request with this body, and return the answer."""
        pipeline, request, source = self._pipeline, self._request, None
        start = self._started_at = self._started_at or perf_counter()
        failure: Failure | None = None
        trace = RequestTrace(self._request_id, request.address) if pipeline.tracer is None else self._begin_trace()
        CURRENT.set(trace)  # this is a separate task
        self._trace_id = trace.trace_id
        self._has_begun = True
        try:
            response = await self._execute(body)
            status, source = response.status, source_of(request.method, response.status, trace)
            response_bytes = self._render(response, trace, source, start)
        except Exception as error:  # noqa: BLE001  # answered, and logged if an operator must see it
            log_failure(error, self._request_id)
            status, source = recorded_status(error), None
            failure = pipeline.describe(error, self._session)
            trace.is_opaque = isinstance(error, NotFound)
            response_bytes = self._render(error, trace, source, start)
        finally:
            pipeline.admission.release(self._cancel_scope)
            pipeline.in_flight.discard(self)
        if self._is_aborted:
            return response_bytes
        seconds, request_id = perf_counter() - start, self._request_id
        pipeline.record_completion(
            self.route,
            request.method,
            request.path,
            status,
            seconds,
            request_id,
            request.address,
            source,
            failure,
            trace,
        )
        return response_bytes

    def _begin_trace(self) -> RequestTrace:
        request = self._request
        return self._pipeline.begin_trace(self._request_id, request.address, request.headers, secure=request.secure)

    def _execute(self, body: bytes) -> Coroutine[Any, Any, Response]:
        return self._run(self._request.action, body)

    async def _run(self, action: Action, body: bytes) -> Response:
        """Execute the action in an admission slot."""
        pipeline, request = self._pipeline, self._request
        pipeline.require_open()
        caller = await self._authenticate() if pipeline.is_access_controlled else ANYONE
        slot = pipeline.admission.slot(self._cancel_scope, queue_name(self._session, request.address))
        guid_request = GuidRequest(
            request.method,
            request.guid,
            request.headers,
            lambda: body,
            max_age=pipeline.context.max_age,
            has_large_body=len(body) > SMALL_BYTES,
            begun=self._begun,
        )
        return await pipeline.execute(slot, action, guid_request, caller, self._session)

    async def _authenticate(self) -> Caller:
        """Return the caller, where access is controlled. Raise Forbidden if it lacks the scope."""
        pipeline, request = self._pipeline, self._request
        authorization = request.headers.get("Authorization")
        session = self._session or pipeline.cached_session(authorization)
        if session is None:
            self._cancel_scope.begun_at = asyncio.get_running_loop().time()
            session = await pipeline.authenticate(authorization, request.address, self._cancel_scope)
        self._session = session
        session.require_scope(request.action.scope)
        return session.caller

    def _render(self, outcome: Response | Exception, trace: RequestTrace, source: str | None, start: float) -> bytes:
        """Return the bytes of a response, or of the problem document of an error."""
        pipeline, request = self._pipeline, self._request
        self.last = self.last or pipeline.in_flight.draining
        is_head, request_id, secure = request.method == "HEAD", self._request_id, request.secure
        varies = pipeline.context.cors.any
        extra_lines = pipeline.extra_header_lines(self._session, source, trace, perf_counter() - start)
        if isinstance(outcome, Exception):
            return serialize_problem(
                outcome,
                request_id,
                base=pipeline.context.public_url,
                head=is_head,
                last=self.last,
                extra_lines=extra_lines,
                secure=secure,
                varies=varies,
            )
        return serialize(
            outcome, request_id, head=is_head, last=self.last, extra_lines=extra_lines, secure=secure, varies=varies
        )

    def abandon(self) -> None:
        """Cancel the request: the client has disconnected. Writes already sent to the store complete."""
        self._cancel_scope.cancel(is_disconnected=True)
        if not self._has_begun:
            self._pipeline.in_flight.discard(self)
        if self._pipeline.in_flight.closed:
            self._record_abort()

    def on_grace_end(self) -> None:
        """Do nothing: the server answers a request that is incomplete, with `respond`."""

    def _record_abort(self) -> None:
        """Log that the answer is missing."""
        self._is_aborted = True
        pipeline, request = self._pipeline, self._request
        failure = pipeline.describe(ShuttingDown(ABORTED), self._session)
        seconds = perf_counter() - self._started_at if self._started_at else 0.0
        pipeline.record_abort(
            request.method, request.path, 0, seconds, self._request_id, request.address, failure, self._trace_id
        )


class DirectRenewal(DirectRequest):
    """A renewal on the fast path, until it is answered."""

    __slots__ = ()
    route = RENEWAL_ROUTE
