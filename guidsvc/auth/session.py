"""Sessions: authenticated callers, for as long as the lookup of their key or token is trusted.

A session is valid for GOOD_SECONDS from the lookup, so a revoked key is rejected everywhere within that time. The first
use after FRESH_SECONDS renews it in the background.
"""

from typing import Protocol

from guidsvc.auth.rate_limit import RateAllowance
from guidsvc.domain.caller import Caller, Needs
from guidsvc.errors import Forbidden, GuidsvcError
from guidsvc.runtime.clock import continuous_clock

GOOD_SECONDS, FRESH_SECONDS = 4.0, 2.0


class SessionSource(Protocol):
    """The authenticator, as its sessions see it."""

    def renew(self, session: "Session") -> None:
        """Look up a session again, in the background."""

    def record_denial(self, error: GuidsvcError, caller: Caller | None) -> None:
        """Record a denied request."""


class Session:
    """An authenticated caller, valid while `is_usable` returns true."""

    __slots__ = ("_fresh_until", "_source", "_until", "allowance", "authorization", "caller")

    def __init__(self, source: SessionSource, authorization: str, caller: Caller, allowance: RateAllowance) -> None:
        self._source = source
        self._until = self._fresh_until = 0.0  # by `continuous_clock`
        self.authorization = authorization
        self.caller = caller
        self.allowance = allowance

    def is_usable(self) -> bool:
        """Return whether the session may be used now. The rate allowance must be checked, too."""
        return self.is_usable_at(continuous_clock())

    def is_usable_at(self, now: float) -> bool:
        """Return whether the session may be used now, by `continuous_clock`."""
        if now >= self._fresh_until:
            if now >= self._until:
                return False
            self._fresh_until = self._until  # renew only once
            self._source.renew(self)
        return True

    def require_scope(self, needs: Needs) -> None:
        """Raise Forbidden, and record the denial, unless the caller has the required scope."""
        try:
            self.caller.demand(needs)
        except Forbidden as error:
            self._source.record_denial(error, self.caller)
            raise

    @property
    def is_valid(self) -> bool:
        """Whether the session has not expired."""
        return continuous_clock() < self._until

    def extend(self, lookup_start: float, seconds: float) -> None:
        """Allow use for `seconds`, at most GOOD_SECONDS, from `lookup_start`."""
        self._until = lookup_start + min(seconds, GOOD_SECONDS)
        self._fresh_until = lookup_start + min(seconds, FRESH_SECONDS)

    def end(self) -> None:
        """Invalidate the session."""
        self._until = self._fresh_until = 0.0
