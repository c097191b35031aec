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
    ├── EventsGone            the feed of events cannot continue at a cursor
    ├── EventsTrimmed         entries in the range of a read were removed from the event log
    ├── ForgedCursor          a cursor of events names this store, which never issued it
    ├── TooManyStreams        too many streams of events are open
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
        ├── InvalidSettings   some settings are unknown or invalid
        │   └── UsageError    a flag is unknown, or lacks its value
        ├── NoStore           a command expects an existing store, but found none
        ├── SettingsChanged   a worker has other settings than the other workers
        └── StoreInUse        another process has the store for itself

The package does not know HTTP: `guidsvc.api.contract.problems` maps errors to statuses. A driver's exceptions never
leave the file that imports the driver; that file converts them to these.
"""

from guidsvc.errors.access import Forbidden, KeyNotActive, NoSuchKey, Unauthorized
from guidsvc.errors.availability import (
    CacheUnavailable,
    ClientDisconnected,
    Contention,
    DeadlineExceeded,
    LeaseExpired,
    MetricsUnavailable,
    NotReady,
    OutcomeUnknown,
    Overloaded,
    ShuttingDown,
    StoreReadOnly,
    StoreReplaced,
    StoreUnavailable,
    TemporaryFileUnavailable,
    TooManyConnections,
    Unavailable,
)
from guidsvc.errors.base import GuidsvcError, found_by_class
from guidsvc.errors.events import EventsGone, EventsTrimmed, ForgedCursor, TooManyStreams
from guidsvc.errors.limits import QuotaExceeded, RateLimited, ReceiptsFull, SpaceUsed
from guidsvc.errors.records import CorruptRecord, Expired, NotFound, PreconditionFailed, PreconditionRequired
from guidsvc.errors.requests import IdempotencyMismatch, InProgress, InvalidField, InvalidGuid, InvalidRequest
from guidsvc.errors.start import (
    InvalidSettings,
    NoStore,
    SettingsChanged,
    StartError,
    StoreInUse,
    UsageError,
    write_fault,
)

__all__ = [
    "CacheUnavailable",
    "ClientDisconnected",
    "Contention",
    "CorruptRecord",
    "DeadlineExceeded",
    "EventsGone",
    "EventsTrimmed",
    "Expired",
    "Forbidden",
    "ForgedCursor",
    "GuidsvcError",
    "IdempotencyMismatch",
    "InProgress",
    "InvalidField",
    "InvalidGuid",
    "InvalidRequest",
    "InvalidSettings",
    "KeyNotActive",
    "LeaseExpired",
    "MetricsUnavailable",
    "NoStore",
    "NoSuchKey",
    "NotFound",
    "NotReady",
    "OutcomeUnknown",
    "Overloaded",
    "PreconditionFailed",
    "PreconditionRequired",
    "QuotaExceeded",
    "RateLimited",
    "ReceiptsFull",
    "SettingsChanged",
    "ShuttingDown",
    "SpaceUsed",
    "StartError",
    "StoreInUse",
    "StoreReadOnly",
    "StoreReplaced",
    "StoreUnavailable",
    "TemporaryFileUnavailable",
    "TooManyConnections",
    "TooManyStreams",
    "Unauthorized",
    "Unavailable",
    "UsageError",
    "found_by_class",
    "write_fault",
]
