"""Errors of leases: a lifetime exceeds a limit, or ends too soon."""

from guidsvc.domain.durations import rfc_3339
from guidsvc.errors import GuidsvcError


class LifeLimitReached(GuidsvcError):
    """The lifetime exceeds a limit, or the limit allows no later expiry. Nothing was changed.

    `max_expire` is the latest expiry that a write may give it; `expire` is that of the record, or None if there is none
    or the caller may not read it.
    """

    def __init__(self, detail: str, *, max_expire: int, expire: int | None = None) -> None:
        super().__init__(detail)
        self.max_expire = max_expire
        self.expire = expire


class ExpiresTooSoon(GuidsvcError):
    """The GUID is valid, but not for the `valid_for` seconds that the read demands. `left` is what is left of them."""

    def __init__(self, guid: str, *, expire: int, left: int, valid_for: int) -> None:
        super().__init__(
            f"GUID {guid} is valid for {left} more seconds, until {rfc_3339(expire)}, and not for {valid_for}; renew "
            f"it with POST /guid/{guid}/renewal."
        )
        self.expire = expire
        self.left = left
        self.valid_for = valid_for


def nothing_left(guid: str, expire: int | None, max_expire: int) -> LifeLimitReached:
    """Return the error of a renewal of a live record that the limit leaves nothing to give."""
    detail = (
        f"GUID {guid} has reached the limit of its life, {rfc_3339(max_expire)}: it cannot be renewed any more. Finish "
        "before it expires, and create another GUID."
    )
    return LifeLimitReached(detail, max_expire=max_expire, expire=expire)


def cannot_revive(guid: str, expire: int | None, max_expire: int) -> LifeLimitReached:
    """Return the error of a revival for which the limit has passed; `expire` is None if the caller may not see it."""
    detail = (
        f"GUID {guid} has expired, and has reached the limit of its life, {rfc_3339(max_expire)}: it cannot become "
        "valid again. Create another GUID."
    )
    return LifeLimitReached(detail, max_expire=max_expire, expire=expire)


def beyond_limit(guid: str, max_expire: int) -> LifeLimitReached:
    """Return the error of a write that asks for a life beyond the limit."""
    detail = (
        f"GUID {guid} may be valid until {rfc_3339(max_expire)} at most; send an `expire` of {max_expire} or less, or "
        "a shorter `ttl`."
    )
    return LifeLimitReached(detail, max_expire=max_expire)


def less_than_asked(guid: str, at_least: int, *, expire: int | None, max_expire: int) -> LifeLimitReached:
    """Return the error of a renewal that would grant fewer seconds than `at_least`."""
    detail = (
        f"GUID {guid} may be valid until {rfc_3339(max_expire)} at most, which is less than the {at_least} seconds of "
        "`at_least`. Nothing was changed; send a smaller `at_least`, or none."
    )
    return LifeLimitReached(detail, max_expire=max_expire, expire=expire)
