"""Fast path of leases: reads that demand a time to live, and renewals that change nothing.

They are answered in the protocol layer if the cache has the record and it is live. Like cached reads, they need no
admission slot: under overload, an answer costs less than a rejection.

A client that sends one probably sends it again, so the bytes after its GUID are remembered, with their parsed form.
Plain reads are served elsewhere.
"""

import re
from collections.abc import Callable, Mapping
from http.client import OK
from typing import Any, NamedTuple

from httptools import HttpRequestParser

from guidsvc.api.execution.guid_actions import (
    RENEWAL,
    RENEWAL_ROUTE,
    ROUTE,
    GuidRequest,
    read_renewal,
)
from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.api.execution.read_renderer import ReadRenderer
from guidsvc.api.execution.renewal_renderer import RenewalRenderer
from guidsvc.api.fast_path.direct_request import EligibleRequest
from guidsvc.api.fast_path.eligibility import fast_path_headers, has_small_body, request_id_for
from guidsvc.auth.session import Session
from guidsvc.domain.caller import ANYONE, READ, Caller, Scope
from guidsvc.domain.leases.errors import ExpiresTooSoon
from guidsvc.domain.preconditions import UNCONDITIONAL
from guidsvc.domain.record import MAX_TIME
from guidsvc.errors import GuidsvcError
from guidsvc.http.errors import UnsupportedMediaType
from guidsvc.http.headers.request_id import new_request_id
from guidsvc.runtime.clock import continuous_clock
from guidsvc.server.protocol.request import RawHeaders
from guidsvc.server.protocol.state import Peer
from guidsvc.services.leases.renewer import RenewalTerms
from guidsvc.telemetry.metrics import QUICK_SECONDS
from guidsvc.telemetry.tracing import TRACE_HEADERS, RequestTrace

_READ_TARGET = re.compile(rb"/guid/([0-9A-F]{32})\?valid_for=([0-9]{1,12})")
_RENEWAL_TARGET = re.compile(rb"/guid/([0-9A-F]{32})/renewal")
_READ_START, _RENEWAL_START = b"GET /guid/", b"POST /guid/"
_READ_BEGIN, _RENEWAL_BEGIN, _GUID_BYTES = len(_READ_START), len(_RENEWAL_START), 32
_PLAIN = frozenset({"Authorization", "Connection", "Content-Type", "Content-Length"})
"""Headers of a remembered request. The type and length of its body are remembered with it."""
_OK = int(OK)
_RECEIPT = frozenset({"Idempotency-Key"})
_FORWARDING = frozenset({"X-Forwarded-For", "X-Forwarded-Proto"})
_MAX_REQUESTS, _MAX_BYTES = 256, 1024
"""Maximum number of remembered requests of each kind, and the maximum bytes of each."""


SendFailure = Callable[[EligibleRequest, GuidsvcError, str, RequestTrace | None, float], bytes]
"""Renders and records the answer to a read without a result; see `CachedReads`."""


class _Demand(NamedTuple):
    """A remembered read: its caller, and the seconds that it demands."""

    session: Session | None
    caller: Caller
    valid_for: int


class _Heartbeat(NamedTuple):
    """A remembered renewal: its caller and its terms."""

    session: Session | None
    terms: RenewalTerms
    least_ms: int
    """A record with less time left must be renewed."""


class _Head(NamedTuple):
    """The head of a renewal whose body has not been read yet."""

    target: bytes
    session: Session | None
    headers: Mapping[str, str]


