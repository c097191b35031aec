"""Errors as clients see them: problem details (RFC 9457), and the one table from error to status.

An error is looked up along the bases of its class. What is not in the table is a fault of the service, and
the client learns nothing of it but a request id.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from guidsvc import errors
from guidsvc.errors import InvalidField, found_by_class
from guidsvc.http.constants import RETRY_AFTER
from guidsvc.http.errors import (
    HeadersTooLarge,
    MethodNotAllowed,
    MisdirectedRequest,
    NoSuchPath,
    NotImplementedHere,
    TooLarge,
    UnsupportedMediaType,
    VersionNotSupported,
)

CONTENT_TYPE = "application/problem+json"
RECEIPTS_AFTER = "60"
"""Seconds until the receipts are counted again."""


class Problem(NamedTuple):
    """A kind of error: its code, which is part of the contract, its status and its title."""

    code: str
    status: int
    title: str


INTERNAL = Problem("internal", 500, "A fault of the service")
_NOT_FOUND = Problem("not-found", 404, "Not found")
_TOO_LARGE = Problem("too-large", 413, "The body is too large")

TABLE: Mapping[type[Exception], Problem] = {
    errors.InvalidGuid: Problem("invalid-guid", 400, "Not a GUID"),
    errors.InvalidRequest: Problem("invalid-request", 400, "The request is not valid"),
    errors.NotFound: _NOT_FOUND,
    errors.NoSuchKey: _NOT_FOUND,
    NoSuchPath: _NOT_FOUND,
    MethodNotAllowed: Problem("method-not-allowed", 405, "Method not allowed"),
    NotImplementedHere: Problem("not-implemented", 501, "Not implemented"),
    VersionNotSupported: Problem("http-version-not-supported", 505, "HTTP version not supported"),
    errors.Expired: Problem("expired", 410, "The GUID has expired"),
    errors.KeyNotActive: Problem("key-ended", 409, "The key is no longer good"),
    errors.PreconditionFailed: Problem("precondition-failed", 412, "The record is not as the request demands"),
    errors.PreconditionRequired: Problem("precondition-required", 428, "A precondition is required"),
    errors.InProgress: Problem("in-progress", 409, "The request is still being done"),
    errors.IdempotencyMismatch: Problem("idempotency-mismatch", 422, "The key was for another request"),
    errors.ReceiptsFull: Problem("receipts-full", 429, "Too many requests with a key are remembered"),
    TooLarge: _TOO_LARGE,
    errors.SpaceUsed: _TOO_LARGE,
    MisdirectedRequest: Problem("misdirected-request", 421, "Another host name is asked"),
    HeadersTooLarge: Problem("headers-too-large", 431, "The head of the request is too large"),
    UnsupportedMediaType: Problem("unsupported-media-type", 415, "Unsupported media type"),
    errors.Unauthorized: Problem("unauthorized", 401, "Who asks is not known"),
    errors.Forbidden: Problem("forbidden", 403, "The key does not allow this"),
    errors.QuotaExceeded: Problem("quota-exceeded", 403, "The quota is used up"),
    errors.RateLimited: Problem("rate-limited", 429, "Too many requests"),
    errors.Unavailable: Problem("unavailable", 503, "Unavailable; nothing was changed"),
    errors.OutcomeUnknown: Problem("outcome-unknown", 504, "The outcome is unknown"),
}


def problem_of(error: BaseException) -> Problem:
    """Find what kind of problem an error is to the client."""
    return kind_of(type(error))


def kind_of(error: type[BaseException]) -> Problem:
    """Find what kind of problem an error of this class is to the client."""
    return found_by_class(TABLE, error) or INTERNAL


def headers_of(error: BaseException) -> dict[str, str]:  # noqa: PLR0911  # a table
    """Return the headers that the reply to this error carries beside those of every problem."""
    match error:
        case MethodNotAllowed():
            return {"Allow": error.allow}
        case UnsupportedMediaType():
            return {error.header: error.named}
        case errors.PreconditionFailed(version=int() as version):
            return {"ETag": f'"{version}"'}
        case errors.Unauthorized() | errors.Forbidden(scope=str()):
            return {"WWW-Authenticate": _challenge(error)}
        case errors.RateLimited():
            return {"Retry-After": str(error.retry_after), **error.told}
        case errors.ReceiptsFull():
            return {"Retry-After": RECEIPTS_AFTER}
        case errors.Unavailable() | errors.InProgress():
            return {"Retry-After": RETRY_AFTER}
        case _:
            return {}


def _challenge(error: errors.Unauthorized | errors.Forbidden) -> str:
    """Return what tells a client how to show who it is (RFC 6750, 3)."""
    told = 'Bearer realm="guidsvc"'
    if isinstance(error, errors.Forbidden):
        return f'{told}, error="insufficient_scope", scope="{error.scope}"'
    return f'{told}, error="invalid_token"' if error.invalid else told


def render(error: BaseException, request_id: str, where: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """Render the body of the reply to this error, as JSON; `where` is added to it."""
    return render_brief(error, request_id, _members(error) | dict(where))


def render_brief(error: BaseException, request_id: str, where: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """Render what every problem has, without what is particular to this one."""
    code, status, title = problem_of(error)
    head = {"type": f"/problems/{code}", "title": title, "status": status, "code": code}
    return to_json(head | {"detail": _detail(error), "request_id": request_id} | dict(where))


def _detail(error: BaseException) -> str:
    match error:
        case errors.InvalidRequest():
            return "What is wrong is listed in errors."
        case errors.Unavailable():
            return f"{_why(error)} Nothing was changed: try again."
        case errors.OutcomeUnknown():
            return "The write was sent and no answer came: it may or may not have happened. Read before trying again."
        case _ if problem_of(error) is INTERNAL:
            return "The request could not be served. Its request_id finds what happened in the log."
        case _:
            return str(error)


def _why(error: errors.Unavailable) -> str:
    match error:
        case errors.Overloaded():
            return "The service has more to do than it can do in time."
        case errors.DeadlineExceeded():
            return "It took longer than a request may."
        case _:
            return "A part that this request needs does not answer."


def _members(error: BaseException) -> dict[str, Any]:
    match error:
        case errors.InvalidRequest():
            return {"errors": [_fault(fault) for fault in error.faults]}
        case errors.PreconditionFailed(wire=bytes() as wire):
            return {"record": from_json(wire)}
        case errors.Expired():
            return {"expired_at": str(error.expired_at), "renewable_until": str(error.renewable_until)}
        case _:
            return {}


def _fault(fault: InvalidField) -> dict[str, str]:
    return _where(fault) | {"detail": fault.detail}


def _where(fault: InvalidField) -> dict[str, str]:
    if fault.header is not None:
        return {"header": fault.header}
    return {"pointer": fault.pointer} if fault.parameter is None else {"parameter": fault.parameter}
