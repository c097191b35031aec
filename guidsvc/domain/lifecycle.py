"""The life of a GUID, as pure functions over a record, a change and the time.

A record is live until `expire`; expired, but kept and renewable, until `purge_at`; then gone, whether or
not the store has got round to removing it. Nothing here waits, reads a clock or touches a store.
"""

import itertools
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from pydantic_core import from_json

from guidsvc.domain.commands import MEMBERS, Change, ListQuery, Patch
from guidsvc.domain.record import MAX_TIME, Record, State, render_metadata
from guidsvc.errors import Expired, Fault, InvalidRequest, NotFound, PreconditionFailed

Clock = Callable[[], int]
"""Tells the time: Unix milliseconds."""
Draw = Callable[[int], str]
"""Draws a new GUID, for a time in Unix milliseconds."""


class ClaimedDraw(Protocol):
    """A Draw of a request that may be sent again: what it draws may be created while the request's claim holds."""

    def __call__(self, now: int, /) -> str:
        """Draw a GUID: the same each time the request is done."""

    async def not_after(self) -> int:
        """Return until when the claim holds, as `Store.swap` takes it; StoreUnavailable if it is over."""


@dataclass(frozen=True)
class Terms:
    """How long things last, in seconds."""

    lifetime: int
    """From the creation or renewal of a record to its expiry, where the client names none."""
    retention: int
    """From the expiry of a record, or its last update if that is later, to its removal."""


@dataclass(frozen=True)
class Conditions:
    """Which versions of a record a request demands (RFC 9110, 13.1), as the opaque part of its entity tags.

    None is no demand; a set of tags, of which one must match; or ANY, which every record matches. An expired
    record that is still kept counts as existing.
    """

    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def hold(self, record: Record | None) -> bool:
        """Whether the record, or None where there is none, is as it is demanded."""
        return self.wants(record) and (self.if_none_match is None or not _matches(self.if_none_match, record))

    def wants(self, record: Record | None) -> bool:
        """Whether the record is one that `if_match` demands, whatever `if_none_match` says."""
        return self.if_match is None or _matches(self.if_match, record)

    def __bool__(self) -> bool:
        """Whether anything is demanded."""
        return self != UNCONDITIONAL


@dataclass(frozen=True)
class Selection:
    """Which records a list holds, in terms that a store can search by; times are Unix seconds."""

    owner: str | None = None
    """Of this owner only, if there is one."""
    user: str | None = None
    """Of this user only, if there is one."""
    expire_from: int = 0
    """That expire then, or later."""
    expire_before: int = MAX_TIME + 1
    """That expire before then."""
    kept_at: int = 0
    """That are kept beyond then: what is past its retention is in no list."""
    without: frozenset[str] = frozenset()
    """But for these GUIDs."""

    def holds(self, record: Record) -> bool:
        """Whether the record is one of them."""
        timely = self.expire_from <= record.expire < self.expire_before and record.purge_at > self.kept_at
        theirs = self.user in {None, record.user} and self.owner in {None, record.owner}
        return timely and theirs and record.guid not in self.without

    @property
    def by_expire(self) -> bool:
        """Whether the expiry is bounded at all."""
        return self.expire_from > 0 or self.expire_before <= MAX_TIME


ANY = frozenset({'"'})  # which no tag can be: a tag holds no quotes
UNCONDITIONAL = Conditions()


def _matches(tags: frozenset[str], record: Record | None) -> bool:
    return record is not None and (tags == ANY or tag_of(record) in tags)


def tag_of(record: Record) -> str:
    """Return the opaque part of the record's entity tag: its version."""
    return str(record.version)


def is_live(record: Record, now: int) -> bool:
    """Whether the GUID is valid at `now`."""
    return now < record.expire * 1000


def is_revoked(record: Record) -> bool:
    """Whether the record had expired already when it was last written, rather than since then."""
    return not is_live(record, record.updated)


def state_of(record: Record, now: int) -> State:
    """Tell the state of a record that is kept."""
    return "live" if is_live(record, now) else "expired"


def is_gone(record: Record, now: int) -> bool:
    """Whether the record is past its retention at `now`, and so counts as absent."""
    return now >= record.purge_at * 1000


def require_live(guid: str, record: Record | None, now: int) -> Record:
    """Return the record if it may be served as valid; else raise NotFound or Expired."""
    record = kept(record, now)
    if record is None:
        raise NotFound(guid)
    if not is_live(record, now):
        raise _expired(record)
    return record


def _expired(record: Record) -> Expired:
    return Expired(
        record.guid,
        expired_at=record.expire,
        renewable_until=record.purge_at,
        is_revoked=is_revoked(record),
    )


def kept(record: Record | None, now: int) -> Record | None:
    """Return the record if it counts as existing at `now`, live or expired."""
    return None if record is None or is_gone(record, now) else record


