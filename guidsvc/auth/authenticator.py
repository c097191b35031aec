"""Authentication: turn the Authorization header into a Caller, in constant time on failure.

Sessions (`guidsvc.auth.session`) are cached, so that reads need not wait.

A failed login is answered FAILED_SECONDS after its arrival, whatever the cause; later only if the lookup takes longer.
So response times do not distinguish an unknown key from a wrong secret.

Too many failed logins lock out the client address: failures from it then raise RateLimited, after the same delay. A
valid key is still accepted, because others may share the address and 256 bits cannot be guessed.

Keys and tokens are accessed through protocols. The only HTTP knowledge here is the Authorization header's syntax.
"""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Protocol

import structlog
from cachebox import LRUCache

from guidsvc.auth import authorization_header
from guidsvc.auth import session as sessions
from guidsvc.auth.authorization_header import MAX_HEADER_CHARACTERS
from guidsvc.auth.lockout import TOKEN_LOOKUPS, KnownFailures, LoginLockout
from guidsvc.auth.rate_limit import RateLimits
from guidsvc.auth.session import Session
from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import USED_EVERY_MS, ApiKey
from guidsvc.domain.caller import Caller, key_command
from guidsvc.errors import GuidsvcError, RateLimited, Unauthorized
from guidsvc.runtime.background import BackgroundTasks
from guidsvc.runtime.clock import Clock, continuous_clock
from guidsvc.store.contract import ApiKeyRepository

FAILED_SECONDS = 0.05
SESSION_CACHE_BYTES = 16 * 2**20
"""Maximum memory of cached sessions, in bytes."""
SESSION_BYTES = 1024
"""Memory of one cached session without its header, in bytes."""
_SCHEME = "bearer "

_log = structlog.get_logger(__name__)


class TokenVerifier(Protocol):
    """A verifier of bearer tokens."""

    async def find(self, token: str) -> tuple[Caller, int]:
        """Return the caller and expiry (Unix seconds) of a token; raise Unauthorized if it is invalid."""


class DenialAudit(Protocol):
    """A callback that records the error of a denied request, and its caller if known."""

    def __call__(self, error: GuidsvcError, caller: Caller | None, /) -> None: ...


