"""Problem details (RFC 9457): the one table from error classes to statuses, and their rendering.

The table also covers subclasses. An error without a row is an internal error: the client learns only the request id.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic_core import to_json

from guidsvc import errors
from guidsvc.domain.leases.errors import ExpiresTooSoon, LifeLimitReached
from guidsvc.domain.record import EXAMPLE
from guidsvc.errors import InvalidField, found_by_class
from guidsvc.http.constants import RETRY_AFTER
from guidsvc.http.errors import (
    HeadersTooLarge,
    MethodNotAllowed,
    MisdirectedRequest,
    NoSuchPath,
    NotImplementedHere,
    TooEarly,
    TooLarge,
    UnsupportedMediaType,
    VersionNotSupported,
)

CONTENT_TYPE = "application/problem+json"
RECEIPTS_AFTER = "60"
"""`Retry-After` of `receipts-full`, in seconds: the interval at which stored receipts are counted."""

STREAMS_AFTER = "5"
"""`Retry-After` of `too-many-streams`, in seconds."""

MAX_CLAUSE_BYTES, CUT_CHARACTERS = 280, 40
"""Maximum size of the first error in the `detail` of an invalid request, as JSON, and where a longer one is cut. The
brief result of an operation in a batch has room for it; the whole is in `errors`."""
CLASSES = 256
"""Number of error classes whose problem type is remembered: more than there are."""
_CREATION = (
    f"Callers that may write can create it: PUT a body such as {json.dumps({'user': EXAMPLE['user']})} to its path. If "
    "that PUT gets 404 too, another owner has it: choose another GUID."
)
"""The hint after the reason of a 404. It is the same for callers that may only read, and after a failed PUT."""
_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_UNNAMED = "it is too long, has special characters or looks like an API key"
"""Why a sentence does not repeat a name."""
_UNKNOWN = re.compile(r"is not a known (?P<kind>member|query parameter);")
_SECRET = re.compile(r"gs_|eyJ", re.IGNORECASE)


class Problem(NamedTuple):
    """A problem type: its code, which is part of the contract, its status and its title."""

    code: str
    status: int
    title: str


INTERNAL = Problem("internal", 500, "Internal error")
_NOT_FOUND = Problem("not-found", 404, "Not found")
_TOO_LARGE = Problem("too-large", 413, "The body is too large")

TABLE: Mapping[type[Exception], Problem] = {
    errors.InvalidGuid: Problem("invalid-guid", 400, "Invalid GUID"),
    errors.InvalidRequest: Problem("invalid-request", 400, "Invalid request"),
    errors.NotFound: _NOT_FOUND,
    errors.NoSuchKey: _NOT_FOUND,
    NoSuchPath: _NOT_FOUND,
    MethodNotAllowed: Problem("method-not-allowed", 405, "Method not allowed"),
    NotImplementedHere: Problem("not-implemented", 501, "Not implemented"),
    VersionNotSupported: Problem("http-version-not-supported", 505, "HTTP version not supported"),
    errors.Expired: Problem("expired", 410, "The GUID has expired"),
    LifeLimitReached: Problem("life-limit", 409, "The limit of the life is reached"),
    ExpiresTooSoon: Problem("expires-too-soon", 409, "The GUID expires too soon"),
    errors.KeyNotActive: Problem("key-ended", 409, "The API key is no longer valid"),
    errors.PreconditionFailed: Problem("precondition-failed", 412, "The precondition failed"),
    errors.PreconditionRequired: Problem("precondition-required", 428, "A precondition is required"),
    errors.InProgress: Problem("in-progress", 409, "The request is still in progress"),
    errors.EventsGone: Problem("events-gone", 410, "The events are no longer kept"),
    errors.TooManyStreams: Problem("too-many-streams", 429, "Too many streams of events"),
    errors.IdempotencyMismatch: Problem(
        "idempotency-mismatch", 422, "The idempotency key was used for another request"
    ),
    errors.ReceiptsFull: Problem("receipts-full", 429, "The storage for idempotency keys is full"),
    TooLarge: _TOO_LARGE,
    errors.SpaceUsed: _TOO_LARGE,
    MisdirectedRequest: Problem("misdirected-request", 421, "The host name is not accepted"),
    TooEarly: Problem("too-early", 425, "The request may be a replay"),
    HeadersTooLarge: Problem("headers-too-large", 431, "The request head is too large"),
    UnsupportedMediaType: Problem("unsupported-media-type", 415, "Unsupported media type"),
    errors.Unauthorized: Problem("unauthorized", 401, "Missing or invalid credentials"),
    errors.Forbidden: Problem("forbidden", 403, "Not permitted, or disabled"),
    errors.QuotaExceeded: Problem("quota-exceeded", 403, "The quota is exceeded"),
    errors.RateLimited: Problem("rate-limited", 429, "Too many requests"),
    errors.Unavailable: Problem("unavailable", 503, "Service unavailable; nothing was changed"),
    errors.OutcomeUnknown: Problem("outcome-unknown", 504, "The outcome is unknown"),
}


def problem_of(error: BaseException) -> Problem:
    """Return the problem type of an error."""
    return _kind_of(type(error))  # type: ignore[arg-type]  # mypy misjudges the hash of a class


def kind_of(error: type[BaseException]) -> Problem:
    """Return the problem type of an error class."""
    return _kind_of(error)  # type: ignore[arg-type]  # see `problem_of`


@lru_cache(CLASSES)
def _kind_of(error: type[BaseException]) -> Problem:
    return found_by_class(TABLE, error) or INTERNAL


def headers_of(error: BaseException) -> dict[str, str]:  # noqa: PLR0911  # a table
    """Return the headers of the response to this error, in addition to those of every problem."""
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
            return {"Retry-After": str(error.retry_after), **error.limit_headers}
        case errors.ReceiptsFull():
            return {"Retry-After": RECEIPTS_AFTER}
        case errors.TooManyStreams():
            return {"Retry-After": STREAMS_AFTER}
        case errors.Unavailable() | errors.InProgress():
            return {"Retry-After": RETRY_AFTER}
        case _:
            return {}


def _challenge(error: errors.Unauthorized | errors.Forbidden) -> str:
    """Return the authentication challenge (RFC 6750, 3)."""
    challenge = 'Bearer realm="guidsvc"'
    if isinstance(error, errors.Forbidden):
        return f'{challenge}, error="insufficient_scope", scope="{error.scope}"'
    return f'{challenge}, error="invalid_token"' if error.invalid else challenge


def render(
    error: BaseException, request_id: str, extra_members: Mapping[str, Any] = MappingProxyType({}), base: str = ""
) -> bytes:
    """Render the problem of this error as JSON, with the members of `extra_members` added.

    `base` is the address of the service, for an absolute `type`. Without it, `type` is a path, which clients resolve
    against the URL of their request (RFC 9457, 3.1.1).
    """
    problem = render_brief(error, request_id, members_without_record(error) | dict(extra_members), base)
    if isinstance(error, errors.PreconditionFailed) and error.wire is not None:
        return b'%b,"record":%b}' % (problem[:-1], error.wire)  # as it is: large metadata takes long to decode
    return problem


def render_brief(
    error: BaseException, request_id: str, extra_members: Mapping[str, Any] = MappingProxyType({}), base: str = ""
) -> bytes:
    """Render only the members that every problem has, with the members of `extra_members` added."""
    code, status, title = problem_of(error)
    members = {
        "type": f"{base}/problems/{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": _detail(error),
        "request_id": request_id,
    }
    members.update(extra_members)
    return to_json(members)


def log_members(error: BaseException) -> dict[str, str]:
    """Return the log members of an error: its code, the place of the first fault in the request, and the reason."""
    problem = problem_of(error)
    if isinstance(error, errors.InvalidRequest):
        return {"code": problem.code} | _location(error.faults[0]) | {"reason": _logged_reason(error.faults[0])}
    return {"code": problem.code, "reason": type(error).__name__ if problem is INTERNAL else str(error)}


def _logged_reason(fault: InvalidField) -> str:
    """Return the detail of a fault, with its subject if that is the whole body, which no other member names."""
    is_of_body = not (fault.pointer or fault.parameter or fault.header or fault.is_clause)
    return f"The body {fault.detail}" if is_of_body else fault.detail


def _detail(error: BaseException) -> str:
    match error:
        case errors.InvalidRequest():
            return _summary(error.faults)
        case errors.NotFound(has_hint=False):
            return f"{error} {_CREATION}"
        case errors.Unavailable() if not isinstance(error, errors.NotReady):  # which no request for a change gets
            return f"{_reason(error)} Nothing was changed; try again."
        case errors.OutcomeUnknown():
            return _doubt(error)
        case _ if problem_of(error) is INTERNAL:
            return "An internal error occurred. Report the request_id to the operators: the log has the details."
        case _:
            return str(error)


def _doubt(error: errors.OutcomeUnknown) -> str:
    """Return the unknown outcome, and how the client can determine it."""
    if error.is_repeatable and error.guid is None:
        return (
            "The request may have been done, but its response could not be stored. Repeat the request with its "
            "Idempotency-Key: nothing is done twice."
        )
    if error.guid is None:
        return "The store did not confirm the write, which may or may not take effect. Read before you try again."
    return (
        f"The store did not confirm the creation of GUID {error.guid}, which may or may not take effect. Repeat the "
        "request with its Idempotency-Key; if it has none, read the GUID before you try again."
    )


def _summary(faults: Sequence[InvalidField]) -> str:
    """Return the first fault as a sentence, with the number of others."""
    first, others = faults[0], len(faults) - 1
    clause = _clause(first)
    if len(to_json(clause)) > MAX_CLAUSE_BYTES:
        clause = f"{clause[:CUT_CHARACTERS]}..."
    sentence = f"{clause[0].upper()}{clause[1:]}"
    if not others:
        return sentence if sentence.endswith(("?", ".")) else f"{sentence}."
    return f"{sentence} (and {others} more {'errors' if others > 1 else 'error'}, listed in `errors`)."


def _clause(fault: InvalidField) -> str:
    """Return a fault with its subject, or with a note if the subject is an unknown name that must not be repeated."""
    if fault.is_clause:
        return fault.detail
    name = fault.pointer.removeprefix("/") if fault.parameter is None else fault.parameter
    if (unknown := _UNKNOWN.match(fault.detail)) and not is_quotable(name):
        place = "body" if fault.parameter is None else "query"
        kind = unknown["kind"].removeprefix("query ")
        return f"the {place} has an unknown {kind}; remove it. Its name is not shown: {_UNNAMED}"
    return f"{_subject(fault)} {fault.detail}"


def _subject(fault: InvalidField) -> str:
    """Return the place of a fault in words, without any text that may be a secret."""
    match fault:
        case InvalidField(header=str() as header):
            return f"the header `{header}`"
        case InvalidField(parameter=str() as parameter):
            return (
                f"`{parameter}`" if is_quotable(parameter) else f"a query parameter (its name is not shown: {_UNNAMED})"
            )
        case InvalidField(pointer=""):
            return "the body"
    name = fault.pointer.removeprefix("/")
    return f"`{name}`" if is_quotable(name) else f"a member of the body (its name is not shown: {_UNNAMED})"


def is_quotable(name: str) -> bool:
    """Return whether a sentence may contain this name: it is short and plain, and is not a key or a token."""
    return _PLAIN.fullmatch(name) is not None and not may_be_secret(name)


def may_be_secret(text: str) -> bool:
    """Return whether a text looks as if it contained a key or a token."""
    return _SECRET.search(text) is not None


def _reason(error: errors.Unavailable) -> str:
    match error:
        case errors.Overloaded():
            return "The service is overloaded."
        case errors.TooManyConnections():
            return "The service has too many connections."
        case errors.ShuttingDown():
            return "The service is shutting down."
        case errors.DeadlineExceeded():
            return "The request exceeded its time limit."
        case _:
            return "A component that this request needs is unavailable."


def members_without_record(error: BaseException) -> dict[str, Any]:  # noqa: PLR0911  # a table
    """Return the members of an error beside those that every problem has, but not the record of a precondition."""
    match error:
        case errors.InvalidRequest():
            return {"errors": [_fault(fault) for fault in error.faults]}
        case errors.NotReady():
            return {"ready": False, **error.parts}
        case LifeLimitReached() | ExpiresTooSoon():
            return _lease_members(error)
        case errors.EventsGone():
            return {"reason": error.reason, "oldest": error.oldest, "now": error.now}
        case errors.OutcomeUnknown(guid=str() as guid):
            return {"guid": guid}
        case errors.Expired():
            return {"expired_at": str(error.expired_at), "renewable_until": str(error.renewable_until)}
        case _:
            return {}


def _lease_members(error: LifeLimitReached | ExpiresTooSoon) -> dict[str, str]:
    if isinstance(error, ExpiresTooSoon):
        return {name: str(getattr(error, name)) for name in ("expire", "left", "valid_for")}
    expire = {} if error.expire is None else {"expire": str(error.expire)}
    return expire | {"max_expire": str(error.max_expire)}


def _fault(fault: InvalidField) -> dict[str, str]:
    return _location(fault) | {"detail": fault.detail}


def _location(fault: InvalidField) -> dict[str, str]:
    if fault.header is not None:
        return {"header": fault.header}
    return {"pointer": fault.pointer} if fault.parameter is None else {"parameter": fault.parameter}
