"""The lifecycle of a GUID, as pure functions over a record, a change and the time.

A record is live until `expire`, then expired but renewable until `purge_at`, then gone, even if the store has not
removed it yet. A deletion replaces it with a tombstone, which counts as gone at once. Nothing here waits, reads a clock
or uses a store. `now` is in Unix milliseconds.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from pydantic_core import from_json

from guidsvc.domain.commands import MEMBERS, PatchCommand, PutCommand, WriteCommand
from guidsvc.domain.commands.merge_patch import UnfitPatch, after_merge, merge
from guidsvc.domain.leases.errors import ExpiresTooSoon, beyond_limit, cannot_revive, nothing_left
from guidsvc.domain.leases.limits import UNLIMITED, LifeLimits
from guidsvc.domain.record import (
    DELETED_EXPIRE,
    MAX_TIME,
    RENDERED,
    Record,
    State,
    check_depth_and_numbers,
    render_metadata,
)
from guidsvc.errors import Expired, InvalidField, InvalidRequest, NotFound

CREATION_SECONDS = 10
"""Time after the choice of its version within which a creation may take effect."""
TOMBSTONE_SECONDS = 60
"""Time for which a tombstone is stored: far longer than CREATION_SECONDS, because the clocks of hosts differ."""
TOMBSTONE_USER = "deleted"
_FIELDS = tuple(Record.model_fields)
_values_of = attrgetter(*_FIELDS)
_record: Callable[[dict[str, Any]], Record] = partial(Record.__pydantic_validator__.validate_python, context=RENDERED)
"""Makes a record of its members, as its constructor does in twice the time.

