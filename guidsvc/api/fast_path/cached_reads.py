"""Answers to reads of one cached record, for the fast path."""

import re
from collections.abc import Mapping
from http.client import NOT_MODIFIED, OK

from guidsvc.api.contract import problems
from guidsvc.api.execution import responses
from guidsvc.api.execution.guid_actions import ROUTE, GuidRequest, record_response
from guidsvc.api.execution.pipeline import RequestPipeline, rate_limit_header_lines, try_spend
from guidsvc.api.execution.read_renderer import ReadRenderer
from guidsvc.api.fast_path.direct_request import EligibleRequest
from guidsvc.api.fast_path.eligibility import request_id_for
from guidsvc.api.parsing import conditional as conditions
from guidsvc.auth.session import Session
from guidsvc.domain.caller import ANYONE
from guidsvc.domain.preconditions import UNCONDITIONAL
from guidsvc.errors import Expired, GuidsvcError, InvalidRequest, NotFound
from guidsvc.http.headers.request_id import new_request_id
from guidsvc.runtime.clock import continuous_clock
from guidsvc.server.protocol.state import Peer
from guidsvc.telemetry.tracing import CURRENT, RequestTrace

_GUID = re.compile(r"[0-9A-F]{32}")
_OK, _NOT_MODIFIED = int(OK), int(NOT_MODIFIED)
"""Plain numbers, which format faster than the members of HTTPStatus."""


class CachedReads:
    """Answers, counts and logs reads of cached records. A read that it cannot answer needs a handler."""

    def __init__(self, pipeline: RequestPipeline, renderer: ReadRenderer) -> None:
        context = pipeline.context
        self._pipeline = pipeline
        self._renderer = renderer
        self._in_flight = pipeline.in_flight
        self._service = context.service
        self._metrics = context.monitor.meters.requests
        self._cache = context.monitor.meters.cache
        self._log_read = None if context.access_log is None else context.access_log.log_read
        self._has_traces = pipeline.has_traces
        self._varies = context.cors.any
        self._base = context.public_url
        self._max_age = context.max_age

    # Only errors have a separate function, because each further call would cost every cached read.
    def read(  # noqa: PLR0913  # all facts about a request
        self,
        method: str,
        guid: str,
        headers: Mapping[str, str],
        address: str,
        session: Session | None,
        *,
        secure: bool,
        is_counted: bool = True,
    ) -> bytes | None:
        """Return the answer to an authorized read if the record is cached, else None.

        A read that is not counted yet against the caller's rate limit is counted only if it is answered here.
        """
        if self._in_flight.draining:
            return None
        start, misses = continuous_clock(), self._cache.misses
        name, is_head = request_id_for(headers), method == "HEAD"
        trace = self._pipeline.begin_needed_trace(name, address, headers, secure=secure) if self._has_traces else None
        token = None if trace is None else CURRENT.set(trace)
        try:
            preconditions = conditions.parse(headers)
            record = self._service.get_nowait(guid, ANYONE if session is None else session.caller)
        except (NotFound, Expired, InvalidRequest) as error:
            if not (is_counted or try_spend(session)):
                return None
            failed = EligibleRequest(method, guid, headers, address, secure, session)
            return self.failed_read(failed, error, name, trace, start)
        except GuidsvcError:
            return None
        else:
            if record is None or not (is_counted or try_spend(session)):
                return None
            status = _OK if preconditions is UNCONDITIONAL or preconditions.hold(record) else _NOT_MODIFIED
            source = self._cache.source(misses)
            extra_lines = (
                rate_limit_header_lines(session) if trace is None else self._extra_lines(session, source, trace, start)
            )
            if status == _OK and not is_head:
                response_bytes = self._renderer.render(record, name, start, extra_lines, secure=secure)
            else:
                request = GuidRequest(method, guid, headers, bytes, max_age=self._max_age)
                response = record_response(self._service, request, status, record)
                response_bytes = responses.serialize(
                    response, name, head=is_head, extra_lines=extra_lines, secure=secure, varies=self._varies
                )
        finally:
            if token is not None:
                CURRENT.reset(token)
        seconds = continuous_clock() - start
        self._pipeline.record_completion(
            ROUTE, method, f"/guid/{guid}", status, seconds, name, address, source, None, trace
        )
        return response_bytes

    def read_with_trace(self, guid: str, session: Session | None, peer: Peer) -> bytes | None:
        if _GUID.fullmatch(guid) is None:
            return None
        return self.read("GET", guid, {}, peer.remote_ip, session, secure=peer.secure, is_counted=False)

    def failed_repeated_read(
        self, error: GuidsvcError, guid: str, peer: Peer, session: Session | None, start: float
    ) -> bytes | None:
        """Return the answer to a remembered read that found no valid record; None if a handler must give it."""
        if _GUID.fullmatch(guid) is None or not try_spend(session):
            return None
        if self._log_read is not None:
            request = EligibleRequest("GET", guid, {}, peer.remote_ip, peer.secure, session)
            return self.failed_read(request, error, new_request_id(), None, start)
        response_bytes = responses.serialize_problem(
            error,
            new_request_id(),
            base=self._base,
            extra_lines=rate_limit_header_lines(session),
            secure=peer.secure,
            varies=self._varies,
        )
        self._metrics.record(ROUTE, "GET", problems.problem_of(error).status, continuous_clock() - start)
        return response_bytes

    def failed_read(
        self, request: EligibleRequest, error: GuidsvcError, name: str, trace: RequestTrace | None, start: float
    ) -> bytes:
        """Return the answer to a read without a result; `name` is its request id."""
        extra_lines = rate_limit_header_lines(request.session)
        if trace is not None:
            trace.is_opaque = isinstance(error, NotFound)
            extra_lines = self._extra_lines(request.session, None, trace, start)
        is_head = request.method == "HEAD"
        response_bytes = responses.serialize_problem(
            error,
            name,
            base=self._base,
            head=is_head,
            extra_lines=extra_lines,
            secure=request.secure,
            varies=self._varies,
        )
        status, seconds = problems.problem_of(error).status, continuous_clock() - start
        failure = self._pipeline.describe(error, request.session)
        self._pipeline.record_completion(
            ROUTE, request.method, request.path, status, seconds, name, request.address, None, failure, trace
        )
        return response_bytes

    def _extra_lines(self, session: Session | None, source: str | None, trace: RequestTrace, start: float) -> bytes:
        return self._pipeline.extra_header_lines(session, source, trace, continuous_clock() - start)