class Authenticator:
    """Authentication by API key, or by token if tokens are enabled."""

    def __init__(
        self,
        api_keys: ApiKeyRepository,
        *,
        clock: Clock,
        limits: RateLimits | None = None,
        lockout: LoginLockout | None = None,
        tokens: TokenVerifier | None = None,
        on_denial: DenialAudit | None = None,
    ) -> None:
        self._api_keys = api_keys
        self._on_denial = on_denial
        self._clock = clock
        self._limits = limits or RateLimits(None)
        self._lockout = lockout or LoginLockout(None)
        self._tokens = tokens
        self._sessions: LRUCache[str, Session] = LRUCache(SESSION_CACHE_BYTES, getsizeof=_weigh)
        self._failures = KnownFailures(sessions.GOOD_SECONDS)
        self._background = BackgroundTasks()

    def cached_session(self, authorization: str | None) -> Session | None:
        """Return the cached session, and spend one request; None if it is absent, expired or needs a reservation."""
        session: Session | None = None if authorization is None else self._sessions.get(authorization)
        return session if session is not None and session.is_usable() and session.allowance.try_spend() else None

    def usable_session(self, authorization: str | None) -> Session | None:
        """Return the cached session without spending a request; None if it is absent or expired."""
        session: Session | None = None if authorization is None else self._sessions.get(authorization)
        return session if session is not None and session.is_usable() else None

    def owner_of(self, authorization: str | None) -> str | None:
        """Return the owner of the cached session, or None if it is not cached.

        This is not authentication: the session may have expired. It only assigns a request to an owner's share.
        """
        session: Session | None = None if authorization is None else self._sessions.get(_canonical(authorization))
        return None if session is None else session.caller.owner

    async def authenticate(self, authorization: str | None, address: str) -> Session:
        """Return the session of a request, and spend one request; raise Unauthorized or RateLimited otherwise.

        Cancelling it ends the wait, not the login: a failure counts even if its client disconnects early.
        """
        if authorization is None:
            raise self._denied(anonymous(), None)
        authorization = _canonical(authorization)
        session: Session | None = self._sessions.get(authorization)
        if session is None or not session.is_valid:
            session = await self._background.run(self._log_in(authorization, address))
        try:
            await session.allowance.spend()
        except RateLimited as error:
            raise self._denied(error, authorization) from None
        return session

    async def confirm(self, session: Session) -> None:
        """Look up a session again; raise Unauthorized if it has been revoked or its permissions have changed.

        This is not a login attempt: it spends no allowance and never locks out an address.
        """
        try:
            renewed = await self._find(session.authorization)
            if renewed.caller != session.caller:
                raise Unauthorized("The permissions of the key have changed; send the rest again.", invalid=True)
        except Unauthorized as error:
            self._sessions.pop(session.authorization, None)
            session.end()
            self.record_denial(error, session.caller)
            raise

    async def credential_of(self, session: Session) -> ApiKey | int:
        """Return the key of a session, or the expiry of its token in Unix seconds, as of now.

        Raise Unauthorized if it has ended.
        """
        token = session.authorization[len(_SCHEME) :]
        presented = keys.parse(token)
        if presented is not None:
            return await self._key_of(presented)
        assert self._tokens is not None  # noqa: S101  # nosec B101  # it has verified this one
        return (await self._tokens.find(token))[1]

    def record_denial(self, error: GuidsvcError, caller: Caller | None) -> None:
        """Record a denied request in the audit log, if one is configured."""
        if self._on_denial is not None:
            self._on_denial(error, caller)

    def _end_session(self, authorization: str) -> None:
        """End the cached session of a login that was rejected: a locked-out address may look up cached ones always."""
        session: Session | None = self._sessions.pop(authorization, None)
        if session is not None:
            session.end()

    def _denied(self, error: GuidsvcError, authorization: str | None) -> GuidsvcError:
        """Record a denied request, and return its error."""
        cached: Session | None = None if authorization is None else self._sessions.get(authorization)
        self.record_denial(error, cached.caller if cached is not None and cached.is_valid else None)
        return error

    def renew(self, session: Session) -> None:
        """Look up a session again, in the background."""
        self._background.spawn(_quietly(self._renew(session)))

    async def aclose(self) -> None:
        """Wait for the background tasks, and for logins that outlive their requests."""
        await self._background.drain()

    async def _log_in(self, authorization: str, address: str) -> Session:
        """Look up a login. A failure is delayed to a fixed time; it is RateLimited if its address is locked out."""
        response_time = asyncio.get_running_loop().time() + FAILED_SECONDS
        lockout_seconds = self._lockout.lockout_seconds(address)
        try:
            if lockout_seconds is not None and not self._should_look_up(authorization, address):
                raise Unauthorized("These credentials were rejected before.", invalid=True)
            return await self._find(authorization)
        except Unauthorized as error:
            self._end_session(authorization)
            if lockout_seconds is None:
                await self._lockout.record_failure(address)
            self._failures.add(authorization)
            await asyncio.sleep(response_time - asyncio.get_running_loop().time())
            if lockout_seconds is not None:
                detail = f"Too many failed logins from this address; retry in {lockout_seconds} s."
                raise self._denied(RateLimited(detail, lockout_seconds), authorization) from error
            self._denied(error, authorization)
            raise

    def _should_look_up(self, authorization: str, address: str) -> bool:
        """Return whether to look up a login from a locked-out address. This bounds the work that failures cause.

        A cached login is always looked up. One that has just failed is not, so that a client that repeats a revoked
        key takes no lookups from others at its address.
        """
        if authorization in self._sessions:
            return True
        cost = TOKEN_LOOKUPS if _is_token(authorization) else 1
        return not self._failures.contains(authorization) and self._lockout.try_look_up(address, cost)

    async def _find(self, authorization: str) -> Session:
        """Look up a login, and cache its session."""
        lookup_start = continuous_clock()
        caller, seconds = await self._look_up(authorization)
        session: Session | None = self._sessions.get(authorization)
        if session is None or session.caller != caller:
            session = Session(self, authorization, caller, self._limits.allowance_for(caller.name))
            self._sessions.insert(authorization, session)
        session.extend(lookup_start, seconds)
        return session

    async def _look_up(self, authorization: str) -> tuple[Caller, float]:
        """Return the caller, and the maximum validity of this result in seconds."""
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        if scheme.lower() != _SCHEME or len(authorization) > MAX_HEADER_CHARACTERS:
            raise Unauthorized(authorization_header.explain(authorization), invalid=True)
        if self._tokens is not None and _is_token(token):
            caller, expires = await self._tokens.find(token)
            return caller, expires - self._clock() / 1000
        presented = keys.parse(token)
        if presented is None:
            raise Unauthorized("Malformed API key: it is incomplete or mistyped; copy it again.", invalid=True)
        return await self._verify_key(presented)

    async def _verify_key(self, presented: keys.PresentedKey) -> tuple[Caller, float]:
        key, now = await self._key_of(presented), self._clock()
        if key.used is None or now - key.used >= USED_EVERY_MS:
            self._background.spawn(_quietly(self._note_use(key, now)))
        return key.caller, keys.good_for(presented, key, now)

    async def _key_of(self, presented: keys.PresentedKey) -> ApiKey:
        """Return the stored key that was presented; raise Unauthorized if it is not valid."""
        key = await self._api_keys.get(presented.id)
        if not keys.verify(presented, key, self._clock()) or key is None:
            raise unknown_key()
        return key

    async def _note_use(self, key: ApiKey, now: int) -> None:
        """Store the time of use of a key; a concurrent change of the key takes precedence."""
        await self._api_keys.swap(key, key.model_copy(update={"used": now, "version": key.version + 1}))

    async def _renew(self, session: Session) -> None:
        try:
            renewed = await self._find(session.authorization)
        except Unauthorized:
            self._sessions.pop(session.authorization, None)
            session.end()
        else:
            if renewed is not session:  # its scopes have changed
                session.end()


def anonymous() -> Unauthorized:
    """Return the error of a request without credentials."""
    detail = "Authentication is required; send a key as Authorization: Bearer gs_... To create one, "
    return Unauthorized(f"{detail}{key_command('--owner', 'NAME')}", invalid=False)


def unknown_key() -> Unauthorized:
    """Return the error of a key that the store does not have, or that has ended: clients must not learn which."""
    detail = "The API key is unknown, revoked or expired, or created in another store. To create another, "
    return Unauthorized(f"{detail}{key_command('--owner', 'NAME')}", invalid=True)


def _is_token(credentials: str) -> bool:
    return credentials.count(".") == 2  # noqa: PLR2004  # a JWT (RFC 7519) has three parts


def _canonical(authorization: str) -> str:
    """Return the cache key of an Authorization header, with scheme and blanks normalized."""
    scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
    return f"Bearer {token.strip()}" if scheme.lower() == _SCHEME else authorization


def _weigh(authorization: str, _session: Session) -> int:
    return SESSION_BYTES + sys.getsizeof(authorization)


async def _quietly(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except GuidsvcError as error:
        _log.warning("reading an api key or recording its use failed", error=str(error))
