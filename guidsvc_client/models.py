"""The data of the service, as frozen dataclasses. Times are integers as on the wire; `expires_at` is a datetime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from datetime import UTC, datetime
from typing import Any, Generic, Literal, Self, TypeVar, cast

from guidsvc_client.protocol.values import Moment, expiry_of

Document = Mapping[str, Any]
"""A JSON object."""


MAX_EXPIRE = 253_402_300_799
"""The latest expiry: the last second of the year 9999, in Unix time."""


def integer(digits: str | int | None) -> int | None:
    """Return the number that a string of digits stands for; None for null and for an absent member."""
    return None if digits is None else int(digits)


def expiry(digits: str | int) -> int:
    """Return an expiry in Unix seconds. ValueError if there is no such time."""
    seconds = int(digits)
    if not 0 <= seconds <= MAX_EXPIRE:
        raise ValueError(f"{digits!r} is no time in Unix seconds")
    return seconds


def text(value: object) -> str:
    """Return a value that must be a text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def cursor_of(document: Mapping[str, Any]) -> str | None:
    """Return the cursor of the page after this one, which must be a text, or None if this is the last."""
    return None if document["next"] is None else text(document["next"])


def mapping(value: Any) -> Document:
    """Return a value that must be a JSON object."""
    if type(value) is not dict:
        raise TypeError(f"{value!r} is no object")
    return cast("Document", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A GUID, its user, its expiry in Unix seconds, and its metadata.

    `version` is None where the service does not send it: in lists and streams without `full`; and where a proxy weakens
    or removes the entity tags of responses. A FullRecord always has it.
    """

    guid: str
    user: str
    expire: int
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: int | None = None

    @property
    def expires_at(self) -> datetime:
        """The expiry as a time of UTC."""
        return datetime.fromtimestamp(self.expire, UTC)

    def replace(
        self, *, user: str | None = None, expire: Moment | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """Return a copy with other values. `metadata` replaces all metadata."""
        return replaced(
            self,
            user=self.user if user is None else user,
            expire=self.expire if expire is None else expiry_of(expire),
            metadata=self.metadata if metadata is None else metadata,
        )

    @classmethod
    def from_wire(cls, document: Document, version: int | None = None) -> Self:
        """Return the record of a response, or a FullRecord if this is that class."""
        return cls(**cls.members(document, version))

    @classmethod
    def members(cls, document: Document, version: int | None) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "guid": text(document["guid"]),
            "user": text(document["user"]),
            "expire": expiry(document["expire"]),
            "metadata": mapping(document.get("metadata", {})),
            "version": integer(document.get("version", version)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FullRecord(Record):
    """A record with all its members: `created` and `updated` in Unix milliseconds, the other times in Unix seconds.

    `renew_at` is None for a revoked record, `max_expire` if there is no limit, and `owner` if the key may not see it.
    """

    version: int = field()  # it has no default here
    created: int
    updated: int
    purge_at: int
    renew_at: int | None
    max_expire: int | None
    state: Literal["live", "expired"]
    owner: str | None

    @classmethod
    def members(cls, document: Document, version: int | None) -> dict[str, Any]:
        times = ("created", "updated", "purge_at", "renew_at", "max_expire")
        full = {name: integer(document.get(name)) for name in times}
        version = int(document["version"])
        return Record.members(document, version) | full | {"state": document["state"], "owner": document.get("owner")}


RecordT_co = TypeVar("RecordT_co", bound=Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Page(Generic[RecordT_co]):
    """A page of a list."""

    items: Sequence[RecordT_co]
    next: str | None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Renewal:
    """The result of a renewal: `granted` seconds from the renewal to `expire`. `renew_at` says when to renew again."""

    guid: str
    expire: int
    is_renewed: bool
    granted: int
    is_capped: bool
    max_expire: int | None
    renew_at: int
    version: int | None = None

    @classmethod
    def from_wire(cls, document: Document, version: int | None = None) -> Self:
        """Return the renewal of a response."""
        return cls(
            guid=text(document["guid"]),
            expire=expiry(document["expire"]),
            is_renewed=document["renewed"],
            granted=int(document["granted"]),
            is_capped=document["capped"],
            max_expire=integer(document["max_expire"]),
            renew_at=int(document["renew_at"]),
            version=version,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a GUID at the time `at`, in Unix milliseconds. The same event always has the same `id`.

    `cursor` is the place after the event. `record` is the record after the change, or before a deletion. `details` has
    the members that only some types of events have, as on the wire. New types may come: ignore unknown ones.
    """

    cursor: str
    id: str
    type: str
    at: int
    guid: str
    version: int
    record: Record | None
    details: Document

    @classmethod
    def from_wire(cls, document: Document) -> Self:
        """Return an event of a page."""
        details = dict(document)
        record, version = details.pop("record", None), int(details.pop("version"))
        return cls(
            cursor=text(details.pop("cursor")),
            id=text(details.pop("id")),
            type=text(details.pop("type")),
            at=int(details.pop("at")),
            guid=text(details.pop("guid")),
            version=version,
            record=None if record is None else Record.from_wire(record, version),
            details=details,
        )


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of the feed. `next` is the cursor at which to continue, even after an empty page."""

    items: Sequence[Event]
    next: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service is ready, and the state of its parts. `workers` is the number of processes, if known.

    `clock` says by how much the clock of the host is wrong, and `damage` what is wrong with the stored data, if known.
    """

    is_ready: bool
    status: str
    store: str
    cache: str
    age_ms: int
    workers: int | None = None
    clock: str | None = None
    damage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The number of GUIDs of all owners at `at`, in Unix milliseconds. Expired ones can still be renewed.

    `hours` and `days` are the live GUIDs that expire in each of the next 24 hours and 30 days, counted from `at`.
    """

    live: int
    expired: int
    hours: Sequence[int]
    days: Sequence[int]
    at: int

    @classmethod
    def from_wire(cls, document: Document) -> Self:
        """Return the statistics of a response."""
        expiring = document["expiring"]
        return cls(
            live=document["live"],
            expired=document["expired"],
            hours=expiring["hours"],
            days=expiring["days"],
            at=int(document["at"]),
        )
