"""JWT bearer tokens: who asks with one, and until when it is good.

    open_tokens(place, trust, ...)   -> Tokens
    tokens.verify(token)             at once; UnknownKey if its signing key is not at hand
    await tokens.find(token)         the same, after another look at the key set, if need be

An access token of RFC 9068, or what other issuers make of it: signed by a key of the set that the settings name, by the
issuer and for the audience that they name. This module judges claims. Keys are those of `guidsvc.auth.jwk`, which is
imported only where there are tokens; that there is HTTP, it does not know.
"""

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from math import floor, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from guidsvc.domain.caller import SCOPES, Caller, Scope
from guidsvc.domain.record import MAX_TIME, User
from guidsvc.errors import StartError, Unauthorized
from guidsvc.optional_imports import requires_extra
from guidsvc.runtime.clock import Clock

if TYPE_CHECKING:
    from guidsvc.auth.jwks import Fetch, JwksCache, RefreshPolicy

MAX_CHARACTERS = 8 * 1024
"""A longer token is not looked at."""
_COMPACT = re.compile(r"[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+){2}")
"""The compact form (RFC 7515, 7.1). Decoders ignore other characters: a token would have any number of spellings."""
LEEWAY_SECONDS = 30
"""By which the clock of the issuer may be ahead of ours. A token that has expired by ours has expired."""
OWNER_CLAIM = "sub"
SEPARATOR = "#"
"""Stands between issuer and claim in the name of an owner; no issuer holds one (OpenID Connect Core, 2)."""
ID_TOKEN = ("nonce", "at_hash", "c_hash")
"""Claims of ID tokens (OpenID Connect Core, 2 and 3.3.2.11), which say who has logged in, and open nothing."""
_OTHER_USES = frozenset({"id", "refresh", "offline", "logout"})
"""What the claims `typ` (Keycloak) and `token_use` (Amazon Cognito) call tokens that are no access tokens."""
_NAME_CHARACTERS = 32  # 128 bits, so that nobody finds another subject of the same name

_USER: TypeAdapter[str] = TypeAdapter(User)


class JwtTrustPolicy(NamedTuple):
    """Whose tokens are believed, for whom they are made, and which claim names the owner."""

    issuer: str
    audience: str
    owner_claim: str = OWNER_CLAIM
    requires_access_token: bool = False
    """Whether a token must have the type `at+jwt` (RFC 9068)."""
    shares_owners: bool = False
    """Whether the claim alone is the owner: then the issuer can name the owner of any API key."""

    def owner(self, claim: str) -> str:
        """Return the owner that a claim names: one of this issuer, unless it may name any."""
        return claim if self.shares_owners else f"{self.issuer}{SEPARATOR}{claim}"


class Verified(NamedTuple):
    """Who asks with a token that is good, and the Unix second from which it no longer is."""

    caller: Caller
    expires: int


class UnknownKey(Unauthorized):
    """The key that a token says it is signed with is not in the set, or was not when that was last read."""

    def __init__(self) -> None:
        super().__init__("The signing key (kid) of the token is unknown.", invalid=True)


@asynccontextmanager
async def open_jwt_verifier(
    place: str,
    trust: JwtTrustPolicy,
    *,
    fetch: "Fetch",
    clock: Clock,
    timer: Callable[[], float] = time.monotonic,
    pace: "RefreshPolicy | None" = None,
) -> AsyncIterator["JwtVerifier"]:
    """Judge tokens, inside, by the key set in a file or at a URL; StartError if it, or what is trusted, is no use."""
    with requires_extra("jwt", "jwt_jwks"):
        from guidsvc.auth.jwks import RefreshPolicy, open_jwks

    if not trust.issuer or not trust.audience:
        raise StartError("jwt_issuer, jwt_audience: tokens (jwt_jwks) take both, whose they are and whom they are for")
    async with open_jwks(place, fetch, timer=timer, pace=pace or RefreshPolicy()) as keys:
        yield JwtVerifier(keys, trust, clock)


