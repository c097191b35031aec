"""Fast path: serve requests for one GUID, creations, lists and fixed answers without instantiating a Tornado handler.

A handler costs more than the work of most requests. Eligible requests call the same functions as the handlers
(`guidsvc.api.execution.guid_actions`). Cached reads are answered in the protocol layer, from bytes rendered once per
record. Either way the response equals the handler's byte for byte; a test checks this. Other requests use a handler.

Clients repeat their headers. When a plain read arrives alone, the bytes after its GUID are remembered. A later request
that ends in the same bytes would parse the same way, so it skips the parser.
"""

import re
from collections.abc import Mapping
from http.client import OK

from httptools import HttpRequestParser

from guidsvc.api.execution.guid_actions import ACTIONS, COLLECTION_ROUTE, ROUTE, requires_admission
from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.api.execution.read_renderer import read_renderer
from guidsvc.api.fast_path.cached_reads import CachedReads
from guidsvc.api.fast_path.direct_creation import DirectCreation
from guidsvc.api.fast_path.direct_list import DirectList, query_of, wants_json
from guidsvc.api.fast_path.direct_read import DirectRead
from guidsvc.api.fast_path.direct_request import CREATES, DirectRenewal, DirectRequest, EligibleRequest
from guidsvc.api.fast_path.eligibility import (
    disqualifying_headers,
    fast_path_headers,
    has_small_body,
    neutral_headers,
)
from guidsvc.api.fast_path.fixed_answers import FixedAnswers
from guidsvc.api.fast_path.leases import LeaseFastPath, SampledLeaseFastPath
from guidsvc.api.fast_path.load_shedding import LoadShedder, ShedRequest
from guidsvc.auth.session import Session
from guidsvc.domain.caller import ANYONE
from guidsvc.errors import Expired, GuidsvcError, NotFound
from guidsvc.http.headers.request_id import new_request_id
from guidsvc.runtime.clock import continuous_clock
from guidsvc.server.protocol.request import RawHeaders
from guidsvc.server.protocol.state import Peer
from guidsvc.telemetry.metrics import QUICK_SECONDS
from guidsvc.telemetry.tracing import L1

_START = b"GET /guid/"
_BEGIN, _END = len(_START), len(_START) + 32
_TARGET = re.compile(rb"/guid/([0-9A-F]{32})")
_COLLECTION = COLLECTION_ROUTE.encode()
_CREATES = frozenset(method.encode() for method in CREATES)
_READ_SCOPE = ACTIONS["GET"].scope
_READ_METHODS = frozenset({b"GET", b"HEAD"})
_SENDS = frozenset({"PUT", "PATCH"})

_MAX_REQUESTS, _MAX_ENDING_BYTES = 256, 1024
"""Maximum number of remembered request endings, and the maximum bytes of each."""


