"""Domain errors: the exceptions that services, stores and caches raise.

    GuidsvcError
    ├── InvalidGuid           the text is not a GUID
    ├── InvalidRequest        the request is invalid; lists every fault found
    ├── NotFound              unknown GUID
    ├── NoSuchKey             unknown API key
    ├── KeyNotActive          the API key is revoked or expired, and can no longer be changed
    ├── Expired               the GUID exists but is no longer valid
    ├── PreconditionFailed    the record does not match the precondition of the request
    ├── PreconditionRequired  the request lacks a required precondition
    ├── IdempotencyMismatch   the idempotency key was used for a different request
    ├── InProgress            the same request is still in progress
    ├── ReceiptsFull          the storage for idempotency receipts is full
    ├── SpaceUsed             the temporary files of one request have reached their size limit
    ├── Unauthorized          credentials are missing or invalid
    ├── Forbidden             the caller lacks permission
    ├── QuotaExceeded         the owner has reached its quota of GUIDs
    ├── RateLimited           the caller has exceeded a rate limit
    ├── Unavailable           nothing was changed; the call may be retried
    │   ├── StoreUnavailable          the store cannot respond
    │   │   └── StoreReadOnly         the store accepts reads but rejects writes
    │   │       └── StoreReplaced     the store's file was removed or replaced
    │   ├── CacheUnavailable          the cache cannot respond
    │   ├── MetricsUnavailable        the metrics files of the processes cannot be read
    │   ├── TemporaryFileUnavailable  a temporary file of a batch cannot be written
    │   ├── Overloaded                the service is overloaded
    │   ├── TooManyConnections        the limit of connections is reached
    │   ├── ShuttingDown              the service is about to end, or has ended
    │   ├── NotReady                  the service is not ready for requests
    │   ├── Contention                concurrent writers won every race for a record, a key or a ledger
    │   ├── LeaseExpired              a lease ended before the write under it could take effect
    │   ├── DeadlineExceeded          the deadline of the request passed before the call was sent
    │   └── ClientDisconnected        the client disconnected before the call was sent
    ├── OutcomeUnknown        a write was sent but no response came
    ├── CorruptRecord         the stored data is not a valid record
    └── StartError            the service cannot start with this configuration
        └── NoStore           a command expects an existing store, but found none

This module does not know HTTP: `guidsvc.api.contract.problems` maps errors to statuses. A driver's exceptions never
leave the file that imports the driver; that file converts them to these.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple, TypeVar

_Value = TypeVar("_Value")


def found_by_class(table: Mapping[type, _Value], error: type[BaseException]) -> _Value | None:
    """Return the table's value for an error class or its nearest base class, or None if the table has neither."""
    return next((table[base] for base in error.__mro__ if base in table), None)


def _rfc_3339(seconds: int) -> str:
    """Return a Unix time as people read it, such as 2027-01-01T00:00:00Z."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


class GuidsvcError(Exception):
    """Base class of all domain errors."""


class InvalidGuid(GuidsvcError):
    """The text is not a GUID. The message says why, and suggests the intended GUID if it is clear."""


class InvalidField(NamedTuple):
    """One fault in a request.

    `pointer` is a JSON Pointer (RFC 6901) into the body; the empty string means the whole body. For a fault in the
    query or a header, `parameter` or `header` names it instead. `detail` is an actionable message for the client: what
    the place must be or has wrong, without a subject, or, if `is_clause`, with a subject of its own.
    """

    pointer: str
    detail: str
    parameter: str | None = None
    header: str | None = None
    is_clause: bool = False


class InvalidRequest(GuidsvcError):
    """The request is invalid. `faults` lists every fault found, at least one."""

    def __init__(self, *faults: InvalidField) -> None:
        super().__init__(
            "; ".join(f"{fault.header or fault.parameter or fault.pointer} {fault.detail}".lstrip() for fault in faults)
        )
        self.faults = faults


class NotFound(GuidsvcError):
    """Unknown GUID: it never existed, was deleted, or is past its retention."""

    def __init__(self, guid: str) -> None:
        super().__init__(f"No GUID {guid} is registered.")


class NoSuchKey(GuidsvcError):
    """Unknown API key. The message never repeats text that could be a complete key."""


class KeyNotActive(GuidsvcError):
    """The API key is no longer valid and cannot be changed. `state` says why."""

    def __init__(self, key_id: str, state: str) -> None:
        why = "was revoked" if state == "revoked" else "has expired"
        super().__init__(f"Key {key_id} {why} and cannot be rotated; create a new key.")
        self.state = state


class Expired(GuidsvcError):
    """The GUID exists but is no longer valid. The message says how to renew it.

    The record is renewable from `expired_at` until `renewable_until`, both in Unix seconds. If `is_revoked`, the record
    was written with an expiry in the past, and only a request with a new expiry renews it. If `is_unchanged` too, that
    was its creation; otherwise its past expiry may come from its creation or from a later change.
    """

    def __init__(
        self, guid: str, *, expired_at: int, renewable_until: int, is_revoked: bool = False, is_unchanged: bool = False
    ) -> None:
        state, puts = f"expired at {_rfc_3339(expired_at)}", "PUT" if is_revoked else "PUT it,"
        if is_revoked:
            state += " (created with a past expiry)" if is_unchanged else " (revoked, or created with a past expiry)"
        super().__init__(
            f'GUID {guid} {state}. To renew it, {puts} or PATCH it with a future "expire", '
            f"before {_rfc_3339(renewable_until)} (Unix time {renewable_until})."
        )
        self.expired_at = expired_at
        self.renewable_until = renewable_until
        self.is_revoked = is_revoked


class PreconditionFailed(GuidsvcError):
    """The record does not match the precondition of the request.

    `version` and `wire` are the version and client representation of the current record, or None if it is absent.
    If `is_excluded`, the record is one that the request must not find (If-None-Match).
    """

    def __init__(self, guid: str, version: int | None, wire: bytes | None, *, is_excluded: bool = False) -> None:
        if version is None:
            reason = "does not exist"
        elif is_excluded:
            reason = "already exists; leave If-None-Match out to update it"
        else:
            reason = f'is at version {version}; read it again and send If-Match: "{version}"'
        super().__init__(f"GUID {guid} {reason}.")
        self.version = version
        self.wire = wire


class PreconditionRequired(GuidsvcError):
    """A change of an existing record must name the version that it changes."""

    def __init__(self, guid: str) -> None:
        super().__init__(f"GUID {guid} exists; send If-Match with the version to change, or with * for any version.")


class IdempotencyMismatch(GuidsvcError):
    """The idempotency key was used for a different request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for a different request; use a new key for a new request.")