class JwtVerifier:
    """Tells who asks with a token."""

    def __init__(self, keys: "JwksCache", trust: JwtTrustPolicy, clock: Clock) -> None:
        self._keys, self._trust, self._clock = keys, trust, clock

    def verify(self, token: str) -> Verified:
        """Return who asks, without a wait; Unauthorized says what is wrong, UnknownKey that `find` may know more."""
        if len(token) > MAX_CHARACTERS:
            raise _bad(f"The token is over {MAX_CHARACTERS} bytes.")
        from guidsvc.auth.jwk import ACCESS_TOKEN, MALFORMED, type_of

        if _COMPACT.fullmatch(token) is None:
            raise _bad(MALFORMED)
        key = self._keys.ring.signer(token)
        if key is None:
            raise UnknownKey
        claims = key.claims(token)
        is_access_token = type_of(token) in ACCESS_TOKEN
        if not is_access_token:
            self._judge_use(claims)
        expires = self._judge_times(claims)
        self._judge_parties(claims)
        return Verified(_caller(claims, self._trust), expires)

    async def find(self, token: str) -> Verified:
        """Return who asks; if the key is unknown, the set is read again first, as far as `refresh` does that."""
        try:
            return self.verify(token)
        except UnknownKey:
            await self.refresh()
        return self.verify(token)

    async def refresh(self) -> None:
        """Read the key set, but once in 10 s at most, however many ask; who asks while it is read waits for it."""
        await self._keys.refresh()

    def _judge_times(self, claims: Mapping[str, Any]) -> int:
        """Return when a token expires."""
        now = self._clock() // 1000
        expires = _time(claims, "exp")
        if expires is None:
            raise _bad("The token does not say when it expires (exp).")
        if expires <= now:
            raise _bad("The token has expired.")
        for name in ("nbf", "iat"):
            begins = _time(claims, name)
            if begins is not None and begins > now + LEEWAY_SECONDS:
                raise _bad(f"The token is not valid yet ({name}).")
        return expires

    def _judge_use(self, claims: Mapping[str, Any]) -> None:
        """Refuse what is no access token, as far as its claims tell that (RFC 8725, 3.12)."""
        if self._trust.requires_access_token:
            raise _bad("The type (typ) of the token must be at+jwt.")
        uses = {claims[name].lower() for name in ("typ", "token_use") if isinstance(claims.get(name), str)}
        marked = any(name in claims for name in ID_TOKEN) and uses.isdisjoint({"bearer", "access"})
        if marked or uses & _OTHER_USES or "events" in claims:  # events: RFC 8417, as of a logout token
            raise _bad("The token is no access token, but an ID token or one for another use.")

    def _judge_parties(self, claims: Mapping[str, Any]) -> None:
        if claims.get("iss") != self._trust.issuer:
            raise _bad("The token is not by the issuer (iss) that is trusted.")
        audience = claims.get("aud")
        if self._trust.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _bad("The token is for another audience (aud).")


def _bad(detail: str) -> Unauthorized:
    return Unauthorized(detail, invalid=True)


def _time(claims: Mapping[str, Any], name: str) -> int | None:
    """Return a claim in Unix seconds, None if it is not there."""
    value = claims.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not isfinite(value)):
        raise _bad(f"The token has a time ({name}) that is none.")
    seconds: int = floor(value)
    return max(-MAX_TIME, min(seconds, MAX_TIME))  # an integer may be too large to count with floats


def _caller(claims: Mapping[str, Any], trust: JwtTrustPolicy) -> Caller:
    try:
        named = _USER.validate_python(claims.get(trust.owner_claim))
        owner = _USER.validate_python(trust.owner(named))
        owner.encode()  # JSON can hold half a character, which could not be written
    except ValueError as error:
        raise _bad(f"The token names no owner that can be one ({trust.owner_claim}).") from error
    return Caller(owner, _scopes(claims), _name(claims, trust.owner_claim, named))


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Return those of our scopes that a token has, in `scope` (RFC 8693, 9068) or `scp`; others mean nothing here."""
    told = claims.get("scope", claims.get("scp"))
    words = told.split(" ") if isinstance(told, str) else told
    return frozenset(scope for scope in SCOPES if isinstance(words, list) and scope in words)


def _name(claims: Mapping[str, Any], owner_claim: str, owner: str) -> str:
    """Return what the logs call whom a token is about: the same for each of their tokens, so not by its `jti`."""
    subject = claims.get("sub")
    named = subject if subject and isinstance(subject, str) else f"{owner_claim}={owner}"
    return f"jwt:{sha256(named.encode(errors='surrogatepass')).hexdigest()[:_NAME_CHARACTERS]}"
