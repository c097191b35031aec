"""Decide whether a request is eligible for the fast path, and extract the headers the fast path honours."""

from collections.abc import Mapping

from httptools import HttpRequestParser

from guidsvc.api.html.page import MAY_PREFER_HTML
from guidsvc.api.parsing import body
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.request_id import new_request_id, request_id
from guidsvc.server.protocol.request import RawHeaders
from guidsvc.telemetry.tracing import TRACE_HEADERS

DISQUALIFYING_HEADERS = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"early-data", b"accept"}
)
"""Headers that only a handler supports: Accept if it may prefer a page."""
_HONOURED = {
    b"authorization": "Authorization",
    b"connection": "Connection",
    b"x-request-id": "X-Request-Id",
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
    b"content-length": "Content-Length",
    b"content-type": "Content-Type",
    b"prefer": "Prefer",
    b"if-match": "If-Match",
    b"if-none-match": "If-None-Match",
    b"idempotency-key": "Idempotency-Key",
    b"x-forwarded-for": "X-Forwarded-For",
    b"x-forwarded-proto": "X-Forwarded-Proto",
}
"""Headers that the fast path honours, by lower-case name; it ignores all others."""

_NEUTRAL = frozenset({"Authorization", "Connection", "Content-Type", "Idempotency-Key", "Prefer"})
"""Fast-path headers that do not change the answer to a read; Authorization matters only through the caller."""
_FORWARDED = _NEUTRAL | {"X-Forwarded-For", "X-Forwarded-Proto"}
"""The same where no proxy is trusted, so that forwarding headers are ignored."""


def disqualifying_headers(*, has_cors: bool, is_open: bool) -> frozenset[bytes]:
    """Return the headers that only a handler supports. `is_open` if access is not controlled."""
    origin = {b"origin"} if has_cors else set()
    return DISQUALIFYING_HEADERS | origin | ({b"sec-fetch-site"} if is_open else set())


def fast_path_headers(
    raw_headers: RawHeaders, parser: HttpRequestParser, disqualifying: frozenset[bytes], host_names: HostNames
) -> dict[str, str] | None:
    """Return the headers that the fast path honours, or None if the request needs a handler."""
    headers: dict[str, str] = {}
    hosts = 0
    for name, value in raw_headers:
        lower = name.lower()
        if lower == b"host":
            hosts += 1
            if host_names.pattern.fullmatch(value) is None:
                return None
        elif lower in _HONOURED:
            canonical = _HONOURED[lower]
            if canonical in headers:
                return None
            headers[canonical] = value.decode("latin-1")
        elif lower in disqualifying and (lower != b"accept" or MAY_PREFER_HTML.search(value)):
            return None
    if hosts != 1 or not parser.should_keep_alive():
        return None
    if "Connection" in headers and (
        headers["Connection"].lower() != "keep-alive" or parser.get_http_version() != "1.1"
    ):
        return None
    return headers


def has_small_body(headers: Mapping[str, str]) -> bool:
    """Whether the body is within the limit of a record; llhttp has checked that the length is a number."""
    length = headers.get("Content-Length", "0")  # one with many zeros takes the other path
    return len(length) <= len(str(body.MAX_BYTES)) and int(length) <= body.MAX_BYTES


def request_id_for(headers: Mapping[str, str]) -> str:
    """Return the request id: the client's if valid, else a new one."""
    client_id = headers.get("X-Request-Id")
    return new_request_id() if client_id is None else request_id(client_id)


def neutral_headers(*, has_proxies: bool, is_traced: bool) -> frozenset[str]:
    """Return the fast-path headers that do not change the answer to a read."""
    neutral = _NEUTRAL if has_proxies else _FORWARDED
    return neutral if is_traced else neutral | TRACE_HEADERS
