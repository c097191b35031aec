"""The entries of the event log, and which of them a change of a record makes.

A write makes one entry of its own. If the old version had expired before, the write also owes the entries of that
expiry, unless the scheduler has appended them already. So the order of the entries of a GUID is always the order of
what happened.
"""

from itertools import compress
from operator import attrgetter, ne
from typing import Literal, NamedTuple

from guidsvc.domain import lifecycle
from guidsvc.domain.record import Record
from guidsvc.utf8 import utf8_bytes

Kind = Literal["created", "updated", "renewed", "deleted", "expiring", "expired", "purged"]
CREATED: Kind = "created"
UPDATED: Kind = "updated"
RENEWED: Kind = "renewed"
DELETED: Kind = "deleted"
EXPIRING: Kind = "expiring"
EXPIRED: Kind = "expired"
PURGED: Kind = "purged"
KINDS: tuple[Kind, ...] = CREATED, UPDATED, RENEWED, DELETED, EXPIRING, EXPIRED, PURGED

_MEMBERS = "expire", "user", "metadata"
"""The members of a record that a client can change."""
_members_of = attrgetter(*_MEMBERS)


def event_type(kind: Kind) -> str:
    """Return the type of the events of a kind, as clients name it, such as `guid.created`."""
    return f"guid.{kind}"


class Origin(NamedTuple):
    """The caller and the request that caused a change. Both are empty if unknown."""

    caller: str
    request_id: str


NO_ORIGIN = Origin("", "")


class Entry(NamedTuple):
    """An entry of the log, without its number. `user`, `expire` and `metadata` are those of the record at that time.

    For a deletion they are those of the record before it; for a purge they are None.
    """

    kind: Kind
    guid: str
    version: int
    """The version that the write made; for `expiring`, `expired` and `purged`, the version that this happened to."""
    at: int
    """Unix milliseconds: of the write, of the expiry, or of the moment at which a warning or a purge was appended."""
    owner: str
    user: str | None = None
    expire: int | None = None
    metadata: str | None = None
    changed: str = ""
    """The names of the members that changed, separated by commas; for `updated` and `renewed`."""
    former_user: str | None = None
    """The user before the change, if that changed."""
    caller: str = ""
    request_id: str = ""
    lead: int = 0
    """For `expiring`: the seconds before the expiry at which the warning was due."""

    @property
    def id(self) -> str:
        """The id of the event. The same event always has the same id."""
        if self.kind == EXPIRING:
            return f"{self.guid}-{self.version}-expiring-{self.lead}"
        if self.kind in {EXPIRED, PURGED}:
            return f"{self.guid}-{self.version}-{self.kind}"
        return f"{self.guid}-{self.version}"

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts of any length. Its kind and its GUID are none."""
        texts = self.owner, self.user, self.metadata, self.changed, self.former_user, self.caller, self.request_id
        return tuple(text for text in texts if text)

    @property
    def text_bytes(self) -> int:
        """The size of these texts, in bytes of UTF-8."""
        return sum(map(utf8_bytes, self.texts))


class Change(NamedTuple):
    """The entries of one change of a record, in order."""

    owed: tuple[Entry, ...]
    """Earlier events of the old version, to be appended unless the log has them already."""
    entries: tuple[Entry, ...]
    """The entries of the change itself."""


def change_of(old: Record | None, new: Record, origin: Origin = NO_ORIGIN) -> Change:
    """Return the entries of the change from `old` to `new`. `old` is the stored record, even if it counts as absent."""
    now = new.updated
    if old is None or lifecycle.is_absent(old, now):
        owed = () if old is None else _owed(old, now)
        entry = _entry(CREATED, new, origin, new.version, now)
    elif new.is_deleted:
        owed = _owed(old, now)
        entry = _entry(DELETED, old, origin, new.version, now)
    else:
        owed = _owed(old, now)
        entry = _update_entry(old, new, origin)
    if new.expire * 1000 <= now and not new.is_deleted:  # revoked by this very change
        return Change(owed, (entry, expired(new)))
    return Change(owed, (entry,))


def expired(record: Record) -> Entry:
    """Return the entry of the expiry of a record."""
    return _timed(EXPIRED, record, record.expire * 1000)


def expiring(record: Record, lead: int, at: int) -> Entry:
    """Return the entry of a warning, `lead` seconds before the expiry of a record."""
    return _timed(EXPIRING, record, at)._replace(lead=lead)


def purged(record: Record, at: int) -> Entry:
    """Return the entry of the end of the retention of a record."""
    return Entry(PURGED, record.guid, record.version, at, record.owner)


def _owed(old: Record, now: int) -> tuple[Entry, ...]:
    """Return the events of a version up to `now`, without warnings, which the change makes invalid."""
    if old.is_deleted or lifecycle.is_live(old, now):
        return ()
    return (expired(old), purged(old, old.purge_at * 1000)) if lifecycle.is_absent(old, now) else (expired(old),)


def _update_entry(old: Record, new: Record, origin: Origin) -> Entry:
    changed = ",".join(compress(_MEMBERS, map(ne, _members_of(old), _members_of(new))))
    return Entry(  # without `_replace`, which would take half of the time: this is for each update
        RENEWED if changed == "expire" and new.expire > old.expire else UPDATED,
        new.guid,
        new.version,
        new.updated,
        new.owner,
        new.user,
        new.expire,
        new.metadata,
        changed,
        None if old.user == new.user else old.user,
        origin.caller,
        origin.request_id,
    )


def _entry(kind: Kind, record: Record, origin: Origin, version: int, at: int) -> Entry:
    return Entry(
        kind,
        record.guid,
        version,
        at,
        record.owner,
        record.user,
        record.expire,
        record.metadata,
        caller=origin.caller,
        request_id=origin.request_id,
    )


def _timed(kind: Kind, record: Record, at: int) -> Entry:
    return Entry(kind, record.guid, record.version, at, record.owner, record.user, record.expire, record.metadata)
