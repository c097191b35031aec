"""A client of guidsvc, a registry of GUIDs that expire: sync and async.

sync        the sync client
aio         the async client, with the same methods
protocol    the HTTP interface without I/O: calls, when to repeat them, and flows of several calls
transport   the parts of httpx2 that both clients use: address, key, errors, limits
lease_state the state of a lease as its holder knows it
models      records, renewals, events
key_models  API keys
problems    the errors of the service, one class for each code
errors      all other errors, with a tree of all
"""

from guidsvc_client.aio.client import (
    AsyncClient,
)
from guidsvc_client.aio.leases import (
    AsyncLease,
)
from guidsvc_client.aio.lists import (
    AsyncEventFeed,
    AsyncRecordList,
)
from guidsvc_client.errors import (
    Disconnected,
    GuidsvcError,
    LeaseHeld,
    LeaseLost,
    NoResponse,
    RecordWithheld,
    RepeatedCursor,
    StreamTruncated,
    TimedOut,
    UnexpectedResponse,
    Unreachable,
)
from guidsvc_client.key_models import (
    Identity,
    IssuedKey,
    Key,
)
from guidsvc_client.models import (
    Event,
    FullRecord,
    Page,
    Readiness,
    Record,
    Renewal,
    Statistics,
)
from guidsvc_client.problems import (
    EventsGone,
    Expired,
    ExpiresTooSoon,
    Forbidden,
    HeadersTooLarge,
    HttpVersionNotSupported,
    IdempotencyMismatch,
    InProgress,
    InternalError,
    InvalidGuid,
    InvalidRequest,
    KeyEnded,
    LifeLimit,
    MethodNotAllowed,
    MethodNotImplemented,
    MisdirectedRequest,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    PreconditionRequired,
    Problem,
    QuotaExceeded,
    RateLimited,
    ReceiptsFull,
    TooEarly,
    TooLarge,
    TooManyStreams,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from guidsvc_client.protocol.batches import (
    Operation,
    Result,
)
from guidsvc_client.protocol.retrying import (
    Sent,
)
from guidsvc_client.sync.client import (
    Client,
)
from guidsvc_client.sync.leases import (
    Lease,
)
from guidsvc_client.sync.lists import (
    EventFeed,
    RecordList,
)
from guidsvc_client.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncEventFeed",
    "AsyncLease",
    "AsyncRecordList",
    "Client",
    "Disconnected",
    "Event",
    "EventFeed",
    "EventsGone",
    "Expired",
    "ExpiresTooSoon",
    "Forbidden",
    "FullRecord",
    "GuidsvcError",
    "HeadersTooLarge",
    "HttpVersionNotSupported",
    "IdempotencyMismatch",
    "Identity",
    "InProgress",
    "InternalError",
    "InvalidGuid",
    "InvalidRequest",
    "IssuedKey",
    "Key",
    "KeyEnded",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "LifeLimit",
    "MethodNotAllowed",
    "MethodNotImplemented",
    "MisdirectedRequest",
    "NoResponse",
    "NotFound",
    "Operation",
    "OutcomeUnknown",
    "Page",
    "PreconditionFailed",
    "PreconditionRequired",
    "Problem",
    "QuotaExceeded",
    "RateLimited",
    "Readiness",
    "ReceiptsFull",
    "Record",
    "RecordList",
    "RecordWithheld",
    "Renewal",
    "RepeatedCursor",
    "Result",
    "Sent",
    "Statistics",
    "StreamTruncated",
    "TimedOut",
    "TooEarly",
    "TooLarge",
    "TooManyStreams",
    "Unauthorized",
    "Unavailable",
    "UnexpectedResponse",
    "Unreachable",
    "UnsupportedMediaType",
    "__version__",
]