class InProgress(GuidsvcError):
    """The first request with this idempotency key is still in progress."""

    def __init__(self) -> None:
        super().__init__(
            "The first request with this Idempotency-Key is still in progress; retry later to get its answer."
        )


class ReceiptsFull(GuidsvcError):
    """The storage for idempotency receipts is full. Nothing was done."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The answers to requests with an Idempotency-Key, stored for 24 hours, have reached their limit of {most} "
            "bytes. Nothing was done; send the request without the key, use PUT with your own GUID, or retry later."
        )


class SpaceUsed(GuidsvcError):
    """The temporary files of one request have reached their size limit."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The temporary files of the batch have reached their limit of {most} bytes. This operation was not done; "
            "send it, and those after it, in another batch."
        )


class Unauthorized(GuidsvcError):
    """Credentials are missing, or `invalid`."""

    def __init__(self, detail: str, *, invalid: bool) -> None:
        super().__init__(detail)
        self.invalid = invalid


class Forbidden(GuidsvcError):
    """The caller lacks the `scope` that the operation requires. None means that no scope permits it."""

    def __init__(self, scope: str | None, detail: str | None = None) -> None:
        super().__init__(
            detail
            or f"The key lacks the scope {scope}; make another: pdapt.py keys create --owner NAME --scopes {scope}"
        )
        self.scope = scope


class QuotaExceeded(GuidsvcError):
    """The owner has reached its quota of live GUIDs, or, with `stored_limit`, of stored GUIDs, live or expired."""

    def __init__(self, quota: int, *, stored_limit: int | None = None) -> None:
        super().__init__(
            f"The owner has {quota} live GUIDs, which is its quota; delete some, or wait until some expire."
            if stored_limit is None
            else f"The owner has {stored_limit} stored GUIDs, live or expired, which is its limit; delete some."
        )
        self.quota = quota


class RateLimited(GuidsvcError):
    """The caller has exceeded a rate limit. `retry_after` is the time until the next attempt, in seconds, at least 1.

    `limit_headers` maps header names to values that describe the limit.
    """

    def __init__(self, detail: str, retry_after: int, limit_headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.limit_headers = limit_headers


class Unavailable(GuidsvcError):
    """A required component cannot respond. Nothing was changed; the same call may be retried."""


class StoreUnavailable(Unavailable):
    """The store cannot respond. Slots, locks, leases and deadlines have errors of their own."""


class StoreReadOnly(StoreUnavailable):
    """The store accepts reads but rejects writes."""


class StoreReplaced(StoreReadOnly):
    """A file of the store was removed or replaced while open, so writes to it would be lost."""


class CacheUnavailable(Unavailable):
    """The cache cannot respond."""


class MetricsUnavailable(Unavailable):
    """The metrics files of the processes cannot be read."""


class TemporaryFileUnavailable(Unavailable):
    """A temporary file of a batch cannot be written."""


class Overloaded(Unavailable):
    """The service is overloaded: the request cannot be served in time."""


class TooManyConnections(Unavailable):
    """The limit of connections is reached."""


class ShuttingDown(Unavailable):
    """The service is about to end, or has ended."""


class NotReady(Unavailable):
    """The service is not ready for requests. `parts` holds the state of each part that it needs."""

    def __init__(self, reason: str, parts: Mapping[str, str | int] = MappingProxyType({})) -> None:
        super().__init__(reason)
        self.parts = parts


class Contention(Unavailable):
    """Concurrent writers won every race for a record, a key or a ledger, or held its lock for too long."""


class LeaseExpired(Unavailable):
    """A lease, or the window of a write, ended before the write under it could take effect."""


class DeadlineExceeded(Unavailable):
    """The deadline of the request passed before the call was sent to the store."""


class ClientDisconnected(Unavailable):
    """The client disconnected before the call was sent to the store."""


class OutcomeUnknown(GuidsvcError):
    """A write was sent but no response came. The write may have been applied, may still be, or may never be."""


class CorruptRecord(GuidsvcError):
    """The data stored under this GUID is not a valid record."""


class StartError(GuidsvcError):
    """The service cannot start with this configuration. The message is one line that says what to change."""


class NoStore(StartError):
    """No store exists at `location`, and the command must not create one."""

    def __init__(self, location: str) -> None:
        super().__init__(f"store_url: there is no store at {location}")
        self.location = location