class LeaseFastPath:
    """Answers reads with `valid_for` and renewals that change nothing."""

    def __init__(
        self,
        pipeline: RequestPipeline,
        renderer: ReadRenderer,
        disqualifying: frozenset[bytes],
        serve_repeated_read: Callable[[bytes, Peer], bytes | None],
        send_failure: SendFailure,
    ) -> None:
        self._serve_repeated_read = serve_repeated_read
        self._send_failure = send_failure
        context = pipeline.context
        self._pipeline = pipeline
        self._in_flight = pipeline.in_flight
        self._logs_requests = pipeline.logs_requests
        self._service = context.service
        self._renderer = renderer
        self._renewal_renderer = RenewalRenderer(varies=context.cors.any)
        self._disqualifying = disqualifying
        self._host_names = context.host_names
        has_proxies = context.trusted_proxies.any
        self._excluded = _RECEIPT | _FORWARDING if has_proxies else _RECEIPT
        # Without trusted proxies, the headers of proxies are ignored.
        self._plain = _PLAIN if has_proxies else _PLAIN | _FORWARDING
        if context.tracer is None:
            self._plain |= TRACE_HEADERS
        self._sampler = pipeline.sampler
        self._reads: dict[bytes, _Demand] = {}
        self._renewals: dict[bytes, _Heartbeat] = {}
        self._demand: _Demand | None = None  # of the read that was answered last, if it may be remembered
        self._head: _Head | None = None  # of the renewal that was dispatched last, if it may be remembered
        requests = context.monitor.meters.requests
        self._quick_renewals = requests.quick(RENEWAL_ROUTE, "POST", OK)
        self._cache = context.monitor.meters.cache

    def serve_repeated(self, data: bytes, peer: Peer) -> bytes | None:
        """Return the answer if the bytes are a remembered request or plain read, apart from its GUID; else None."""
        if data.startswith(_RENEWAL_START):
            end = _RENEWAL_BEGIN + _GUID_BYTES
            heartbeat = self._renewals.get(data[end:])
            if heartbeat is not None:
                return self._renew(data[_RENEWAL_BEGIN:end].decode("latin-1"), heartbeat, peer)
        elif data.startswith(_READ_START):
            end = _READ_BEGIN + _GUID_BYTES
            demand = self._reads.get(data[end:])
            if demand is not None and (demand.session is None or demand.session.is_usable()):
                guid = data[_READ_BEGIN:end].decode("latin-1")
                return self._read(guid, demand, new_request_id(), peer.remote_ip, secure=peer.secure)
        return self._serve_repeated_read(data, peer)

    def dispatch(
        self, method: bytes, target: bytes, raw_headers: RawHeaders, parser: HttpRequestParser, peer: Peer
    ) -> bytes | EligibleRequest | None:
        """Return the answer; or the request, if it needs no handler; or None, if it needs one."""
        self._demand = self._head = None
        is_renewal = method == b"POST"
        match = (_RENEWAL_TARGET if is_renewal else _READ_TARGET).fullmatch(target)
        if match is None or (method != b"GET" and not is_renewal):
            return None
        headers = fast_path_headers(raw_headers, parser, self._disqualifying, self._host_names)
        if headers is None or not self._excluded.isdisjoint(headers):
            return None
        guid, authorization = match[1].decode(), headers.get("Authorization")
        if is_renewal:
            if not has_small_body(headers):
                return None
            session = self._pipeline.usable_session(authorization)
            self._head = _Head(target, session, headers) if headers.keys() <= self._plain else None
            return EligibleRequest("POST", guid, headers, peer.remote_ip, peer.secure, is_renewal=True)
        if "Content-Length" in headers or not headers.keys() <= self._plain | {"X-Request-Id"}:
            return None
        return self._dispatch_read(guid, int(match[2]), self._pipeline.usable_session(authorization), headers, peer)

    def _dispatch_read(
        self, guid: str, valid_for: int, session: Session | None, headers: Mapping[str, str], peer: Peer
    ) -> bytes | None:
        if not 1 <= valid_for <= MAX_TIME or not self._may(session, READ):
            return None
        demand = _Demand(session, _caller_of(session), valid_for)
        response = self._read(guid, demand, request_id_for(headers), peer.remote_ip, secure=peer.secure)
        if response is not None and headers.keys() <= self._plain:
            self._demand = demand
        return response

    def remember_read(self, data: bytes) -> bool:
        """Remember `data`, which must be exactly the read that was answered last; return whether it is remembered."""
        demand = self._demand
        if demand is None or len(data) > _MAX_BYTES or not data.startswith(_READ_START):
            return False
        _make_room(self._reads)
        self._reads[data[_READ_BEGIN + _GUID_BYTES :]] = demand
        return True

    def remember_renewal(self, data: bytes, target: bytes) -> bool:
        """Remember `data`, exactly the request with this target, if it is a renewal; return whether it is.

        `target` must be the same object as at the dispatch: the last renewal may be that of another caller.
        """
        head, self._head = self._head, None
        if head is None or head.target is not target or len(data) > _MAX_BYTES or not data.startswith(_RENEWAL_START):
            return False
        heartbeat = self._heartbeat(head, data)
        if heartbeat is None:
            return False
        _make_room(self._renewals)
        self._renewals[data[_RENEWAL_BEGIN + _GUID_BYTES :]] = heartbeat
        return True

    def _heartbeat(self, head: _Head, data: bytes) -> _Heartbeat | None:
        """Return what a renewal means; None if it is invalid, always writes, or its response may not show times."""
        session, length = head.session, int(head.headers.get("Content-Length", "0"))
        if not (self._may(session, RENEWAL.scope) and self._may(session, READ)) or not length:
            return None
        guid = data[_RENEWAL_BEGIN : _RENEWAL_BEGIN + _GUID_BYTES].decode("latin-1")
        try:
            asked = read_renewal(GuidRequest("POST", guid, head.headers, lambda: data[-length:]))
        except (GuidsvcError, UnsupportedMediaType):
            return None
        if asked.if_below is None:
            return None
        terms = self._service.acting_for(_caller_of(session)).renewal_terms(asked, UNCONDITIONAL)
        return None if terms.strict else _Heartbeat(session, terms, asked.if_below * 1000)

    def _may(self, session: Session | None, scope: Scope) -> bool:
        """Whether the caller is known, and has this scope."""
        if session is None:
            return not self._pipeline.is_access_controlled
        return session.caller.may(scope)

    def _read(self, guid: str, demand: _Demand, request_id: str, address: str, *, secure: bool) -> bytes | None:
        """Return the answer to an authorized read if the cache has the record, and it is live; else None."""
        session, caller, seconds = demand
        if self._in_flight.draining:
            return None
        start, misses = continuous_clock(), self._cache.misses
        try:
            found = self._service.renewer.peek(guid, caller)
        except GuidsvcError:
            return None  # the handler meets the same error and reports it
        if found is None or found[1] <= 0:
            return None
        extra_lines = b"" if session is None else session.allowance.try_spend_with_lines()
        if extra_lines is None:
            return None
        record, left_ms = found
        if left_ms < seconds * 1000:
            error = ExpiresTooSoon(guid, expire=record.expire, left=left_ms // 1000, valid_for=seconds)
            request = EligibleRequest("GET", guid, {}, address, secure, session)
            return self._send_failure(request, error, request_id, None, start)
        source = self._cache.source(misses)
        response = self._renderer.render(record, request_id, start, extra_lines, secure=secure, valid_for=seconds)
        duration = continuous_clock() - start
        path = f"/guid/{guid}"
        self._pipeline.record_completion(ROUTE, "GET", path, _OK, duration, request_id, address, source)
        return response

    def _renew(self, guid: str, heartbeat: _Heartbeat, peer: Peer) -> bytes | None:
        """Return the answer to a renewal that changes nothing, as the cache shows; else None."""
        (session, terms, least_ms), renewer = heartbeat, self._service.renewer
        if self._in_flight.draining or not (session is None or session.is_usable()):
            return None
        start = continuous_clock()
        try:
            found = renewer.peek(guid, terms.caller)
        except GuidsvcError:
            return None  # the handler meets the same error and reports it
        if found is None or found[1] < least_ms:
            return None
        extra_lines = b"" if session is None else session.allowance.try_spend_with_lines()
        if extra_lines is None:
            return None
        renewer.count_unchanged()
        request_id = new_request_id()
        response = self._renewal_renderer.render(terms, found, request_id, start, extra_lines, secure=peer.secure)
        seconds = continuous_clock() - start
        if self._logs_requests or seconds > QUICK_SECONDS:
            path = f"/guid/{guid}/renewal"
            self._pipeline.record_completion(
                RENEWAL_ROUTE, "POST", path, _OK, seconds, request_id, peer.remote_ip, None
            )
        else:
            quick_renewals = self._quick_renewals
            quick_renewals.count += 1
            quick_renewals.seconds += seconds
        return response


class SampledLeaseFastPath(LeaseFastPath):
    """The same with traces: a request that needs a trace is left to the handler.

    So the sampler skips only what is answered here: the handler asks it about all else.
    """

    def _read(self, guid: str, demand: _Demand, request_id: str, address: str, *, secure: bool) -> bytes | None:
        if not self._sampler.gap:
            return None
        base = LeaseFastPath._read  # noqa: SLF001  # faster than super()
        response = base(self, guid, demand, request_id, address, secure=secure)
        if response is not None:
            self._sampler.gap -= 1
        return response

    def _renew(self, guid: str, heartbeat: _Heartbeat, peer: Peer) -> bytes | None:
        if not self._sampler.gap:
            return None
        base = LeaseFastPath._renew  # noqa: SLF001
        response = base(self, guid, heartbeat, peer)
        if response is not None:
            self._sampler.gap -= 1
        return response


def _caller_of(session: Session | None) -> Caller:
    return ANYONE if session is None else session.caller


def _make_room(memo: dict[bytes, Any]) -> None:
    """Forget everything if a memo is full."""
    if len(memo) == _MAX_REQUESTS:
        memo.clear()
