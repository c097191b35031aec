"""The life of a GUID, as pure functions over a record, a change and the time.

A record is live until `expire`; expired, but kept and renewable, until `purge_at`; then gone, whether or
not the store has got round to removing it. Nothing here waits, reads a clock or touches a store.
"""

from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from guidsvc.domain.commands import MEMBERS, PatchCommand, PutCommand
from guidsvc.domain.record import MAX_TIME, Record, State, render_metadata
from guidsvc.errors import Expired, InvalidField, InvalidRequest, NotFound


@dataclass(frozen=True)
class RetentionPolicy:
    """How long things last, in seconds."""

    lifetime: int
    """From the creation or renewal of a record to its expiry, where the client names none."""
    retention: int
    """From the expiry of a record, or its last update if that is later, to its removal."""


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
    record = existing(record, now)
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


def existing(record: Record | None, now: int) -> Record | None:
    """Return the record if it counts as existing at `now`, live or expired."""
    return None if record is None or is_gone(record, now) else record


def created(  # what there is to know of a first record
    guid: str, change: PutCommand, now: int, terms: RetentionPolicy, *, after: int = 0, owner: str = ""
) -> Record:
    """Make the first record of a GUID, with a version above `after`; InvalidRequest if the change names no user."""
    if change.user is None:
        raise InvalidRequest(InvalidField("/user", "is needed to create a GUID"))
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


def updated(record: Record, change: PutCommand, now: int, terms: RetentionPolicy) -> Record:
    """Merge the members that the change gives into the record; the record itself if that changes nothing.

    Where the change names no expiry, a record that has expired by itself is renewed for the default life, and one
    that was revoked raises Expired.
    """
    if "expire" not in change.model_fields_set and is_revoked(record):
        raise _expired(record)
    return _merged(record, change.model_dump(include=change.model_fields_set & MEMBERS), now, terms)


def patched(record: Record, patch: PatchCommand, now: int, terms: RetentionPolicy) -> Record:
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
            merged[name] = merge(merged.get(name), value) if isinstance(value, dict) else value
    return merged


def _patched_metadata(text: str | None, patch: dict[str, Any] | None) -> str | None:
    if patch is None:
        return None
    try:
        return render_metadata(merge(from_json(text or "{}"), patch))
    except ValueError as error:
        raise InvalidRequest(InvalidField("/metadata", f"with what is there already: {error}")) from error


def _merged(record: Record, given: dict[str, Any], now: int, terms: RetentionPolicy) -> Record:
    if "expire" not in given and not is_live(record, now):
        given["expire"] = _default_expire(now, terms)
    fields = record.model_dump()
    merged = fields | given
    if merged == fields:
        return record
    version = {"version": max(record.version + 1, now), "updated": now}
    return Record(**merged | version | {"purge_at": _purge_at(merged["expire"], now, terms)})


def _default_expire(now: int, terms: RetentionPolicy) -> int:
    return min(now // 1000 + terms.lifetime, MAX_TIME)


def _purge_at(expire: int, updated: int, terms: RetentionPolicy) -> int:
    return min(max(expire, updated // 1000) + terms.retention, MAX_TIME)
