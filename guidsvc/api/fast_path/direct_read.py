"""A plain read whose record may be in the shared cache: the reply of the cache is answered without a task.

Like a read from memory, it needs no admission slot: the cache answers all reads of an iteration together, within a
short time limit. Whatever else the request needs, such as a read of the store, takes the steps of every request.
"""

from collections.abc import Callable
from functools import partial
from http.client import OK
from time import perf_counter

from guidsvc.api.execution.guid_actions import ROUTE
from guidsvc.api.execution.pipeline import RequestPipeline, queue_name, rate_limit_header_lines
from guidsvc.api.execution.read_renderer import ReadRenderer
from guidsvc.api.fast_path.direct_request import DirectRequest, EligibleRequest
from guidsvc.api.fast_path.load_shedding import LoadShedder
from guidsvc.domain.caller import ANYONE, authorize
from guidsvc.domain.record import Record
from guidsvc.http.constants import CLIENT_CLOSED_REQUEST
from guidsvc.runtime.clock import continuous_clock
from guidsvc.telemetry.tracing import REDIS


class DirectRead(DirectRequest):
    """A plain GET of a caller that may read, until it is answered."""

    __slots__ = ("_renderer",)

    def __init__(
        self, pipeline: RequestPipeline, shedder: LoadShedder, renderer: ReadRenderer, request: EligibleRequest
    ) -> None:
        super().__init__(pipeline, shedder, request)
        self._renderer = renderer

    def answer_soon(self, callback: Callable[[bytes | None], object]) -> bool:
        """Begin to read the record from the shared cache, and return whether there is one."""
        begun = None
        if not self._pipeline.in_flight.draining:
            caller = queue_name(self._session, self._request.address)
            begun = self._begun = self._pipeline.context.service.begin_get(self._request.guid, caller)
        if begun is None:
            return False
        self._started_at = perf_counter()
        begun.on_reply(partial(self._on_reply, callback))
        return True

    def _acquire_slot(self) -> None:
        """Acquire none yet: `respond` does, if it is called."""

    def _on_reply(self, callback: Callable[[bytes | None], object]) -> None:
        record, response = None if self._begun is None else self._begun.record, None
        if self._cancel_scope.is_cancelled:  # the client has disconnected: nobody gets an answer
            self._pipeline.admission.count_cancellation(self._cancel_scope)
            if not self._is_aborted:
                self._record(CLIENT_CLOSED_REQUEST, None, self._cancel_scope.error())
            callback(None)
            return
        try:
            response = None if record is None else self._answer(record)
        finally:  # after a fault too: `respond` meets it again, and reports it to the client
            callback(response)

    def _answer(self, record: Record) -> bytes | None:
        """Return the answer; None if it is not that of every read of this record."""
        pipeline, request, session = self._pipeline, self._request, self._session
        caller = ANYONE if session is None else session.caller
        if self.last or pipeline.in_flight.draining or self._is_aborted or authorize(record, caller) is None:
            return None
        if session is not None and not session.is_usable():
            return None
        lines = rate_limit_header_lines(session)
        response = self._renderer.render(record, self._request_id, continuous_clock(), lines, secure=request.secure)
        pipeline.in_flight.discard(self)
        self._record(OK, REDIS)
        return response

    def _record(self, status: int, source: str | None, error: Exception | None = None) -> None:
        pipeline, request, seconds = self._pipeline, self._request, perf_counter() - self._started_at
        failure = None if error is None else pipeline.describe(error, self._session)
        pipeline.record_completion(
            ROUTE, "GET", request.path, status, seconds, self._request_id, request.address, source, failure
        )
