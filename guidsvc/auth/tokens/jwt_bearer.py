"""JWT bearer tokens: verify a token, and return its caller and expiry.

    open_jwt_verifier(place, trust, ...)   -> JwtVerifier
    verifier.verify(token)                 at once; UnknownKey if its signing key is not in the cached set
    await verifier.find(token)             the same, after a refresh of the key set if it lacks the key or is overdue

Accepts access tokens of RFC 9068, and other issuers' variants of them. A key of the configured set must have signed
the token, and its issuer and audience must be the configured ones. This module validates claims. Its sibling `jwk`
verifies signatures; it is imported only if tokens are enabled. Neither knows HTTP.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from math import floor, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from guidsvc.domain.caller import SCOPES, Caller, Scope
from guidsvc.domain.record import MAX_TIME, User
from guidsvc.errors import StartError, Unauthorized
from guidsvc.optional_imports import requires_extra
from guidsvc.runtime.clock import Clock, ContinuousClock, continuous_clock
from guidsvc.telemetry.state_metrics import KeySetMetrics

if TYPE_CHECKING:
    from guidsvc.auth.tokens.jwks import Fetch, JwksCache, RefreshPolicy

MAX_CHARACTERS = 8 * 1024
"""Maximum length of a token, in characters; a longer one is rejected unparsed."""
_COMPACT = re.compile(r"[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+){2}")
"""The compact form (RFC 7515, 7.1). Decoders ignore other characters, so a token would have many spellings."""
LEEWAY_SECONDS = 30
"""Tolerance, in seconds, for an issuer whose clock is ahead. Expiry has no tolerance."""
OWNER_CLAIM = "sub"
SEPARATOR = "#"
"""Separates issuer and claim in an owner name; no issuer contains it (OpenID Connect Core, 2)."""
ID_TOKEN = ("nonce", "at_hash", "c_hash")
"""Claims of ID tokens (OpenID Connect Core, 2 and 3.3.2.11), which identify a user and grant no access."""
_OTHER_USES = frozenset({"id", "refresh", "offline", "logout"})
"""Values of the claims `typ` (Keycloak) and `token_use` (Amazon Cognito) that mark other kinds of token."""
_NAME_CHARACTERS = 32  # 128 bits: a second subject with the same name cannot be found

_USER: TypeAdapter[str] = TypeAdapter(User)


class JwtTrustPolicy(NamedTuple):
    """The trusted issuer, the required audience, and the claim that names the owner."""

    issuer: str
    audience: str
    owner_claim: str = OWNER_CLAIM
    requires_access_token: bool = False
    """Whether a token must have the type `at+jwt` (RFC 9068)."""
    shares_owners: bool = False
    """Whether the claim alone is the owner. The issuer can then name the owner of any API key."""

    def validate(self) -> None:
        """Raise StartError if the issuer or the audience is missing."""
        if not self.issuer or not self.audience:
            raise StartError("jwt_issuer, jwt_audience: both are required with --jwt-jwks; set them")

    def owner(self, claim: str) -> str:
        """Return the owner that a claim names, prefixed with the issuer unless owners are shared."""
        return claim if self.shares_owners else f"{self.issuer}{SEPARATOR}{claim}"


class Verified(NamedTuple):
    """The caller of a valid token, and its expiry in Unix seconds."""

    caller: Caller
    expires: int


class UnknownKey(Unauthorized):
    """The signing key that a token names was not in the key set when it was last read."""

    def __init__(self) -> None:
        super().__init__("The signing key (kid) of the token is unknown.", invalid=True)


@asynccontextmanager
async def open_jwt_verifier(  # noqa: PLR0913  # its collaborators, by name
    location: str,
    policy: JwtTrustPolicy,
    *,
    fetch: "Fetch",
    clock: Clock,
    timer: ContinuousClock = continuous_clock,
    refresh_policy: "RefreshPolicy | None" = None,
    meter: KeySetMetrics | None = None,
) -> AsyncIterator["JwtVerifier"]:
    """Open a verifier for the key set in a file or at a URL; raise StartError if it, or the policy, is unusable."""
    with requires_extra("jwt", "jwt_jwks"):
        from guidsvc.auth.tokens.jwks import RefreshPolicy, open_jwks

    policy.validate()
    reads = refresh_policy or RefreshPolicy()
    async with open_jwks(location, fetch, timer=timer, refresh_policy=reads, clock=clock, meter=meter) as keys:
        yield JwtVerifier(keys, policy, clock)


class JwtVerifier:
    """A verifier of JWT bearer tokens."""

    def __init__(self, keys: "JwksCache", policy: JwtTrustPolicy, clock: Clock) -> None:
        self._keys, self._policy, self._clock = keys, policy, clock

    def verify(self, token: str) -> Verified:
        """Verify a token without waiting; raise Unauthorized if it is invalid, UnknownKey if `find` may succeed."""
        if len(token) > MAX_CHARACTERS:
            raise _unauthorized(f"The token is longer than {MAX_CHARACTERS} bytes.")
        from guidsvc.auth.tokens.jwk import ACCESS_TOKEN, MALFORMED, type_of

        if _COMPACT.fullmatch(token) is None:
            raise _unauthorized(MALFORMED)
        key = self._keys.key_set.signer(token)
        if key is None:
            raise UnknownKey
        claims = key.claims(token)
        is_access_token = type_of(token) in ACCESS_TOKEN
        if not is_access_token:
            self._check_use(claims)
        expires = self._check_times(claims)
        self._check_parties(claims)
        return Verified(_caller(claims, self._policy), expires)

    async def find(self, token: str) -> Verified:
        """Verify a token by a key set that is not overdue; if its key is unknown, call `refresh` and try once more."""
        await self._keys.refresh_overdue()
        try:
            return self.verify(token)
        except UnknownKey:
            await self.refresh()
        return self.verify(token)

    async def refresh(self) -> None:
        """Read the key set again, at most once in 10 s; concurrent calls wait for the same read."""
        await self._keys.refresh()

    def _check_times(self, claims: Mapping[str, Any]) -> int:
        """Return the expiry of a token; raise Unauthorized if it has expired or is not valid yet."""
        now = self._clock() // 1000
        expires = _time(claims, "exp")
        if expires is None:
            raise _unauthorized("The token has no expiry (exp).")
        if expires <= now:
            raise _unauthorized("The token has expired.")
        for name in ("nbf", "iat"):
            begins = _time(claims, name)
            if begins is not None and begins > now + LEEWAY_SECONDS:
                raise _unauthorized(f"The token is not valid yet ({name}).")
        return expires

    def _check_use(self, claims: Mapping[str, Any]) -> None:
        """Reject a token whose claims mark it as another kind than an access token (RFC 8725, 3.12)."""
        if self._policy.requires_access_token:
            raise _unauthorized("The type (typ) of the token must be at+jwt.")
        uses = {claims[name].lower() for name in ("typ", "token_use") if isinstance(claims.get(name), str)}
        is_other_kind = any(name in claims for name in ID_TOKEN) and uses.isdisjoint({"bearer", "access"})
        if is_other_kind or uses & _OTHER_USES or "events" in claims:  # events: RFC 8417, as of a logout token
            raise _unauthorized("The token is not an access token, but an ID token or a token for another use.")

    def _check_parties(self, claims: Mapping[str, Any]) -> None:
        if claims.get("iss") != self._policy.issuer:
            raise _unauthorized("The issuer (iss) of the token is not trusted.")
        audience = claims.get("aud")
        if self._policy.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _unauthorized("The token is for a different audience (aud).")


def _unauthorized(detail: str) -> Unauthorized:
    return Unauthorized(detail, invalid=True)


def _time(claims: Mapping[str, Any], name: str) -> int | None:
    """Return a time claim in Unix seconds, or None if it is absent."""
    value = claims.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not isfinite(value)):
        raise _unauthorized(f"The token has an invalid time ({name}).")
    seconds: int = floor(value)
    return max(-MAX_TIME, min(seconds, MAX_TIME))  # a larger integer overflows float arithmetic


def _caller(claims: Mapping[str, Any], policy: JwtTrustPolicy) -> Caller:
    try:
        identifier = _USER.validate_python(claims.get(policy.owner_claim))
        owner = _USER.validate_python(policy.owner(identifier))
        owner.encode()  # JSON can hold a lone surrogate, which UTF-8 cannot encode
    except ValueError as error:
        raise _unauthorized(f"The token names no valid owner ({policy.owner_claim}).") from error
    return Caller(owner, _scopes(claims), _name(claims, policy.owner_claim, identifier))


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Return the scopes of a token, from `scope` (RFC 8693, 9068) or `scp`; ignore unknown ones."""
    scopes = claims.get("scope", claims.get("scp"))
    names = scopes.split(" ") if isinstance(scopes, str) else scopes
    return frozenset(scope for scope in SCOPES if isinstance(names, list) and scope in names)


def _name(claims: Mapping[str, Any], owner_claim: str, owner: str) -> str:
    """Return the caller name for logs and limits: the same for all tokens of a subject, hence not the `jti`.

    Without a subject, it depends on the owner, after a byte that no subject contains: the names of both kinds differ.
    """
    subject = claims.get("sub")
    if subject and isinstance(subject, str):
        identifier = subject.encode(errors="surrogatepass")
    else:
        identifier = b"\xff" + f"{owner_claim}={owner}".encode()
    return f"jwt:{sha256(identifier).hexdigest()[:_NAME_CHARACTERS]}"