class FastPathDispatcher:
    """The fast path: answers eligible requests, logs and counts them."""

    def __init__(self, pipeline: RequestPipeline) -> None:
        context = pipeline.context
        self.admission = pipeline.admission
        self._pipeline = pipeline
        self._shedder = LoadShedder(pipeline)
        self._in_flight = pipeline.in_flight
        self._service = context.service
        self._metrics = context.monitor.meters.requests
        self._quick_reads = pipeline.quick_reads
        self._cache = context.monitor.meters.cache
        self._is_access_controlled = pipeline.is_access_controlled
        self._log_read = None if context.access_log is None else context.access_log.log_read
        self._has_traces = pipeline.has_traces
        self._proxies = context.trusted_proxies
        self._neutral = neutral_headers(has_proxies=self._proxies.any, is_traced=context.tracer is not None)
        self._disqualifying_headers = disqualifying_headers(
            has_cors=context.cors.any, is_open=not self._is_access_controlled
        )
        self._host_names = context.host_names
        self._renderer = read_renderer(self._service, varies=context.cors.any, max_age=context.max_age)
        self._reads = CachedReads(pipeline, self._renderer)
        self._leases = (SampledLeaseFastPath if self._has_traces else LeaseFastPath)(
            pipeline, self._renderer, self._disqualifying_headers, self.serve_repeated_read, self._reads.failed_read
        )
        self.serve_repeated = self._leases.serve_repeated
        """Like `serve_repeated_read`, but for remembered lease requests too."""
        self._request_memo: dict[bytes, Session | None] = {}
        self._fixed_answers = FixedAnswers(pipeline)
        self._can_remember: bool | None = False  # whether to remember the last answered request; None: a lease
        self._session: Session | None = None  # of that request

    def serve_repeated_read(self, data: bytes, peer: Peer) -> bytes | None:  # noqa: C901, PLR0911  # each step that it is spared is an answer sooner
        """Return the answer if the bytes are a remembered read, apart from its GUID; else None."""
        rest = data[_END:]
        if rest not in self._request_memo or data[:_BEGIN] != _START:
            return None
        session = self._request_memo[rest]
        start = continuous_clock()
        if session is not None and not session.is_usable_at(start):
            return None
        guid = data[_BEGIN:_END].decode("latin-1")  # possibly an invalid GUID, for which no record is found
        if self._has_traces or self._in_flight.draining:  # noqa: SIM102  # without traces, nothing more is asked
            if self._in_flight.draining or not self._pipeline.sampler.skip():
                return self._reads.read_with_trace(guid, session, peer)
        misses = self._cache.misses
        try:
            record = self._service.get_nowait(guid, ANYONE if session is None else session.caller)
        except (NotFound, Expired) as error:
            return self._reads.failed_repeated_read(error, guid, peer, session, start)
        except GuidsvcError:
            return None  # the handler meets the same error and reports it
        if record is None:
            return None
        extra_lines = b"" if session is None else session.allowance.try_spend_with_lines()
        if extra_lines is None:
            return None
        request_id = new_request_id()
        response_bytes = self._renderer.render(record, request_id, start, extra_lines, secure=peer.secure)
        seconds = continuous_clock() - start
        if seconds <= QUICK_SECONDS:
            quick_reads = self._quick_reads
            quick_reads.count += 1
            quick_reads.seconds += seconds
        else:
            self._metrics.record(ROUTE, "GET", OK, seconds)
        if self._log_read is not None:
            source = L1 if self._cache.misses == misses else self._cache.store
            self._log_read(guid, 1000 * seconds, request_id, peer.remote_ip, source)
        return response_bytes

    def remember_renewal(self, data: bytes, target: bytes) -> bool:
        """Remember `data`, exactly the request with this target, if it is a renewal; return whether it is."""
        return self._leases.remember_renewal(data, target)

    def remember_request(self, data: bytes) -> bool:
        """Remember `data`, the last answered request; return whether only `serve_repeated` serves such requests."""
        if self._can_remember and len(data) <= _END + _MAX_ENDING_BYTES and data.startswith(_START):
            if len(self._request_memo) == _MAX_REQUESTS:
                self._request_memo.clear()
            self._request_memo[data[_END:]] = self._session
        elif self._can_remember is None:
            return self._leases.remember_read(data)
        return False

    def dispatch(
        self, method: bytes, target: bytes, raw_headers: RawHeaders, parser: HttpRequestParser, peer: Peer
    ) -> "bytes | DirectRequest | ShedRequest | None":
        """Return the response; or the request, if it needs no handler; or None, if it needs one."""
        self._can_remember = False
        match = _TARGET.fullmatch(target)
        if match is None:
            return self._dispatch_other(method, target, raw_headers, parser, peer)
        headers = fast_path_headers(raw_headers, parser, self._disqualifying_headers, self._host_names)
        if headers is None:
            return None
        name, guid = method.decode(), match[1].decode()
        address, secure = self._client(headers, peer)
        if name in _SENDS:
            return (
                self._direct(EligibleRequest(name, guid, headers, address, secure)) if has_small_body(headers) else None
            )
        if name not in ACTIONS or "Content-Length" in headers:
            return None
        session = self._pipeline.cached_session(headers.get("Authorization")) if self._is_access_controlled else None
        is_authorized = not self._is_access_controlled or (session is not None and session.caller.may(_READ_SCOPE))
        response_bytes = None
        if is_authorized and name != "DELETE" and "If-Match" not in headers:
            response_bytes = self._reads.read(name, guid, headers, address, session, secure=secure)
        is_plain_read = name == "GET" and headers.keys() <= self._neutral
        if response_bytes is None:
            request = EligibleRequest(name, guid, headers, address, secure, session)
            return self._direct(request, is_plain_read=is_plain_read and is_authorized)
        self._can_remember, self._session = is_plain_read, session
        return response_bytes

    def is_proxy(self, peer: Peer) -> bool:
        """Whether the peer is a trusted proxy, whose connections carry the requests of many clients."""
        return self._proxies.any and self._proxies.trusts(peer.remote_ip)

    def _direct(self, request: EligibleRequest, *, is_plain_read: bool = False) -> DirectRequest:
        if is_plain_read and not self._has_traces:
            return DirectRead(self._pipeline, self._shedder, self._renderer, request)
        return DirectRequest(self._pipeline, self._shedder, request)

    def _client(self, headers: Mapping[str, str], peer: Peer) -> tuple[str, bool]:
        """Return the client's address, and whether it uses TLS."""
        if not self._proxies.any:
            return peer.remote_ip, peer.secure
        scheme = self._proxies.scheme(peer.remote_ip, headers.get("X-Forwarded-Proto"), peer.protocol)
        return self._proxies.client(peer.remote_ip, headers.get("X-Forwarded-For")), scheme == "https"

    def _dispatch_other(
        self, method: bytes, target: bytes, raw_headers: RawHeaders, parser: HttpRequestParser, peer: Peer
    ) -> "bytes | DirectRequest | ShedRequest | None":
        """Dispatch a request that names no single GUID, or a lease."""
        answer = self._dispatch_collection(method, target, raw_headers, parser, peer)
        if answer is None and self.admission.is_contended:
            answer = self._shed(method, target, raw_headers, parser, peer)
        if answer is not None:
            return answer
        found = self._leases.dispatch(method, target, raw_headers, parser, peer)
        if isinstance(found, EligibleRequest):
            return DirectRenewal(self._pipeline, self._shedder, found)
        self._can_remember = None if found is not None else False
        return found

    def _dispatch_collection(
        self, method: bytes, target: bytes, raw_headers: RawHeaders, parser: HttpRequestParser, peer: Peer
    ) -> "bytes | DirectRequest | ShedRequest | None":
        """Dispatch a page of a list, a creation, or a fixed answer."""
        query_string, is_fixed = query_of(target), target in self._fixed_answers.targets
        is_list = query_string is not None and method in _READ_METHODS and wants_json(raw_headers)
        is_creation = target == _COLLECTION and method in _CREATES
        if not (is_fixed or is_list or is_creation):
            return None
        headers = fast_path_headers(raw_headers, parser, self._disqualifying_headers, self._host_names)
        if headers is None or not (has_small_body(headers) if is_creation else "Content-Length" not in headers):
            return None
        name, (address, secure) = method.decode(), self._client(headers, peer)
        if is_fixed:
            return self._fixed_answers.answer(name, target, headers, address, secure=secure)
        request = EligibleRequest(name, "", headers, address, secure)
        if is_creation:
            return DirectCreation(self._pipeline, self._shedder, request)
        return DirectList(self._pipeline, self._shedder, request, query_string or b"")

    def _shed(
        self, method: bytes, target: bytes, raw_headers: RawHeaders, parser: HttpRequestParser, peer: Peer
    ) -> "ShedRequest | None":
        """Return a request to reject, if it needs a handler, has a small body, and finds no admission slot."""
        headers = fast_path_headers(raw_headers, parser, self._disqualifying_headers, self._host_names)
        if headers is None or not has_small_body(headers) or not requires_admission(target) or method == b"OPTIONS":
            return None
        if self._in_flight.draining:
            return None
        address, secure = self._client(headers, peer)
        if not self.admission.is_full_for(self._pipeline.probable_caller(headers.get("Authorization"), address)):
            return None
        path = target.partition(b"?")[0].decode("latin-1")
        return ShedRequest(self._shedder, method.decode(), path, headers, address, secure=secure)
