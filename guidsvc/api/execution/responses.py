"""Serialize responses to bytes without a Tornado handler, in the layout that a handler produces."""

from http.client import responses

import structlog

from guidsvc.api.contract import problems
from guidsvc.errors import ClientDisconnected, OutcomeUnknown, Overloaded, Unavailable
from guidsvc.http.dates import http_date
from guidsvc.http.response import BODILESS, Response

SERVER, NOSNIFF = "guidsvc", "nosniff"
NO_FRAMES = "DENY"
"""No page may embed a response: a frame that loads would reveal to another site that a GUID is live."""
STRICT = "max-age=31536000"
"""Sent over TLS: clients must use only TLS with this host for a year (RFC 6797)."""

_LINES = {
    status: f"HTTP/1.1 {status} {reason}\r\nServer: {SERVER}\r\nX-Content-Type-Options: {NOSNIFF}\r\n"
    f"X-Frame-Options: {NO_FRAMES}\r\n"
    for status, reason in responses.items()
}
STRICT_LINE = f"Strict-Transport-Security: {STRICT}\r\n"
_NAMES = {"ETag": "Etag"}  # as Tornado writes it
_log = structlog.get_logger(__name__)


def serialize(
    answer: Response, request_id: str, *, head: bool = False, last: bool = False, more: str = "", secure: bool = False
) -> bytes:
    """Serialize a response; `head` omits the body, `last` closes the connection.

    `more` are extra header lines; `secure` is whether the client uses TLS.
    """
    body = None if answer.body is None else answer.body.encode() + b"\n"
    content_type = "" if body is None else "Content-Type: application/json\r\n"
    cache_control = answer.headers.get("Cache-Control", "no-store")
    others = "".join(
        f"{_NAMES.get(name, name)}: {value}\r\n" for name, value in answer.headers.items() if name != "Cache-Control"
    )
    length = "" if answer.status in BODILESS else f"Content-Length: {len(body or b'')}\r\n"
    start = (
        f"{_LINES[answer.status]}{content_type}Date: {http_date()}\r\nCache-Control: {cache_control}\r\n"
        f"X-Request-Id: {request_id}\r\n{STRICT_LINE if secure else ''}{others}{more}{length}"
        f"{'Connection: close' if last else ''}"
    )
    return _joined(start, b"" if head else body or b"", last=last)


def serialize_problem(
    error: Exception, request_id: str, *, head: bool = False, last: bool = False, more: str = "", secure: bool = False
) -> bytes:
    """Serialize an error as a problem document."""
    body = problems.render(error, request_id) + b"\n"
    others = "".join(f"{_NAMES.get(name, name)}: {value}\r\n" for name, value in problems.headers_of(error).items())
    start = (
        f"{_LINES[problems.problem_of(error).status]}Content-Type: {problems.CONTENT_TYPE}\r\nDate: {http_date()}\r\n"
        f"Cache-Control: no-store\r\nX-Request-Id: {request_id}\r\n{STRICT_LINE if secure else ''}{others}{more}"
        f"Content-Length: {len(body)}\r\n{'Connection: close' if last else ''}"
    )
    return _joined(start, b"" if head else body, last=last)


def log_failure(error: BaseException, request_id: str) -> None:
    """Log a failure that an operator must see.

    Client errors, single rejections under overload and disconnected clients appear in the access log only.
    """
    if isinstance(error, Overloaded | ClientDisconnected):
        return
    if isinstance(error, Unavailable | OutcomeUnknown):
        _log.warning("request failed", request_id=request_id, error=str(error))
    elif problems.problem_of(error) is problems.INTERNAL:
        _log.error("fault of the service", request_id=request_id, exc_info=error)


def _joined(start: str, body: bytes, *, last: bool) -> bytes:
    return start.encode("latin-1") + (b"\r\n\r\n" if last else b"\r\n") + body
