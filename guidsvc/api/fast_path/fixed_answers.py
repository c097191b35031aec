"""Answers that do not depend on the request, without a handler: `/version`, `/livez`, `/readyz`, and `/` as JSON.

All of them are public. Those that never change are rendered once a second, because of their date.
"""

from collections.abc import Mapping
from http.client import OK
from time import perf_counter

from pydantic_core import to_json

from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.api.execution.responses import serialize, split_at_request_id
from guidsvc.api.fast_path.eligibility import request_id_for
from guidsvc.api.resources.health import LIVE, VERSION, readiness, root
from guidsvc.errors import NotReady
from guidsvc.http.dates import http_date
from guidsvc.http.response import Response

_READY = b"/readyz"


class FixedAnswers:
    """The fixed answers of a service, by target."""

    def __init__(self, pipeline: RequestPipeline) -> None:
        self._pipeline = pipeline
        self._context = pipeline.context
        self._varies = pipeline.context.cors.any
        self._date = ""  # of the parts
        self._parts: dict[tuple[bytes, bool, bool], tuple[bytes, bytes]] = {}  # by target, HEAD and TLS
        self._responses = {
            b"/version": _response(VERSION),
            b"/livez": _response(LIVE),
            b"/": _response(root(self._context), Vary="Accept"),
        }
        self.targets = frozenset({_READY, *self._responses})
        """The targets that have a fixed answer."""

    def answer(
        self, method: str, target: bytes, headers: Mapping[str, str], address: str, *, secure: bool
    ) -> bytes | None:
        """Return the answer to a request for one of the targets; None if it needs a handler."""
        pipeline = self._pipeline
        if method not in {"GET", "HEAD"} or pipeline.in_flight.draining:
            return None
        start, request_id, is_head = perf_counter(), request_id_for(headers), method == "HEAD"
        trace = None
        if target == _READY or pipeline.has_traces:
            trace = pipeline.begin_trace(request_id, address, headers, secure=secure)
            extra_lines = pipeline.extra_header_lines(None, None, trace, perf_counter() - start)
            response = self._response(target)
            if response is None:
                return None
            response_bytes = serialize(
                response, request_id, head=is_head, extra_lines=extra_lines, secure=secure, varies=self._varies
            )
        else:
            begin, rest = self._rendered(target, is_head=is_head, secure=secure)
            response_bytes = begin + request_id.encode() + rest
        path, seconds = target.decode(), perf_counter() - start
        pipeline.record_completion(path, method, path, OK, seconds, request_id, address, None, None, trace)
        return response_bytes

    def _response(self, target: bytes) -> Response | None:
        if target != _READY:
            return self._responses[target]
        try:
            return _response(readiness(self._context.health, self._context.monitor.processes))
        except NotReady:
            return None

    def _rendered(self, target: bytes, *, is_head: bool, secure: bool) -> tuple[bytes, bytes]:
        """Return the bytes of an answer before and after the request id."""
        date = http_date()
        if date != self._date:
            self._date, self._parts = date, {}
        key = (target, is_head, secure)
        if key not in self._parts:
            self._parts[key] = split_at_request_id(
                self._responses[target], head=is_head, secure=secure, varies=self._varies
            )
        return self._parts[key]


def _response(members: Mapping[str, object], **headers: str) -> Response:
    return Response(OK, headers, to_json(members))