Metadata is not decoded: it is that of a record, or was rendered by the command or here. Decoding 16 KiB would take up
to 0.5 ms, for each change of any member.
"""


@dataclass(frozen=True)
class RetentionPolicy:
    """The default lifetime and the retention of records, in seconds."""

    lifetime: int
    """Time from creation or renewal to expiry, if the client names no expiry."""
    retention: int
    """Time from expiry, or the last update if that is later, to removal."""
    limits: LifeLimits = UNLIMITED
    """The longest life that a write may give a record."""

    def limited(self, limits: LifeLimits) -> "RetentionPolicy":
        """Return this policy with limits that are at least as tight as these."""
        return replace(self, limits=self.limits.tightened(limits))


def is_live(record: Record, now: int) -> bool:
    """Whether the record is unexpired at `now`."""
    return now < record.expire * 1000


def is_revoked(record: Record) -> bool:
    """Whether the last write set an expiry in the past, rather than the record expiring since then."""
    return not is_live(record, record.updated)


def is_first_version(record: Record) -> bool:
    """Whether nobody has changed the record since its creation. False, too, if it replaced a tombstone just then."""
    return record.version == record.created


def state_of(record: Record, now: int) -> State:
    """Return the state of a retained record."""
    return "live" if is_live(record, now) else "expired"


def is_absent(record: Record, now: int) -> bool:
    """Whether the record is deleted, or past its retention at `now`, and counts as absent."""
    return record.expire == DELETED_EXPIRE or now >= record.purge_at * 1000  # `is_deleted`, without a call


def require_live(guid: str, record: Record | None, now: int) -> Record:
    """Return the record if it is live; else raise NotFound or Expired."""
    record = existing(record, now)
    if record is None:
        raise NotFound(guid)
    if not is_live(record, now):
        raise expired(record)
    return record


def require_valid_for(record: Record, seconds: int, now: int) -> None:
    """Raise ExpiresTooSoon unless the live record stays live for at least this number of seconds."""
    left_ms = record.expire * 1000 - now
    if left_ms < seconds * 1000:
        raise ExpiresTooSoon(record.guid, expire=record.expire, left=left_ms // 1000, valid_for=seconds)


def expired(record: Record, *, is_renewal: bool = False, has_revive_false: bool = False) -> Expired:
    """Return the error of a use of a record that is not live; if `is_renewal`, of its renewal as a lease.

    If `has_revive_false`, it is that of a PUT with `"revive": false`.
    """
    return Expired(
        record.guid,
        expired_at=record.expire,
        renewable_until=record.purge_at,
        is_revoked=is_revoked(record),
        is_unchanged=is_first_version(record),
        is_renewal=is_renewal,
        has_revive_false=has_revive_false,
    )


def existing(record: Record | None, now: int) -> Record | None:
    """Return the record, live or expired, or None if it is absent, deleted or past its retention."""
    return None if record is None or is_absent(record, now) else record


def create(
    guid: str, change: WriteCommand, now: int, policy: RetentionPolicy, *, after: int = 0, owner: str = ""
) -> Record:
    """Make the first record of a GUID, with a version above `after`; raise InvalidRequest if the user is missing."""
    if change.user is None:
        raise InvalidRequest(InvalidField("/user", 'is required to create a GUID, as in {"user": "Cylance, Inc."}'))
    if change.expire is None:
        expire = _default_expire(guid, now, now, policy)
    else:
        expire = change.expire
        if policy.limits != UNLIMITED:
            _require_within_limits(guid, expire, now, now, policy)
    version = max(now, after + 1)
    return _record(
        {
            "guid": guid,
            "user": change.user,
            "expire": expire,
            "metadata": None if change.metadata is None else change.metadata.decode(),
            "owner": owner,
            "version": version,
            "created": now,
            "updated": now,
            "purge_at": _purge_at(expire, now, version, policy),
        }
    )


def update(record: Record, change: PutCommand, now: int, policy: RetentionPolicy) -> Record:
    """Merge the given members into the record; return the same object if nothing changes.

    If the change names no expiry, an expired record is renewed for the default lifetime. A revoked record raises
    Expired instead. So does an expired record if the change must not revive it.
    """
    if change.revive is False and not is_live(record, now):
        raise expired(record, has_revive_false=True)
    if "expire" not in change.model_fields_set and is_revoked(record):
        raise expired(record)
    members = _members(change, change.model_fields_set & MEMBERS)
    if change.metadata is not None:
        members["metadata"] = change.metadata.decode()
    return _merge_members(record, members, now, policy)


def patch(record: Record, patch: PatchCommand, now: int, policy: RetentionPolicy) -> Record:
    """Apply a merge patch to the record; return the same object if nothing changes.

    Raise Expired if the record is expired or revoked and the patch names no expiry: a patch never renews by default.
    Raise InvalidRequest if the merged metadata is invalid.
    """
    if "expire" not in patch.model_fields_set and (is_revoked(record) or not is_live(record, now)):
        raise expired(record)
    members = _members(patch, patch.model_fields_set & MEMBERS - {"metadata"})
    if "metadata" in patch.model_fields_set:
        members["metadata"] = _patch_metadata(record.metadata, patch.metadata)
    return _merge_members(record, members, now, policy)


def extend(record: Record, expire: int, now: int, policy: RetentionPolicy) -> Record:
    """Return the record with this expiry; the same object if it has it already."""
    return _merge_members(record, {"expire": expire}, now, policy)


def touch(old: Record, new: Record, now: int, policy: RetentionPolicy) -> Record:
    """Return `new`; if that is `old`, with the version, times and retention that a change at `now` would give it."""
    return old.model_copy(update=_change_members(old, old.expire, now, policy)) if new is old else new


def delete(record: Record, now: int) -> Record:
    """Make the tombstone of a record. It has nothing of the record but its GUID, owner and next version.

    A creation that read the GUID as absent before the record existed would get a lower version. It fails at the
    tombstone, and starts again above the tombstone's version.
    """
    version = max(record.version + 1, now)
    return _record(
        {
            "guid": record.guid,
            "user": TOMBSTONE_USER,
            "expire": DELETED_EXPIRE,
            "metadata": None,
            "owner": record.owner,
            "version": version,
            "created": now,
            "updated": now,
            "purge_at": min(version // 1000 + TOMBSTONE_SECONDS, MAX_TIME),
        }
    )


def _patch_metadata(text: str | None, patch: bytes | UnfitPatch | None) -> str | None:
    if patch is None:
        return None
    if isinstance(patch, UnfitPatch):
        raise InvalidRequest(InvalidField("/metadata", patch.detail))
    try:
        check_depth_and_numbers(patch)
    except ValueError as error:
        raise InvalidRequest(InvalidField("/metadata", str(error))) from error
    try:
        merged = render_metadata(merge({} if text is None else from_json(text), from_json(patch)))
    except ValueError as error:
        raise InvalidRequest(InvalidField("/metadata", after_merge(error))) from error
    return None if merged is None else merged.decode()


def _merge_members(record: Record, members: dict[str, Any], now: int, policy: RetentionPolicy) -> Record:
    if "expire" not in members and not is_live(record, now):
        members["expire"] = _default_expire(record.guid, now, record.created, policy)
    elif policy.limits != UNLIMITED and members.get("expire", record.expire) != record.expire:
        expire, lives = members["expire"], is_live(record, now)
        _require_within_limits(record.guid, expire, now, record.created, policy, is_live=lives)
    fields = dict(zip(_FIELDS, _values_of(record), strict=True))
    if fields | members == fields:
        return record
    expire = members.get("expire", record.expire)
    return _record(fields | members | _change_members(record, expire, now, policy))


def _members(command: PutCommand | PatchCommand, names: AbstractSet[str]) -> dict[str, Any]:
    """Return these members of a command. Its values are plain, so this is a quick `model_dump`."""
    return {name: getattr(command, name) for name in names}


def _change_members(record: Record, expire: int, now: int, policy: RetentionPolicy) -> dict[str, int]:
    version = max(record.version + 1, now)
    return {"version": version, "updated": now, "purge_at": _purge_at(expire, now, version, policy)}


def _default_expire(guid: str, now: int, created: int, policy: RetentionPolicy) -> int:
    """Return the default expiry, or the limit if that is earlier; LifeLimitReached if it has passed."""
    expire = min(now // 1000 + policy.lifetime, MAX_TIME)
    max_expire = policy.limits.max_expire(now, created) if policy.limits != UNLIMITED else None
    if max_expire is None:
        return expire
    if max_expire * 1000 <= now:
        raise cannot_revive(guid, None, max_expire)  # a creation, and a live record, have time left
    return min(expire, max_expire)


def _require_within_limits(
    guid: str, expire: int, now: int, created: int, policy: RetentionPolicy, *, is_live: bool = False
) -> None:
    """Raise LifeLimitReached if an expiry is beyond the limits. One in the past gives no life, and is always valid."""
    max_expire = policy.limits.max_expire(now, created)
    if max_expire is None or expire <= max_expire or expire * 1000 <= now:
        return
    if max_expire * 1000 > now:
        raise beyond_limit(guid, max_expire)
    raise (nothing_left if is_live else cannot_revive)(guid, None, max_expire)


def _purge_at(expire: int, updated: int, version: int, policy: RetentionPolicy) -> int:
    """Return the end of the retention.

    More than 1,000 writes of a GUID in a second give it versions in the future. It is kept until these have passed: a
    record that is created after its removal begins with the time as its version, which must be higher.
    """
    purge_at = max(expire, updated // 1000) + policy.retention
    if version > updated:
        purge_at = max(purge_at, version // 1000 + 1)
    return min(purge_at, MAX_TIME)
