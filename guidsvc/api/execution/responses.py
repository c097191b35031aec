"""Response heads: serialized to bytes without a Tornado handler, in the layout that a handler produces."""

from collections.abc import Mapping, MutableMapping
from http.client import responses
from typing import TypedDict, Unpack

import structlog

from guidsvc.api.contract import problems
from guidsvc.errors import ClientDisconnected, NotReady, OutcomeUnknown, Overloaded, ShuttingDown, Unavailable
from guidsvc.http.constants import JSON
from guidsvc.http.dates import http_date
from guidsvc.http.response import BODILESS, Response

SERVER, NOSNIFF, NO_STORE = "guidsvc", "nosniff", "no-store"
NO_FRAMES = "DENY"
"""No page may embed a response: a frame that loads would reveal to another site that a GUID is live."""
ONE_ORIGIN = "same-origin"
"""No page of another origin may load a response: whether it loads would reveal that a GUID is live (prefetch)."""
STRICT = "max-age=31536000"
"""Sent over TLS: clients must use only TLS with this host for a year (RFC 6797)."""

_LINES = {
    status: f"HTTP/1.1 {status} {reason}\r\nServer: {SERVER}\r\nX-Content-Type-Options: {NOSNIFF}\r\n"
    f"X-Frame-Options: {NO_FRAMES}\r\nCross-Origin-Resource-Policy: {ONE_ORIGIN}\r\n"
    for status, reason in responses.items()
}
_STRICT_LINE = f"Strict-Transport-Security: {STRICT}\r\n"
_STRICT = b"\r\n" + _STRICT_LINE[:-2].encode()
VARY = "Origin"
"""Sent if any origin is allowed: a shared cache must not serve a response to a page of another origin."""
_LINE_END = b"\r\n"
_LENGTH = _LINE_END + b"Content-Length: "
_PROBLEM_TYPE = f"Content-Type: {problems.CONTENT_TYPE}\r\n"
_PLACEHOLDER = "\0"
"""Placeholder of a request id; occurs nowhere else in a head."""
_NAMES = {"ETag": "Etag"}  # as Tornado writes it
_log = structlog.get_logger(__name__)


class Framing(TypedDict, total=False):
    """Options that change the bytes of a response apart from its content. Each is off by default."""

    head: bool
    """Omit the body: the request was a HEAD."""
    last: bool
    """Close the connection after the response."""
    extra_lines: bytes
    """Further header lines."""
    secure: bool
    """The client uses TLS."""
    varies: bool
    """Any origin is allowed."""


def serialize(response: Response, request_id: str, **framing: Unpack[Framing]) -> bytes:
    """Serialize a response."""
    body = None if response.body is None else response.body + b"\n"
    content_type = "" if body is None else f"Content-Type: {JSON}\r\n"
    return _message(response.status, response.headers, content_type, body or b"", request_id, **framing)


def serialize_problem(error: Exception, request_id: str, *, base: str = "", **framing: Unpack[Framing]) -> bytes:
    """Serialize an error as a problem document; `base` is the address of the service, for its `type`."""
    body = problems.render(error, request_id, base=base) + b"\n"
    status, headers = problems.problem_of(error).status, problems.headers_of(error)
    return _message(status, headers, _PROBLEM_TYPE, body, request_id, **framing)


def split_at_request_id(response: Response, **framing: Unpack[Framing]) -> tuple[bytes, bytes]:
    """Serialize a response, and return the bytes before and after the request id."""
    start, _, rest = serialize(response, _PLACEHOLDER, **framing).partition(_PLACEHOLDER.encode())
    return start, rest


def insert_header_lines(rest: bytes, extra_lines: bytes, *, secure: bool) -> bytes:
    """Insert extra header lines, and those of TLS, into what `split_at_request_id` returned after the request id."""
    if extra_lines:
        end = rest.index(_LENGTH) + len(_LINE_END)
        rest = rest[:end] + extra_lines + rest[end:]
    return _STRICT + rest if secure else rest


def set_default_headers(headers: MutableMapping[str, str], request_id: str, *, secure: bool, varies: bool) -> None:
    """Set the headers of every response, for a handler."""
    headers["Server"] = SERVER
    headers["X-Content-Type-Options"] = NOSNIFF
    headers["X-Frame-Options"] = NO_FRAMES
    headers["Cross-Origin-Resource-Policy"] = ONE_ORIGIN
    headers["Content-Type"] = JSON
    headers["Date"] = http_date()
    headers["Cache-Control"] = NO_STORE
    headers["X-Request-Id"] = request_id
    if secure:
        headers["Strict-Transport-Security"] = STRICT
    if varies:
        headers["Vary"] = VARY


def log_failure(error: BaseException, request_id: str) -> None:
    """Log a failure that an operator must see.

    Client errors, single rejections under overload or at shutdown, disconnected clients and checks of readiness appear
    in the access log only.
    """
    if isinstance(error, Overloaded | ClientDisconnected | NotReady | ShuttingDown):
        return
    if isinstance(error, Unavailable | OutcomeUnknown):
        _log.warning("request failed", request_id=request_id, error=str(error))
    elif problems.problem_of(error) is problems.INTERNAL:
        _log.error("fault of the service", request_id=request_id, exc_info=error)


def _message(  # noqa: PLR0913  # the parts of a response
    status: int,
    response_headers: Mapping[str, str],
    content_type: str,
    body: bytes,
    request_id: str,
    *,
    head: bool = False,
    last: bool = False,
    extra_lines: bytes = b"",
    secure: bool = False,
    varies: bool = False,
) -> bytes:
    others = ""
    for name, value in response_headers.items():
        if name not in {"Cache-Control", "Vary"}:
            others += f"{_NAMES.get(name, name)}: {value}\r\n"
    vary = response_headers.get("Vary", "")
    if varies:
        vary = f"{vary}, {VARY}" if vary else VARY
    vary_line = f"Vary: {vary}\r\n" if vary else ""
    lines = (
        f"{_LINES[status]}{content_type}Date: {http_date()}\r\n"
        f"Cache-Control: {response_headers.get('Cache-Control', NO_STORE)}\r\n"
        f"X-Request-Id: {request_id}\r\n"
        f"{_STRICT_LINE if secure else ''}{vary_line}{others}"
    ).encode("latin-1")
    length_lines = b"" if status in BODILESS else b"Content-Length: %d\r\n" % len(body)
    end = b"Connection: close\r\n\r\n" if last else b"\r\n"
    return lines + extra_lines + length_lines + end + (b"" if head else body)
