"""The exceptions of the client.

GuidsvcError
├── NoResponse            no complete response arrived
│   ├── Unreachable       there was no connection, so nothing was sent
│   ├── Disconnected      the connection broke off: the request may have taken effect
│   └── TimedOut          the response did not come in time: the request may have taken effect
├── UnexpectedResponse    the response is not one of guidsvc, for example that of a proxy
├── RepeatedCursor        a list would never end
├── StreamTruncated       a stream was cut off before its end
├── RecordWithheld        a write is done, but the key may not read the record
├── LeaseHeld             another client holds the lease
├── LeaseLost             the lease was lost, or may be
└── Problem               the service rejected the request; each code of the service has a class in `problems`
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidsvc_client.models import Record


class GuidsvcError(Exception):
    """Base class of all exceptions of the client."""


class NoResponse(GuidsvcError):
    """No complete response arrived. `request_id` is in the log of the service, if the request reached it."""

    def __init__(self, reason: str, request_id: str = "") -> None:
        super().__init__(f"{reason} (request {request_id})" if request_id else reason)
        self.request_id = request_id


class Unreachable(NoResponse):
    """There was no connection, so nothing was sent."""


class Disconnected(NoResponse):
    """The connection broke off. A request that changes something may have taken effect."""


class TimedOut(NoResponse):
    """The response did not come in time. A request that changes something may have taken effect."""


class UnexpectedResponse(GuidsvcError):
    """The response is not one of guidsvc, for example that of a proxy. The request may have taken effect."""

    def __init__(self, status: int, content: bytes) -> None:
        shown = content[:200].decode(errors="replace")
        super().__init__(f"the response, {status}, is not one of guidsvc; check the URL and the proxies: {shown!r}")
        self.status = status


class RepeatedCursor(GuidsvcError):
    """A page leads back to an earlier one: the list would never end."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the list {path} would never end: a page leads back to an earlier one; check the URL, the proxies and the "
            "log of the service"
        )


class StreamTruncated(GuidsvcError):
    """A stream was cut off before its end. Read it again from the beginning."""


class RecordWithheld(GuidsvcError):
    """The write is done, as `version`, but the response has no record: the key lacks the scope `read`."""

    def __init__(self, version: int | None) -> None:
        super().__init__("the write is done, but the response has no record; use a key with the scope read to get it")
        self.version = version


class LeaseHeld(GuidsvcError):
    """Another client holds the lease, with this `record`."""

    def __init__(self, record: "Record") -> None:
        super().__init__(f"{record.user!r} holds the lease {record.guid} until {record.expires_at:%Y-%m-%dT%H:%M:%SZ}")
        self.record = record


class LeaseLost(GuidsvcError):
    """The lease was lost, or may be. `__cause__` is the error of the last renewal, if there was one."""

    def __init__(self, guid: str, reason: str) -> None:
        super().__init__(f"the lease {guid} is lost: {reason}; stop the work, because another client may hold it now")
        self.guid = guid
