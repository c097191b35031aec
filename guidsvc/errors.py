"""What can go wrong, in the words of the domain.

    GuidsvcError
    ├── InvalidGuid         this text is not a GUID
    ├── InvalidRequest      the request holds faults, all of them listed
    ├── NotFound            no such GUID
    ├── NoSuchKey           no such API key
    ├── KeyEnded            the API key was revoked or has expired, and is not changed any more
    ├── Expired             the GUID is known, and no longer valid
    ├── PreconditionFailed  the record is not as the request demands
    ├── PreconditionRequired  the request makes no demand where it must
    ├── IdempotencyMismatch   the key was given with another request
    ├── InProgress          the same request is being done
    ├── ReceiptsFull        no more requests with an idempotency key can be remembered
    ├── SpaceUsed           the temporary files of a request take all the space that they may
    ├── Unauthorized        who asks did not show who they are
    ├── Forbidden           who asks may not do that
    ├── QuotaExceeded       their owner has as many live GUIDs as it may have
    ├── RateLimited         they ask more often than they may
    ├── Unavailable         nothing was changed, try again
    │   ├── StoreUnavailable
    │   │   ├── StoreReadOnly   it can be read, and takes no write
    │   │   │   └── StoreReplaced   its file was removed or replaced
    │   │   ├── TooLate         it was given up before it was sent to the store: it took too long
    │   │   └── Abandoned       and so was this: who asked for it has gone
    │   ├── Overloaded      there is more to do than can be done in time
    │   └── CacheUnavailable
    ├── OutcomeUnknown      a write was sent and no answer came
    ├── CorruptRecord       what is stored is not a record
    └── StartError          the service cannot start as it is set up
        └── NoStore         there is no store where a command is to find one

Nothing here knows HTTP: the one table from error to status is in `guidsvc.api.contract.problems`. A driver's own
exceptions never leave the file that imports the driver; they become one of these.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

_Value = TypeVar("_Value")
_Error = TypeVar("_Error", bound=BaseException)


def found_by_class(table: Mapping[type, _Value], error: type[BaseException]) -> _Value | None:
    """Return the value of an error class, or of the nearest of its bases that has one; None if none has."""
    return next((table[base] for base in error.__mro__ if base in table), None)


def detached(error: _Error) -> _Error:
    """Drop the traceback, the cause and the context of an error that is stored as a value, and return it.

    A traceback holds the frames that the error passed, with all of their variables. If one of these leads to the error,
    all of it stays in memory until the garbage collector runs.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class GuidsvcError(Exception):
    """The root of all of these."""


class InvalidGuid(GuidsvcError):
    """This text is not a GUID. The message says why, and what was meant where that is clear."""


class InvalidField(NamedTuple):
    """One thing that is wrong with a request.

    `pointer` is a JSON Pointer (RFC 6901) into the body, or the empty string for the body as a whole; where
    the fault is in the query or a header, `parameter` or `header` names that instead. `detail` says what is
    wrong in words that a client can act on.
    """

    pointer: str
    detail: str
    parameter: str | None = None
    header: str | None = None


class InvalidRequest(GuidsvcError):
    """The request holds `faults`: at least one, and all that were found."""

    def __init__(self, *faults: InvalidField) -> None:
        super().__init__(
            "; ".join(f"{fault.header or fault.parameter or fault.pointer} {fault.detail}".lstrip() for fault in faults)
        )
        self.faults = faults


class NotFound(GuidsvcError):
    """No such GUID: it never was, was deleted, or is past its retention."""

    def __init__(self, guid: str) -> None:
        super().__init__(f"No GUID {guid} is registered.")


class NoSuchKey(GuidsvcError):
    """No such API key. The message repeats nothing that could be a whole one."""


class KeyNotActive(GuidsvcError):
    """The API key is no longer good, and cannot be changed; `state` says why."""

    def __init__(self, key_id: str, state: str) -> None:
        why = "was revoked" if state == "revoked" else "has expired"
        super().__init__(f"Key {key_id} {why}, and cannot be rotated: create another.")
        self.state = state


class Expired(GuidsvcError):
    """The GUID is known and no longer valid; the message says how to renew it.

    `expired_at` and `renewable_until` are Unix seconds: between them the record can be renewed. A record that
    `is_revoked` was written with an expiry in the past, and is renewed only by a request that names a new expiry.
    """

    def __init__(self, guid: str, *, expired_at: int, renewable_until: int, is_revoked: bool = False) -> None:
        state, puts = ("was revoked", "PUT") if is_revoked else ("has expired", "PUT it,")
        super().__init__(
            f'GUID {guid} {state}. To renew it, {puts} or PATCH it with a future "expire", '
            f"before Unix time {renewable_until}."
        )
        self.expired_at = expired_at
        self.renewable_until = renewable_until
        self.is_revoked = is_revoked


