"""Errors of records: absent, expired, not as the precondition requires, or corrupt."""

from datetime import UTC, datetime

from guidsvc.errors.base import GuidsvcError

_FIRST_USE = 978_307_200
"""2001-01-01T00:00:00Z: no GUID is older."""


_LOST = "If you held it as a lease, you have lost it: stop what depends on it."
"""The advice to the holder of a lease, in each error of a renewal."""
_GONE = " It may have been deleted already, or purged; or another owner has it."
"""Why a record that is to be deleted is absent. The same in each case, so that nobody learns of another's record."""


def _rfc_3339(seconds: int) -> str:
    """Return a Unix time as people read it, such as 2027-01-01T00:00:00Z."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _is_like_a_duration(expired_at: int) -> bool:
    """Whether somebody may have sent seconds from now: 0 and 1 are usual to revoke a GUID, times of use are later."""
    return 1 < expired_at < _FIRST_USE


class NotFound(GuidsvcError):
    """Unknown GUID: it never existed, was deleted, or is past its retention.

    The message of a renewal or a deletion has a hint of its own.
    """

    def __init__(self, guid: str, *, is_renewal: bool = False, is_deletion: bool = False) -> None:
        hint = f" {_LOST} To acquire it again, PUT it." if is_renewal else _GONE if is_deletion else ""
        super().__init__(f"No GUID {guid} is registered.{hint}")
        self.has_hint = bool(hint)


class Expired(GuidsvcError):
    """The GUID exists but is no longer valid. The message says how to renew it.

    The record is renewable from `expired_at` until `renewable_until`, both in Unix seconds. If `is_revoked`, the record
    was written with an expiry in the past, and only a request with a new expiry renews it. If `is_unchanged` too, that
    was its creation; otherwise its past expiry may come from its creation or from a later change. If `is_renewal`, the
    request was to renew a lease. If `has_revive_false`, it was a PUT that must not renew the record.
    """

    def __init__(  # noqa: PLR0913  # what the message depends on
        self,
        guid: str,
        *,
        expired_at: int,
        renewable_until: int,
        is_revoked: bool = False,
        is_unchanged: bool = False,
        is_renewal: bool = False,
        has_revive_false: bool = False,
    ) -> None:
        state, puts = f"expired at {_rfc_3339(expired_at)}", "PUT" if is_revoked else "PUT it,"
        if is_revoked:
            state += " (created with a past expiry)" if is_unchanged else " (revoked, or created with a past expiry)"
        hint = f' For a duration, send "ttl": {expired_at}.' if is_revoked and _is_like_a_duration(expired_at) else ""
        remedy = f'To renew it, {puts} or PATCH it with a future "expire"'
        if has_revive_false:
            remedy += ', without "revive": false'
        if is_renewal:
            members = '"revive": true and a "ttl"' if is_revoked else '"revive": true'
            hint, remedy = f" {_LOST}", f"To make it valid again, renew it with {members}"
        super().__init__(
            f"GUID {guid} {state}.{hint} {remedy}, before {_rfc_3339(renewable_until)} (Unix time {renewable_until})."
        )
        self.expired_at = expired_at
        self.renewable_until = renewable_until
        self.is_revoked = is_revoked


_UNMATCHED = "The service generates this GUID, so no record can match; leave If-Match out."


class PreconditionFailed(GuidsvcError):
    """The record does not match the precondition of the request.

    `version` and `wire` are the version and client representation of the current record, or None if it is absent.
    If `is_excluded`, the record is one that the request must not find (If-None-Match). If `is_generated`, the service
    has just generated the GUID, which the client does not know.
    """

    def __init__(
        self,
        guid: str,
        version: int | None,
        wire: bytes | None,
        *,
        is_excluded: bool = False,
        is_renewal: bool = False,
        is_generated: bool = False,
    ) -> None:
        if version is None:
            reason = "does not exist; leave If-Match out to create it"
        elif is_excluded:
            reason = "already exists; leave If-None-Match out to update it"
        elif is_renewal:
            reason = _changed_lease(version, is_shown=wire is not None)
        else:
            reason = f'is at version {version}; read it again and send If-Match: "{version}"'
        super().__init__(_UNMATCHED if is_generated else f"GUID {guid} {reason}.")
        self.version = version
        self.wire = wire
        self.is_excluded = is_excluded


def _changed_lease(version: int, *, is_shown: bool) -> str:
    """Say that a lease is at another version. Its holder must not send that, unless the record is still its own."""
    if not is_shown:
        return f"has changed, and is at version {version}. {_LOST.removesuffix('.')}"
    return (
        f"has changed, and is at version {version}. If `record` belongs to another holder, you have lost the lease: "
        f'stop what depends on it. If it is your own, renew it with If-Match: "{version}"'
    )


class PreconditionRequired(GuidsvcError):
    """A change of an existing record must name the version that it changes."""

    def __init__(self, guid: str) -> None:
        super().__init__(f"GUID {guid} exists; send If-Match with the version to change, or with * for any version.")


class CorruptRecord(GuidsvcError):
    """The data stored under this GUID is not a valid record."""
