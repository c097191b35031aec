"""Errors of components that do not respond, or not in time."""

from collections.abc import Mapping
from types import MappingProxyType

from guidsvc.errors.base import GuidsvcError


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
    """A write was sent but no response came. The write may have been applied, may still be, or may never be.

    `guid` is the GUID of the record if the write is a creation under a generated GUID: the client does not know it. If
    the request `is_repeatable`, it takes effect once, however often it is sent with its Idempotency-Key.
    """

    def __init__(self, detail: str = "", *, guid: str | None = None, is_repeatable: bool = False) -> None:
        super().__init__(detail)
        self.guid = guid
        self.is_repeatable = is_repeatable
