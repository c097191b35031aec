"""Authentication: turn the Authorization header into a Caller, in constant time on failure.

Sessions are cached, so that reads need not wait. A session is valid for GOOD_SECONDS from the key lookup, so a revoked
key is rejected everywhere within that time. The first use after FRESH_SECONDS renews it in the background.

A failed login is answered FAILED_SECONDS after its arrival, whatever the cause; later only if the lookup takes longer.
So response times do not distinguish an unknown key from a wrong secret.

Too many failed logins lock out the client address: failures from it then raise RateLimited, after the same delay. A
valid key is still accepted, because others may share the address and 256 bits cannot be guessed.

Keys and tokens are accessed through protocols. The only HTTP knowledge here is the Authorization header's syntax.
"""

import asyncio
import sys
from collections.abc import Coroutine
from time import perf_counter
from typing import Protocol

import structlog
from cachebox import LRUCache

from guidsvc.auth.lockout import KnownFailures, LoginLockout
from guidsvc.auth.rate_limit import RateAllowance, RateLimits
from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import USED_EVERY_MS, ApiKey
from guidsvc.domain.caller import Caller, Needs
from guidsvc.errors import Forbidden, GuidsvcError, RateLimited, Unauthorized
from guidsvc.runtime.background import BackgroundTasks
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import ApiKeyRepository

GOOD_SECONDS, FRESH_SECONDS, FAILED_SECONDS = 4.0, 2.0, 0.05
REMEMBERED_BYTES = 16 * 2**20
"""Maximum memory of cached sessions, in bytes."""
LOGIN_BYTES = 1024
"""Memory of one cached session without its header, in bytes."""
LONGEST = 8 * 1024
"""Maximum length of an Authorization header, in characters; a longer one is rejected."""
_SCHEME = "bearer "

_log = structlog.get_logger(__name__)


class TokenVerifier(Protocol):
    """A verifier of bearer tokens."""

    async def find(self, token: str) -> tuple[Caller, int]:
        """Return the caller and expiry (Unix seconds) of a token; raise Unauthorized if it is invalid."""


class DenialAudit(Protocol):
    """A callback that records denied requests."""

    def __call__(self, error: GuidsvcError, caller: Caller | None, /) -> None:
        """Record the error, and the caller if known."""


class Session:
    """An authenticated caller, valid while `usable` returns true."""

    __slots__ = ("_fresh_until", "_guard", "_until", "authorization", "caller", "ration")

    def __init__(self, guard: "Authenticator", authorization: str, caller: Caller, ration: RateAllowance) -> None:
        self._guard = guard
        self._until = self._fresh_until = 0.0  # by `perf_counter`
        self.authorization = authorization
        self.caller = caller
        self.ration = ration

    def usable(self) -> bool:
        """Return whether the session may be used now. The rate allowance must be checked, too."""
        now = perf_counter()
        if now >= self._fresh_until:
            if now >= self._until:
                return False
            self._fresh_until = self._until  # renew only once
            self._guard.renew(self)
        return True

    def require_scope(self, needs: Needs) -> None:
        """Raise Forbidden, and record the denial, unless the caller has the required scope."""
        try:
            self.caller.demand(needs)
        except Forbidden as error:
            self._guard.record_denial(error, self.caller)
            raise

    @property
    def good(self) -> bool:
        """Whether the session has not expired."""
        return perf_counter() < self._until

    def keep(self, asked: float, seconds: float) -> None:
        """Allow use for `seconds`, at most GOOD_SECONDS, from the start of the lookup (`asked`)."""
        self._until = asked + min(seconds, GOOD_SECONDS)
        self._fresh_until = asked + min(seconds, FRESH_SECONDS)

    def end(self) -> None:
        """Invalidate the session."""
        self._until = self._fresh_until = 0.0