class PreconditionFailed(GuidsvcError):
    """The record is not as the request demands.

    `version` and `wire` are the version of the record that there is, and what clients see of it; None if there is none.
    """

    def __init__(self, guid: str, version: int | None, wire: bytes | None) -> None:
        super().__init__(f"GUID {guid} does not exist." if version is None else f"GUID {guid} is at version {version}.")
        self.version = version
        self.wire = wire


class PreconditionRequired(GuidsvcError):
    """A change of an existing record must say which version it is a change of."""

    def __init__(self, guid: str) -> None:
        super().__init__(f"GUID {guid} exists: say with If-Match which version is to be changed, or * for any.")


class IdempotencyMismatch(GuidsvcError):
    """The idempotency key was given with another request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was sent with another request: take a new key for a new request.")


class InProgress(GuidsvcError):
    """The same request, under the same idempotency key, is being done."""

    def __init__(self) -> None:
        super().__init__("The first request with this Idempotency-Key is still being done: ask again for its answer.")


class ReceiptsFull(GuidsvcError):
    """No more requests with an idempotency key can be remembered. Nothing was done."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The requests with an Idempotency-Key that are remembered, for 24 hours each, take all of their {most} "
            "bytes. Nothing was done: send it without the key, use PUT with a GUID of your own, or try again later."
        )


class SpaceUsed(GuidsvcError):
    """The temporary files of a request take all the space that they may."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The results of one batch, and what it only validates, take at most {most} bytes. This was not done: "
            "send it, and what follows, in another batch."
        )


class Unauthorized(GuidsvcError):
    """Who asks did not show who they are: with nothing at all, or with what is `invalid`."""

    def __init__(self, detail: str, *, invalid: bool) -> None:
        super().__init__(detail)
        self.invalid = invalid


class Forbidden(GuidsvcError):
    """Who asks may not do that: they lack a `scope`, or, where it is None, nobody may."""

    def __init__(self, scope: str | None, detail: str | None = None) -> None:
        super().__init__(detail or f"This takes the scope {scope}, which the key has not.")
        self.scope = scope


class QuotaExceeded(GuidsvcError):
    """The owner has as many live GUIDs as it may have; or as many are `kept`, live or expired, as may be."""

    def __init__(self, quota: int, *, kept: int | None = None) -> None:
        super().__init__(
            f"There are {quota} live GUIDs already, which is all that this owner may have."
            if kept is None
            else f"{kept} GUIDs of this owner are kept already, live or expired, which is all that may be: delete some."
        )
        self.quota = quota


class RateLimited(GuidsvcError):
    """They ask more often than they may; `retry_after` is in how many seconds they may again, at least 1.

    `told` is what tells of the limit, by the names of headers.
    """

    def __init__(self, detail: str, retry_after: int, told: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.told = told


class Unavailable(GuidsvcError):
    """A part that is needed cannot answer. Nothing was changed: the same call may be made again."""


class StoreUnavailable(Unavailable):
    """The store cannot answer."""


class StoreReadOnly(StoreUnavailable):
    """The store can be read, and takes no write."""


class StoreReplaced(StoreReadOnly):
    """A file of the store was removed or replaced while it was open: what is written there would be lost."""


class DeadlineExceeded(StoreUnavailable):
    """It took longer than a request may, and was given up before the store had it."""


class ClientDisconnected(StoreUnavailable):
    """Who asked for it has gone, and it was given up before the store had it."""


class Overloaded(Unavailable):
    """There is more to do than can be done in time."""


class CacheUnavailable(Unavailable):
    """The cache cannot answer."""


class OutcomeUnknown(GuidsvcError):
    """A write was sent and no answer came: it may have happened, may yet happen, or may not."""


class CorruptRecord(GuidsvcError):
    """What is stored under this GUID is not a record."""


class StartError(GuidsvcError):
    """The service cannot start as it is set up. The message is one line that says what to change."""


class NoStore(StartError):
    """There is no store at `place`, and none is to be created."""

    def __init__(self, place: str) -> None:
        super().__init__(f"store_url: there is no store at {place}")
        self.place = place
