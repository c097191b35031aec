"""The problems of the service (RFC 9457), one class for each code.

A code that this version of the client does not know is a `Problem` itself, with the same attributes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from guidsvc_client.errors import GuidsvcError
from guidsvc_client.models import Document, Record, integer, text
from guidsvc_client.protocol.values import version_of

MAX_WAIT_SECONDS = 366 * 86_400
"""A longer `Retry-After` counts as this one."""


class Problem(GuidsvcError):
    """The service rejected the request.

    `code` is stable; `detail` is for people and may change. `errors` lists the invalid members of a request. `page` is
    the URL of the explanation. `retry_after` is in seconds. `members` has all members of the problem.
    """

    code: str = ""
    _INTEGERS: ClassVar[Sequence[str]] = ()
    """The members of this class that are numbers."""

    def __init__(self, members: Document, headers: Mapping[str, str], url: str = "") -> None:
        self.members = members
        self.code = text(members["code"])
        self.status: int = int(members["status"])
        self.title: str = text(members["title"])
        self.detail: str = text(members.get("detail", self.title))
        page: str = text(members["type"])
        self.page = f"{url}{page}" if page.startswith("/") else page
        self.request_id: str = text(members.get("request_id", ""))
        self.errors: Sequence[Mapping[str, str]] = members.get("errors", ())
        self.version = version_of(headers.get("etag"))
        self.retry_after = _seconds(headers.get("retry-after"))
        self._numbers = {name: integer(members.get(name)) for name in self._INTEGERS}
        super().__init__(f"{self.detail} ({self.code}, request {self.request_id}, explained at {self.page})")


class _WithRecord(Problem):
    """A problem that shows the current record, if the key may read it."""

    def __init__(self, members: Document, headers: Mapping[str, str], url: str = "") -> None:
        super().__init__(members, headers, url)
        document = members.get("record")
        self._record = None if document is None else Record.from_wire(document, self.version)

    @property
    def record(self) -> Record | None:
        """The current record, with its version."""
        return self._record


class InvalidGuid(Problem):
    """The GUID in the path is malformed."""

    code = "invalid-guid"


class InvalidRequest(Problem):
    """Path, query, headers or body are invalid; see `errors`."""

    code = "invalid-request"


class NotFound(Problem):
    """There is no such GUID, key or path."""

    code = "not-found"


class MethodNotAllowed(Problem):
    """The path does not support the method."""

    code = "method-not-allowed"


class MethodNotImplemented(Problem):
    """The service does not know the method, or the transfer coding of the body."""

    code = "not-implemented"


class HttpVersionNotSupported(Problem):
    """The service does not support the version of HTTP."""

    code = "http-version-not-supported"


class Expired(Problem):
    """The GUID has expired: at `expired_at`. It can be renewed until `renewable_until`. Both are Unix seconds."""

    code = "expired"
    _INTEGERS = ("expired_at", "renewable_until")

    @property
    def expired_at(self) -> int | None:
        """When the GUID expired."""
        return self._numbers["expired_at"]

    @property
    def renewable_until(self) -> int | None:
        """Until when a change with a future expiry renews it."""
        return self._numbers["renewable_until"]


class LifeLimit(Problem):
    """No write may give the GUID so long a life; the latest expiry is `max_expire`, in Unix seconds."""

    code = "life-limit"
    _INTEGERS = ("max_expire",)

    @property
    def max_expire(self) -> int | None:
        """The latest expiry."""
        return self._numbers["max_expire"]


class ExpiresTooSoon(Problem):
    """The GUID is valid, but only for `left` seconds, until `expire`."""

    code = "expires-too-soon"
    _INTEGERS = ("expire", "left")

    @property
    def expire(self) -> int | None:
        """The expiry, in Unix seconds."""
        return self._numbers["expire"]

    @property
    def left(self) -> int | None:
        """The seconds that are left."""
        return self._numbers["left"]


class PreconditionFailed(_WithRecord):
    """The record has another version than the request demands; `record` and `version` are the current ones."""

    code = "precondition-failed"


class PreconditionRequired(Problem):
    """The service requires a precondition: pass `if_match`."""

    code = "precondition-required"


class Unauthorized(Problem):
    """The key is missing, invalid, revoked or expired."""

    code = "unauthorized"


class Forbidden(Problem):
    """The key lacks the required scope."""

    code = "forbidden"


class KeyEnded(Problem):
    """The key to rotate is revoked or expired."""

    code = "key-ended"


class QuotaExceeded(Problem):
    """The owner has reached its quota of GUIDs."""

    code = "quota-exceeded"


class RateLimited(Problem):
    """The key has exceeded its rate limit."""

    code = "rate-limited"


class TooManyStreams(Problem):
    """Too many streams of events are open."""

    code = "too-many-streams"


class InProgress(Problem):
    """An earlier request with the same idempotency key is still in progress."""

    code = "in-progress"


class IdempotencyMismatch(Problem):
    """The idempotency key was used for another request."""

    code = "idempotency-mismatch"


class ReceiptsFull(Problem):
    """The storage for idempotency keys is full. Nothing was done."""

    code = "receipts-full"


class TooLarge(Problem):
    """The body is too large, or a result does not fit."""

    code = "too-large"


class MisdirectedRequest(Problem):
    """The service does not accept the host name of the URL."""

    code = "misdirected-request"


class TooEarly(Problem):
    """The request came as TLS early data; nothing was done."""

    code = "too-early"


class HeadersTooLarge(Problem):
    """The request line and the headers are too large."""

    code = "headers-too-large"


class UnsupportedMediaType(Problem):
    """The service does not accept the content type."""

    code = "unsupported-media-type"


class EventsGone(Problem):
    """The feed no longer has all events after the cursor. The `reason` is trimmed, rewound, or another-store.

    Read all GUIDs again, then follow from `now`; or follow from `oldest`, which leaves a gap.
    """

    code = "events-gone"

    def __init__(self, members: Document, headers: Mapping[str, str], url: str = "") -> None:
        super().__init__(members, headers, url)
        self._reason, self._oldest, self._now = (text(members[name]) for name in ("reason", "oldest", "now"))

    @property
    def reason(self) -> str:
        """Why the feed cannot continue."""
        return self._reason

    @property
    def oldest(self) -> str:
        """The cursor of the oldest event."""
        return self._oldest

    @property
    def now(self) -> str:
        """The cursor of the newest event."""
        return self._now


class InternalError(Problem):
    """A fault in the service. A change may have taken effect."""

    code = "internal"


class Unavailable(Problem):
    """The service cannot respond now. Nothing was changed."""

    code = "unavailable"


class OutcomeUnknown(_WithRecord):
    """A write may have taken effect, or may not. Read the record before you write again.

    `record` is the current record if a repetition met another version than required, perhaps that of its own first
    attempt.
    """

    code = "outcome-unknown"

    @property
    def guid(self) -> str | None:
        """The generated GUID under which a record may have been created."""
        guid = self.members.get("guid")
        return None if guid is None else str(guid)


def classes_of(base: type[Problem] = Problem) -> dict[str, type[Problem]]:
    """Return the class of each code."""
    found = {base.code: base} if base.code else {}
    for each in base.__subclasses__():
        found |= classes_of(each)
    return found


CLASSES: Mapping[str, type[Problem]] = classes_of()


def problem_of(members: Document, headers: Mapping[str, str], url: str = "") -> Problem:
    """Return the exception of a problem document of the service at a URL."""
    return CLASSES.get(members["code"], Problem)(members, headers, url)


def unknown_outcome(problem: Problem) -> OutcomeUnknown:
    """Return the error for a rejected repetition whose first attempt may have taken effect."""
    detail = f"An earlier attempt of this request may have taken effect; its repetition was rejected: {problem.detail}"
    members: dict[str, Any] = dict(problem.members) | {"code": OutcomeUnknown.code, "detail": detail}
    members["type"] = problem.page
    headers = {} if problem.version is None else {"etag": f'"{problem.version}"'}
    return OutcomeUnknown(members, headers)


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None or re.fullmatch("[0-9]+", retry_after) is None:
        return None
    return float(min(int(retry_after[:10]), MAX_WAIT_SECONDS))