class Authenticator:
    """Authentication by API key, or by token if tokens are enabled."""

    def __init__(
        self,
        api_keys: ApiKeyRepository,
        *,
        clock: Clock,
        limits: RateLimits | None = None,
        lockouts: LoginLockout | None = None,
        tokens: TokenVerifier | None = None,
        denied: DenialAudit | None = None,
    ) -> None:
        self._api_keys = api_keys
        self._denied = denied
        self._clock = clock
        self._limits = limits or RateLimits(None, clock=clock)
        self._lockouts = lockouts or LoginLockout(None, clock=clock)
        self._tokens = tokens
        self._logins: LRUCache[str, Session] = LRUCache(REMEMBERED_BYTES, getsizeof=_weigh)
        self._failures = KnownFailures(GOOD_SECONDS)
        self._beside = BackgroundTasks()

    def cached_session(self, authorization: str | None) -> Session | None:
        """Return the cached session, and spend one request; None if it is absent, expired or needs a reservation."""
        login: Session | None = None if authorization is None else self._logins.get(authorization)
        return login if login is not None and login.usable() and login.ration.try_spend() else None

    def owner_of(self, authorization: str | None) -> str | None:
        """Return the owner of the cached session, or None if it is not cached.

        This is not authentication: the session may have expired. It only assigns a request to an owner's share.
        """
        login: Session | None = None if authorization is None else self._logins.get(_canonical(authorization))
        return None if login is None else login.caller.owner

    async def authenticate(self, authorization: str | None, address: str) -> Session:
        """Return the session of a request, and spend one request; raise Unauthorized or RateLimited otherwise."""
        authorization = None if authorization is None else _canonical(authorization)
        try:
            return await self._let_in(authorization, address)
        except (Unauthorized, RateLimited) as error:
            known: Session | None = None if authorization is None else self._logins.get(authorization)
            self.record_denial(error, known.caller if known is not None and known.good else None)
            raise

    async def confirm(self, login: Session) -> None:
        """Look up a session again; raise Unauthorized if it has been revoked or its permissions have changed.

        This is not a login attempt: it spends no allowance and never locks out an address.
        """
        try:
            renewed = await self._find(login.authorization)
            if renewed.caller != login.caller:
                raise Unauthorized("The permissions of the key have changed; send the rest again.", invalid=True)
        except Unauthorized as error:
            self._logins.pop(login.authorization, None)
            login.end()
            self.record_denial(error, login.caller)
            raise

    def record_denial(self, error: GuidsvcError, caller: Caller | None) -> None:
        """Record a denied request in the audit log, if one is configured."""
        if self._denied is not None:
            self._denied(error, caller)

    async def _let_in(self, authorization: str | None, address: str) -> Session:
        if authorization is None:
            raise Unauthorized("Authentication is required; send a key as Authorization: Bearer gs_...", invalid=False)
        known: Session | None = self._logins.get(authorization)
        login = known if known is not None and known.good else await self._try(authorization, address)
        await login.ration.spend()
        return login

    def renew(self, login: Session) -> None:
        """Look up a session again, in the background."""
        self._beside.spawn(_quietly(self._renew(login)))

    async def aclose(self) -> None:
        """Wait for the background tasks."""
        await self._beside.drain()

    async def _try(self, authorization: str, address: str) -> Session:
        """Look up a login. A failure is delayed to a fixed time; it is RateLimited if its address is locked out."""
        answered_at = asyncio.get_running_loop().time() + FAILED_SECONDS
        wait = self._lockouts.blocked(address)
        try:
            if wait is not None and not self._may_look(authorization, address):
                raise Unauthorized("These credentials were rejected before.", invalid=True)
            return await self._find(authorization)
        except Unauthorized as error:
            if wait is None:
                await self._lockouts.failed(address)
            self._failures.note(authorization)
            await asyncio.sleep(answered_at - asyncio.get_running_loop().time())
            if wait is None:
                raise
            detail = f"Too many failed logins from this address; retry in {wait} s."
            raise RateLimited(detail, wait) from error

    def _may_look(self, authorization: str, address: str) -> bool:
        """Return whether to look up a login from a locked-out address. This bounds the work that failures cause.

        A cached login is always looked up. One that has just failed is not, so that a client that repeats a revoked
        key takes no lookups from others at its address.
        """
        if authorization in self._logins:
            return True
        return not self._failures.holds(authorization) and self._lockouts.may_look(address)

    async def _find(self, authorization: str) -> Session:
        """Look up a login, and cache its session."""
        asked = perf_counter()
        caller, seconds = await self._look(authorization)
        login: Session | None = self._logins.get(authorization)
        if login is None or login.caller != caller:
            login = Session(self, authorization, caller, self._limits.allowance_for(caller.name))
            self._logins.insert(authorization, login)
        login.keep(asked, seconds)
        return login

    async def _look(self, authorization: str) -> tuple[Caller, float]:
        """Return the caller, and the maximum validity of this result in seconds."""
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        if scheme.lower() != _SCHEME or len(authorization) > LONGEST:
            raise Unauthorized("The Authorization header must be Bearer and a key.", invalid=True)
        if self._tokens is not None and token.count(".") == 2:  # noqa: PLR2004  # a JWT (RFC 7519) has three parts
            caller, expires = await self._tokens.find(token)
            return caller, expires - self._clock() / 1000
        shown = keys.parse(token)
        if shown is None:
            raise Unauthorized("Malformed API key: it is incomplete or mistyped.", invalid=True)
        return await self._open(shown)

    async def _open(self, shown: keys.PresentedKey) -> tuple[Caller, float]:
        key, now = await self._api_keys.get(shown.id), self._clock()
        if not keys.verify(shown, key, now) or key is None:
            raise Unauthorized("The API key is unknown, revoked or expired.", invalid=True)
        if key.used is None or now - key.used >= USED_EVERY_MS:
            self._beside.spawn(_quietly(self._note_use(key, now)))
        return key.caller, keys.good_for(shown, key, now)

    async def _note_use(self, key: ApiKey, now: int) -> None:
        """Store the time of use of a key; a concurrent change of the key takes precedence."""
        await self._api_keys.swap(key, key.model_copy(update={"used": now, "version": key.version + 1}))

    async def _renew(self, login: Session) -> None:
        try:
            renewed = await self._find(login.authorization)
        except Unauthorized:
            self._logins.pop(login.authorization, None)
            login.end()
        else:
            if renewed is not login:  # its scopes have changed
                login.end()


def _canonical(authorization: str) -> str:
    """Return the cache key of an Authorization header, with scheme and blanks normalized."""
    scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
    return f"Bearer {token.strip()}" if scheme.lower() == _SCHEME else authorization


def _weigh(authorization: str, _login: Session) -> int:
    return LOGIN_BYTES + sys.getsizeof(authorization)


async def _quietly(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except GuidsvcError as error:
        _log.warning("reading an api key or recording its use failed", error=str(error))
