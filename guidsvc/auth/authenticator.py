"""Who asks: from what a request says of itself to a Caller; and that nobody is tried for longer than it takes.

A log-in is remembered, so that a read need not wait for it: for GOOD_SECONDS from when the key was looked up, so that
one that was revoked is refused everywhere within that time; after FRESH_SECONDS whoever uses it has it looked up anew,
beside the requests. A log-in that fails is answered FAILED_SECONDS after it came, whatever was wrong and however
long it took to find out: an unknown key and a wrong secret cannot be told apart by the time.

An address from which log-ins fail too often is locked out: failures from there are answered RateLimited, at that same
time. A good key is let in all the same: others may be behind that address, and nobody guesses 256 bits.

It knows keys and tokens by their contracts, and no HTTP but the words of the header Authorization.
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
"""The most memory for log-ins that are remembered."""
LOGIN_BYTES = 1024
"""The memory of one, less its header."""
LONGEST = 8 * 1024
"""Characters of a header that are looked at."""
_SCHEME = "bearer "

_log = structlog.get_logger(__name__)


class TokenVerifier(Protocol):
    """Tells who a token is of."""

    async def find(self, token: str) -> tuple[Caller, int]:
        """Return who asks with it, and until when it is good, in Unix seconds; Unauthorized if it is not."""


class DenialAudit(Protocol):
    """Notes who was not let in."""

    def __call__(self, error: GuidsvcError, caller: Caller | None, /) -> None:
        """Note what they are told, and who it was, if that is known."""


class Session:
    """Somebody who has shown who they are: may be used while it is `usable`."""

    __slots__ = ("_fresh_until", "_guard", "_until", "authorization", "caller", "ration")

    def __init__(self, guard: "Authenticator", authorization: str, caller: Caller, ration: RateAllowance) -> None:
        self._guard = guard
        self._until = self._fresh_until = 0.0  # by `perf_counter`
        self.authorization = authorization
        self.caller = caller
        self.ration = ration

    def usable(self) -> bool:
        """Whether it may be used now; the ration is to be asked, too."""
        now = perf_counter()
        if now >= self._fresh_until:
            if now >= self._until:
                return False
            self._fresh_until = self._until  # once
            self._guard.renew(self)
        return True

    def require_scope(self, needs: Needs) -> None:
        """Forbidden, unless they may do what takes that."""
        try:
            self.caller.demand(needs)
        except Forbidden as error:
            self._guard.record_denial(error, self.caller)
            raise

    @property
    def good(self) -> bool:
        """Whether it is not too old."""
        return perf_counter() < self._until

    def keep(self, asked: float, seconds: float) -> None:
        """Let it be used: for so long at most, from when it was asked for."""
        self._until = asked + min(seconds, GOOD_SECONDS)
        self._fresh_until = asked + min(seconds, FRESH_SECONDS)

    def end(self) -> None:
        """Let nobody use it any more."""
        self._until = self._fresh_until = 0.0


class Authenticator:
    """Lets in who has a key, or a token where those are taken."""

    def __init__(
        self,
        kept: ApiKeyRepository,
        *,
        clock: Clock,
        limits: RateLimits | None = None,
        lockouts: LoginLockout | None = None,
        tokens: TokenVerifier | None = None,
        denied: DenialAudit | None = None,
    ) -> None:
        self._keys = kept
        self._denied = denied
        self._clock = clock
        self._limits = limits or RateLimits(None, clock=clock)
        self._lockouts = lockouts or LoginLockout(None, clock=clock)
        self._tokens = tokens
        self._logins: LRUCache[str, Session] = LRUCache(REMEMBERED_BYTES, getsizeof=_weigh)
        self._failures = KnownFailures(GOOD_SECONDS)
        self._beside = BackgroundTasks()

    def cached_session(self, authorization: str | None) -> Session | None:
        """Return the log-in of a request, for one use, if it is known and nothing need be waited for."""
        login: Session | None = None if authorization is None else self._logins.get(authorization)
        return login if login is not None and login.usable() and login.ration.try_spend() else None

    def owner_of(self, authorization: str | None) -> str | None:
        """Return the owner whose log-in this was when it was looked up last, or None if it is not remembered.

        This is not authentication: it only tells whose share of the service a request uses.
        """
        login: Session | None = None if authorization is None else self._logins.get(_canonical(authorization))
        return None if login is None else login.caller.owner

    async def authenticate(self, authorization: str | None, address: str) -> Session:
        """Return the log-in of a request from an address, for one use; Unauthorized or RateLimited if there is none."""
        authorization = None if authorization is None else _canonical(authorization)
        try:
            return await self._let_in(authorization, address)
        except (Unauthorized, RateLimited) as error:
            known: Session | None = None if authorization is None else self._logins.get(authorization)
            self.record_denial(error, known.caller if known is not None and known.good else None)
            raise

    async def confirm(self, login: Session) -> None:
        """Look a log-in up anew that was used before; Unauthorized if it has ended, or may do something else by now.

        This is no attempt to log in: it spends nothing of the ration, and no address is locked out for it.
        """
        try:
            renewed = await self._find(login.authorization)
            if renewed.caller != login.caller:
                raise Unauthorized("What this key may do has changed: send the rest again.", invalid=True)
        except Unauthorized as error:
            self._logins.pop(login.authorization, None)
            login.end()
            self.record_denial(error, login.caller)
            raise

    def record_denial(self, error: GuidsvcError, caller: Caller | None) -> None:
        """Have it noted that somebody was not let in."""
        if self._denied is not None:
            self._denied(error, caller)

    async def _let_in(self, authorization: str | None, address: str) -> Session:
        if authorization is None:
            raise Unauthorized("This needs a key, as in: Authorization: Bearer gs_...", invalid=False)
        known: Session | None = self._logins.get(authorization)
        login = known if known is not None and known.good else await self._try(authorization, address)
        await login.ration.spend()
        return login

    def renew(self, login: Session) -> None:
        """Look a log-in up anew, beside the requests."""
        self._beside.spawn(_quietly(self._renew(login)))

    async def aclose(self) -> None:
        """Finish what is under way beside the requests."""
        await self._beside.drain()

    async def _try(self, authorization: str, address: str) -> Session:
        """Look a log-in up; one that fails is answered at a set time, with RateLimited if its address is locked out."""
        answered_at = asyncio.get_running_loop().time() + FAILED_SECONDS
        wait = self._lockouts.blocked(address)
        try:
            if wait is not None and not self._may_look(authorization, address):
                raise Unauthorized("This log-in has failed before.", invalid=True)
            return await self._find(authorization)
        except Unauthorized as error:
            if wait is None:
                await self._lockouts.failed(address)
            self._failures.note(authorization)
            await asyncio.sleep(answered_at - asyncio.get_running_loop().time())
            if wait is None:
                raise
            detail = f"Too many log-ins have failed from this address: try again in {wait} s."
            raise RateLimited(detail, wait) from error

    def _may_look(self, authorization: str, address: str) -> bool:
        """Whether to look a log-in up from an address that is locked out: this bounds the work that failures cause.

        One that was good before always is. One that has just failed is not, so that a client which goes on with a
        revoked key takes nothing from the others at its address.
        """
        if authorization in self._logins:
            return True
        return not self._failures.holds(authorization) and self._lockouts.may_look(address)

    async def _find(self, authorization: str) -> Session:
        """Look a log-in up, and remember it."""
        asked = perf_counter()
        caller, seconds = await self._look(authorization)
        login: Session | None = self._logins.get(authorization)
        if login is None or login.caller != caller:
            login = Session(self, authorization, caller, self._limits.allowance_for(caller.name))
            self._logins.insert(authorization, login)
        login.keep(asked, seconds)
        return login

    async def _look(self, authorization: str) -> tuple[Caller, float]:
        """Return who asks, and for how many seconds that is sure at most."""
        scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
        if scheme.lower() != _SCHEME or len(authorization) > LONGEST:
            raise Unauthorized("Authorization is not: Bearer, and a key.", invalid=True)
        if self._tokens is not None and token.count(".") == 2:  # noqa: PLR2004  # a JWT (RFC 7519) has three parts
            caller, expires = await self._tokens.find(token)
            return caller, expires - self._clock() / 1000
        shown = keys.parse(token)
        if shown is None:
            raise Unauthorized("This is no key: it is not whole, or was mistyped.", invalid=True)
        return await self._open(shown)

    async def _open(self, shown: keys.PresentedKey) -> tuple[Caller, float]:
        key, now = await self._keys.key(shown.id), self._clock()
        if not keys.verify(shown, key, now) or key is None:
            raise Unauthorized("This key is not known, or no longer good.", invalid=True)
        if key.used is None or now - key.used >= USED_EVERY_MS:
            self._beside.spawn(_quietly(self._note_use(key, now)))
        return key.caller, keys.good_for(shown, key, now)

    async def _note_use(self, key: ApiKey, now: int) -> None:
        """Note that a key was used; whoever changes it at the same time goes first."""
        await self._keys.swap_key(key, key.model_copy(update={"used": now, "version": key.version + 1}))

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
    """Return the one spelling under which a log-in is remembered: its scheme and blanks may be written in many ways."""
    scheme, token = authorization[: len(_SCHEME)], authorization[len(_SCHEME) :]
    return f"Bearer {token.strip()}" if scheme.lower() == _SCHEME else authorization


def _weigh(authorization: str, _login: Session) -> int:
    return LOGIN_BYTES + sys.getsizeof(authorization)


async def _quietly(work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except GuidsvcError as error:
        _log.warning("a key cannot be looked up, or its use noted", error=str(error))
