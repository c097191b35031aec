"""Renewal of leases, as pure functions. Times are in Unix seconds; `now` is in milliseconds."""

from typing import NamedTuple
from zlib import crc32

from guidsvc.domain import lifecycle
from guidsvc.domain.commands import RenewCommand
from guidsvc.domain.leases import errors
from guidsvc.domain.leases.limits import expire_after
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.record import MAX_TIME, Record


class Renewal(NamedTuple):
    """The outcome of a renewal."""

    record: Record
    renewed: bool
    """Whether the expiry was moved."""
    granted: int
    """Whole seconds from the renewal to the expiry."""
    capped: bool
    """Whether a limit grants less than requested."""
    max_expire: int | None
    """The latest expiry that a write may give the record now, or None if there is no limit."""


def renew(record: Record, asked: RenewCommand, now: int, policy: RetentionPolicy, *, is_shown: bool = True) -> Renewal:
    """Move the expiry of a record, never back; the record is the same object if nothing changes.

    The life that is asked for is the longer of `ttl` and `at_least`; only the limits may grant less than `at_least`.
    Raise Expired for a record that is not live, unless it is to be revived. Raise LifeLimitReached if the limits leave
    nothing to give, or less than `at_least`; the error includes the expiry if `is_shown`.
    """
    is_live = lifecycle.is_live(record, now)
    if not is_live and not _may_revive(record, asked):
        raise lifecycle.expired(record, is_renewal=True)
    wanted = expire_after(now, max(policy.lifetime if asked.ttl is None else asked.ttl, asked.at_least or 0))
    max_expire = policy.limits.max_expire(now, record.created)
    expire = wanted if max_expire is None else min(wanted, max_expire)
    if not is_needed(record, asked, now):
        return _outcome(record, record, expire, wanted, now, max_expire)
    if max_expire is not None and _has_nothing_left(record, wanted, now, policy):
        error = errors.nothing_left if is_live else errors.cannot_revive
        raise error(record.guid, record.expire if is_shown else None, max_expire)
    if is_live:
        expire = max(expire, record.expire)
    granted = _seconds_left(expire, now)
    if asked.at_least is not None and granted < asked.at_least:
        shown = record.expire if is_shown else None
        end = MAX_TIME if max_expire is None else max_expire
        raise errors.less_than_asked(record.guid, asked.at_least, expire=shown, max_expire=end)
    return _outcome(record, lifecycle.extend(record, expire, now, policy), expire, wanted, now, max_expire)


def is_needed(record: Record, asked: RenewCommand, now: int) -> bool:
    """Whether fewer seconds than `if_below` are left, or the renewal has no such condition."""
    return asked.if_below is None or record.expire * 1000 - now < asked.if_below * 1000


def renew_at(record: Record) -> int | None:
    """Return when the record should be renewed; None if it had expired already when it was written.

    The time is after 50 to 70 % of the life that the last write gave. The GUID and the version decide where, so that
    leases of one moment are not renewed in one moment, and the time stays the same whoever asks. It is a whole second.
    If none is in this range, it is the next one, but always before the expiry. So it comes before half of a life of
    less than two seconds: a renewal at the expiry is too late.
    """
    life_ms = record.expire * 1000 - record.updated
    if life_ms <= 0:
        return None
    first = -(-(record.updated * 2 + life_ms) // 2000)
    last = (record.updated + life_ms * 7 // 10) // 1000
    if last <= first:
        return min(first, record.expire - 1)
    return first + crc32(b"%b %d" % (record.guid.encode(), record.version)) % (last - first + 1)


def _may_revive(record: Record, asked: RenewCommand) -> bool:
    """Whether a record that is not live is renewed. As for a PUT, a revoked one needs an explicit life."""
    return asked.revive and (asked.ttl is not None or not lifecycle.is_revoked(record))


def _has_nothing_left(record: Record, wanted: int, now: int, policy: RetentionPolicy) -> bool:
    """Whether a longer lifetime is requested, but the record has reached its limit."""
    final_end = policy.limits.final_end(record.created)
    if lifecycle.is_live(record, now):
        return final_end <= record.expire < min(wanted, policy.limits.sliding_end(now))
    return _seconds_left(final_end, now) < 1


def _seconds_left(expire: int, now: int) -> int:
    return (expire * 1000 - now) // 1000


def _outcome(old: Record, new: Record, expire: int, wanted: int, now: int, max_expire: int | None) -> Renewal:
    """Return the outcome; `expire` is what a renewal may give now, `wanted` what was asked for."""
    is_capped = max(expire, new.expire) < wanted
    return Renewal(new, new is not old, _seconds_left(new.expire, now), is_capped, max_expire)