def selection(query: ListQuery, now: int, owner: str | None = None) -> Selection:
    """Say which records a query asks for at `now`, of an owner, or of all."""
    seconds = now // 1000
    low = 0 if query.expires_after is None else query.expires_after + 1
    high = MAX_TIME + 1 if query.expires_before is None else query.expires_before
    if query.state == "live":
        low = max(low, seconds + 1)
    elif query.state == "expired":
        high = min(high, seconds + 1)
    return Selection(owner=owner, user=query.user, expire_from=low, expire_before=high, kept_at=seconds)


def demand(guid: str, record: Record | None, conditions: Conditions) -> None:
    """Raise PreconditionFailed, with the record that there is, unless it is as the conditions demand."""
    if not conditions.hold(record):
        there_is = (None, None) if record is None else (record.version, record.wire)
        raise PreconditionFailed(guid, *there_is)


def created(  # what there is to know of a first record
    guid: str, change: Change, now: int, terms: Terms, *, after: int = 0, owner: str = ""
) -> Record:
    """Make the first record of a GUID, with a version above `after`; InvalidRequest if the change names no user."""
    if change.user is None:
        raise InvalidRequest(Fault("/user", "is needed to create a GUID"))
    expire = _default_expire(now, terms) if change.expire is None else change.expire
    return Record(
        guid=guid,
        user=change.user,
        expire=expire,
        metadata=change.metadata,
        owner=owner,
        version=max(now, after + 1),
        created=now,
        updated=now,
        purge_at=_purge_at(expire, now, terms),
    )


def updated(record: Record, change: Change, now: int, terms: Terms) -> Record:
    """Merge the members that the change gives into the record; the record itself if that changes nothing.

    Where the change names no expiry, a record that has expired by itself is renewed for the default life, and one
    that was revoked raises Expired.
    """
    if "expire" not in change.model_fields_set and is_revoked(record):
        raise _expired(record)
    return _merged(record, change.model_dump(include=change.model_fields_set & MEMBERS), now, terms)


def patched(record: Record, patch: Patch, now: int, terms: Terms) -> Record:
    """Apply a merge patch to the record; the record itself if that changes nothing.

    Expired if the record has expired, or was revoked, and the patch names no expiry: a patch never renews by default.
    InvalidRequest if the result is not valid metadata.
    """
    if "expire" not in patch.model_fields_set and (is_revoked(record) or not is_live(record, now)):
        raise _expired(record)
    given = patch.model_dump(include=patch.model_fields_set & MEMBERS - {"metadata"})
    if "metadata" in patch.model_fields_set:
        given["metadata"] = _patched_metadata(record.metadata, patch.metadata)
    return _merged(record, given, now, terms)


def merge(target: object, patch: object) -> object:
    """Apply a JSON merge patch, as RFC 7396 defines it, to a JSON value; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def _patched_metadata(text: str | None, patch: dict[str, Any] | None) -> str | None:
    if patch is None:
        return None
    try:
        return render_metadata(merge(from_json(text or "{}"), patch))
    except ValueError as error:
        raise InvalidRequest(Fault("/metadata", f"with what is there already: {error}")) from error


def _merged(record: Record, given: dict[str, Any], now: int, terms: Terms) -> Record:
    if "expire" not in given and not is_live(record, now):
        given["expire"] = _default_expire(now, terms)
    fields = record.model_dump()
    merged = fields | given
    if merged == fields:
        return record
    version = {"version": max(record.version + 1, now), "updated": now}
    return Record(**merged | version | {"purge_at": _purge_at(merged["expire"], now, terms)})


def _default_expire(now: int, terms: Terms) -> int:
    return min(now // 1000 + terms.lifetime, MAX_TIME)


def _purge_at(expire: int, updated: int, terms: Terms) -> int:
    return min(max(expire, updated // 1000) + terms.retention, MAX_TIME)


def drawing(make: Callable[[int, bytes], str]) -> Draw:
    """Return what draws GUIDs from the system's random source."""
    return lambda now: make(now, os.urandom(16))


def seeded(make: Callable[[int, bytes], str], seed: bytes, place: int, at: int) -> Draw:
    """Return what draws GUIDs that are random to whoever does not know the seed, and the same again to who does."""
    numbers = itertools.count()
    return lambda _: make(at, sha256(b"%b/%d/%d" % (seed, place, next(numbers))).digest()[:16])


def guid_v4(now: int, random: bytes) -> str:  # noqa: ARG001  # one shape with guid_v7: whoever draws need not know which
    """Make a random GUID of 16 random bytes, laid out as a version 4 UUID (RFC 9562, 5.4)."""
    return uuid.UUID(bytes=random, version=4).hex.upper()


def guid_v7(now: int, random: bytes) -> str:
    """Make a GUID that sorts by the time of its creation, of 16 random bytes, as a version 7 UUID (RFC 9562, 5.7)."""
    timed = bytearray(now.to_bytes(6, "big") + random[6:])
    timed[6] = timed[6] & 0x0F | 0x70
    timed[8] = timed[8] & 0x3F | 0x80
    return timed.hex().upper()
