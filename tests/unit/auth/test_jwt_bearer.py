"""JWT bearer tokens: the caller of a valid token, and the reasons to reject invalid ones."""

import hmac
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guidsvc.auth.tokens.jwk import type_of
from guidsvc.auth.tokens.jwt_bearer import (
    LEEWAY_SECONDS,
    MAX_CHARACTERS,
    JwtTrustPolicy,
    JwtVerifier,
    UnknownKey,
    open_jwt_verifier,
)
from guidsvc.domain.caller import Caller, Scope
from guidsvc.domain.record import MAX_TIME
from guidsvc.errors import StartError, Unauthorized
from tests.conftest import FakeClock
from tests.support.backing_servers import ROOT
from tests.support.jwt_issuer import AUDIENCE, ISSUER, LIFE_SECONDS, SUBJECT, Signer, claims, key_set, segment

EC = Signer("ec")
RSA = Signer("rsa", "RS2048", "RS256")
OTHER_SIGNERS = [Signer("ec-384", "P-384", "ES384"), Signer("ed", "Ed25519", "EdDSA")]
STRANGER = Signer("ec", number=1)
"""Its key has the `kid` of another signer."""
TRUST = JwtTrustPolicy(ISSUER, AUDIENCE)


async def fetch_nothing(url: str, most: int) -> bytes:
    """Fail: these tests use no URL."""
    raise AssertionError(url)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the keys of the issuer."""
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(*(each.jwk() for each in [EC, RSA, *OTHER_SIGNERS])))
    return file


@pytest.fixture
async def tokens(path: Path, clock: FakeClock) -> AsyncIterator[JwtVerifier]:
    async with open_jwt_verifier(str(path), TRUST, fetch=fetch_nothing, clock=clock) as opened:
        yield opened


@pytest.mark.parametrize(
    ("signer", "algorithm"),
    [(RSA, f"{kind}S{bits}") for kind in "RP" for bits in (256, 384, 512)]
    + [(EC, "ES256"), (OTHER_SIGNERS[0], "ES384"), (OTHER_SIGNERS[1], "EdDSA")],
)
def test_valid_token_yields_caller_and_expiry(
    tokens: JwtVerifier, clock: FakeClock, signer: Signer, algorithm: str
) -> None:
    caller, expires = tokens.verify(signer.token(claims(clock.seconds, scope="read write"), by=algorithm))

    name = f"jwt:{sha256(SUBJECT.encode()).hexdigest()[:32]}"
    assert caller == Caller(f"{ISSUER}#{SUBJECT}", frozenset({"read", "write"}), name)
    assert expires == clock.seconds + LIFE_SECONDS


# Invalid tokens

Forge = Callable[[int], str]


def pem(signer: Signer) -> bytes:
    """Return the public key in PEM."""
    return signer.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def forge_token(now: int, header: object, secret: bytes | None = None, content: object = None) -> str:
    """Return a token without a valid signature, or with an HMAC of this secret."""
    signed = f"{segment(header)}.{segment(claims(now) if content is None else content)}"
    return f"{signed}.{segment(hmac.digest(secret, signed.encode(), 'sha256')) if secret else ''}"


def with_claims(signer: Signer = EC, **changed_claims: object) -> Forge:
    """Sign valid claims with these changes."""
    return lambda now: signer.token(claims(now, **changed_claims))


def tamper(now: int) -> str:
    """Change the payload of a signed token."""
    head, _, signature = EC.token(claims(now)).split(".")
    return f"{head}.{segment(claims(now, sub='another'))}.{signature}"


def signed_as(signer: Signer, kid: str, algorithm: str | None = None) -> Forge:
    """Sign with one key under the `kid` of another, and optionally under another algorithm."""

    def forge(now: int) -> str:
        token = signer.token(claims(now), kid=kid)
        header = {"kid": kid, "alg": algorithm}
        return token if algorithm is None else f"{segment(header)}.{token.partition('.')[2]}"

    return forge


def sign_payload(now: int, text: bytes) -> str:
    """Sign a payload that is no JSON object."""
    return jwt.api_jws.encode(text, EC.private_key, "ES256", headers={"kid": "ec"})


NOT_ACCEPTED, WRONG_KEY, BAD_SIGNATURE = (
    "not accepted",
    "does not match its signing key",
    "signature of the token is invalid",
)
NO_JWT, NO_TIME = "not a signed JWT", "invalid time"
INVALID_TOKENS: dict[str, tuple[Forge, str]] = {
    "empty": (lambda _: "", NO_JWT),
    "a word": (lambda _: "token", NO_JWT),
    "two parts": (lambda now: EC.token(claims(now)).rpartition(".")[0], NO_JWT),
    "four parts": (lambda now: EC.token(claims(now)) + ".x", NO_JWT),
    "five parts, as encrypted": (lambda now: EC.token(claims(now)) + ".x.x", NO_JWT),
    "not ASCII": (lambda now: EC.token(claims(now)) + "\xe9", NO_JWT),
    "half a character": (lambda now: EC.token(claims(now)) + "\ud800", NO_JWT),
    "a foreign character in its signature": (lambda now: EC.token(claims(now)) + "!", NO_JWT),
    "padding": (lambda now: EC.token(claims(now)) + "==", NO_JWT),
    "a blank in it": (lambda now: EC.token(claims(now)).replace(".", ". ", 1), NO_JWT),
    "header is no JSON": (lambda _: f"{segment(b'{')}.e30.x", NO_JWT),
    "header is no object": (lambda _: f"{segment([])}.e30.x", NO_JWT),
    "header is deep": (lambda _: f"{segment(b'[' * 2000)}.e30.x", NO_JWT),
    "payload is no JSON": (lambda now: sign_payload(now, b"{"), NO_JWT),
    "payload is no object": (lambda now: sign_payload(now, b"[]"), NO_JWT),
    "payload is deep": (lambda now: sign_payload(now, b"[" * 2000), NO_JWT),
    "critical and unknown": (lambda now: EC.token(claims(now), crit=["secret"], secret=1), NO_JWT),
    "detached": (lambda now: forge_token(now, {"alg": "ES256", "kid": "ec", "b64": False, "crit": ["b64"]}), NO_JWT),
    "signature is gone": (lambda now: EC.token(claims(now)).rpartition(".")[0] + ".", BAD_SIGNATURE),
    "signature is short": (lambda now: EC.token(claims(now))[:-2], BAD_SIGNATURE),
    "tampered": (tamper, BAD_SIGNATURE),
    "signed by a stranger": (with_claims(STRANGER), BAD_SIGNATURE),
    "none": (lambda now: forge_token(now, {"alg": "none", "kid": "ec"}), NOT_ACCEPTED),
    "None": (lambda now: forge_token(now, {"alg": "None", "kid": "ec"}), NOT_ACCEPTED),
    "no algorithm": (lambda now: forge_token(now, {"kid": "ec"}), NOT_ACCEPTED),
    "a list of algorithms": (lambda now: forge_token(now, {"alg": ["ES256"], "kid": "ec"}), NOT_ACCEPTED),
    "HS256 by the public RSA key": (
        lambda now: forge_token(now, {"alg": "HS256", "kid": "rsa"}, pem(RSA)),
        NOT_ACCEPTED,
    ),
    "HS256 by the public EC key": (lambda now: forge_token(now, {"alg": "HS256", "kid": "ec"}, pem(EC)), NOT_ACCEPTED),
    "HS256 by the set": (
        lambda now: forge_token(now, {"alg": "HS256", "kid": "rsa"}, json.dumps(RSA.jwk()).encode()),
        NOT_ACCEPTED,
    ),
    "HMAC under the name of RSA": (
        lambda now: forge_token(now, {"alg": "RS256", "kid": "rsa"}, pem(RSA)),
        BAD_SIGNATURE,
    ),
    "HMAC under the name of EC": (lambda now: forge_token(now, {"alg": "ES256", "kid": "ec"}, pem(EC)), BAD_SIGNATURE),
    "another curve": (with_claims(Signer("p-521", "P-521", "ES512")), NOT_ACCEPTED),
    "RSA, names an EC key": (signed_as(RSA, "ec"), WRONG_KEY),
    "EC, names an RSA key": (signed_as(EC, "rsa"), WRONG_KEY),
    "EC, names an Ed25519 key": (signed_as(EC, "ed"), WRONG_KEY),
    "EC, names a key of another curve": (signed_as(EC, "ec-384"), WRONG_KEY),
    "Ed25519, names an EC key": (signed_as(OTHER_SIGNERS[1], "ec"), WRONG_KEY),
    "EC, says it is RSA": (signed_as(EC, "ec", "RS256"), WRONG_KEY),
    "RSA, says it is EC": (signed_as(RSA, "rsa", "ES256"), WRONG_KEY),
    "RSA, says it is PSS": (signed_as(RSA, "rsa", "PS256"), BAD_SIGNATURE),
    "no kid": (lambda now: Signer(None).token(claims(now)), "does not name"),
    "kid is no text": (lambda now: forge_token(now, {"alg": "ES256", "kid": ["ec"]}), "does not name"),
    "kid is null": (lambda now: forge_token(now, {"alg": "ES256", "kid": None}), "does not name"),
    "kid is a path": (with_claims(Signer("../../etc/passwd")), "unknown"),
    "brings its own key": (
        lambda now: STRANGER.token(claims(now), jwk=STRANGER.jwk(), kid="own", jku="http://127.0.0.1:1/"),
        "unknown",
    ),
    "expired": (lambda now: EC.token(claims(now, exp=now)), "has expired"),
    "expired long ago": (with_claims(exp=1), "has expired"),
    "expired before 1970": (with_claims(exp=-1), "has expired"),
    "never expires": (with_claims(exp=None), r"\(exp\)"),
    "exp is a text": (with_claims(exp="4102444800"), NO_TIME),
    "exp is true": (with_claims(exp=True), NO_TIME),
    "exp is infinite": (with_claims(exp=float("inf")), NO_TIME),
    "exp is no number": (with_claims(exp=float("nan")), NO_TIME),
    "exp is a list": (with_claims(exp=[1]), NO_TIME),
    "not valid yet": (lambda now: EC.token(claims(now, nbf=now + LEEWAY_SECONDS + 1)), r"not valid yet \(nbf\)"),
    "issued later": (lambda now: EC.token(claims(now, iat=now + LEEWAY_SECONDS + 1)), r"not valid yet \(iat\)"),
    "nbf is a text": (with_claims(nbf="0"), NO_TIME),
    "iat is an object": (with_claims(iat={}), NO_TIME),
    "another issuer": (with_claims(iss="https://other.example/"), r"\(iss\)"),
    "nearly the issuer": (with_claims(iss=ISSUER.rstrip("/")), r"\(iss\)"),
    "no issuer": (with_claims(iss=None), r"\(iss\)"),
    # PyJWT refuses to encode such an issuer
    "issuers": (lambda now: sign_payload(now, json.dumps(claims(now, iss=[ISSUER])).encode()), r"\(iss\)"),
    "another audience": (with_claims(aud="other"), r"\(aud\)"),
    "other audiences": (with_claims(aud=["other", AUDIENCE + "2"]), r"\(aud\)"),
    "nearly the audience": (with_claims(aud=AUDIENCE.upper()), r"\(aud\)"),
    "part of an audience": (with_claims(aud=f"x{AUDIENCE}x"), r"\(aud\)"),
    "no audience": (with_claims(aud=None), r"\(aud\)"),
    "audience is an object": (with_claims(aud={AUDIENCE: 1}), r"\(aud\)"),
    "no subject": (with_claims(sub=None), r"\(sub\)"),
    "an empty subject": (with_claims(sub=""), r"\(sub\)"),
    "a blank subject": (with_claims(sub=" "), r"\(sub\)"),
    "a subject with a line feed": (with_claims(sub="a\nb"), r"\(sub\)"),
    "a long subject": (with_claims(sub="x" * 257), r"\(sub\)"),
    "a subject of half a character": (with_claims(sub="\ud800"), r"\(sub\)"),
    "a number for a subject": (with_claims(sub=7), r"\(sub\)"),
}  # fmt: skip


@pytest.mark.parametrize(("forge", "reason"), INVALID_TOKENS.values(), ids=INVALID_TOKENS.keys())
async def test_invalid_token_is_rejected_with_a_reason(
    tokens: JwtVerifier, clock: FakeClock, forge: Forge, reason: str
) -> None:
    token = forge(clock.seconds)

    with pytest.raises(Unauthorized, match=reason) as error:
        tokens.verify(token)
    with pytest.raises(Unauthorized, match=reason):
        await tokens.find(token)
    assert error.value.invalid
    assert isinstance(error.value, UnknownKey) == (reason == "unknown")


@pytest.mark.parametrize("forge", [forge for forge, _ in INVALID_TOKENS.values()], ids=INVALID_TOKENS.keys())
def test_rejection_shows_nothing_of_the_token(tokens: JwtVerifier, clock: FakeClock, forge: Forge) -> None:
    token = forge(clock.seconds)

    with pytest.raises(Unauthorized) as error:
        tokens.verify(token)
    secrets = [*(part for part in token.split(".") if len(part) > 10), "example", "passwd", "secret", SUBJECT]
    assert [secret for secret in secrets if secret in str(error.value)] == []


def test_long_token_is_not_parsed(tokens: JwtVerifier, clock: FakeClock) -> None:
    longest = MAX_CHARACTERS - len(EC.token(claims(clock.seconds, pad="")))
    fits = EC.token(claims(clock.seconds, pad="x" * (longest * 3 // 4 - 2)))
    assert MAX_CHARACTERS - 8 < len(fits) <= MAX_CHARACTERS
    assert tokens.verify(fits)

    for long in (EC.token(claims(clock.seconds, pad="x" * longest)), "x" * (MAX_CHARACTERS + 1)):
        with pytest.raises(Unauthorized, match="longer than 8192"):
            tokens.verify(long)


# Times, audiences


def test_token_is_valid_until_its_expiry_second(tokens: JwtVerifier, clock: FakeClock) -> None:
    token = EC.token(claims(clock.seconds))

    clock.advance(seconds=LIFE_SECONDS - 0.001)
    assert tokens.verify(token).expires == clock.seconds + 1
    clock.advance(seconds=0.001)
    with pytest.raises(Unauthorized, match="expired"):
        tokens.verify(token)


@pytest.mark.parametrize("huge", [10**400, 1.7e308])
async def test_expiry_may_be_any_number(tokens: JwtVerifier, clock: FakeClock, huge: float) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds, exp=huge))).expires == MAX_TIME
    for claim, value in (("exp", -huge), ("nbf", huge), ("iat", huge)):
        with pytest.raises(Unauthorized):
            await tokens.find(EC.token(claims(clock.seconds, **{claim: value})))


def test_fraction_of_a_second_does_not_extend_a_token(tokens: JwtVerifier, clock: FakeClock) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds, exp=clock.seconds + 1.9))).expires == clock.seconds + 1


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_issuer_clock_may_be_slightly_ahead(tokens: JwtVerifier, clock: FakeClock, claim: str) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds, **{claim: clock.seconds + LEEWAY_SECONDS})))


def test_issue_time_is_optional(tokens: JwtVerifier, clock: FakeClock) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds, iat=None)))


def test_token_may_have_several_audiences(tokens: JwtVerifier, clock: FakeClock) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds, aud=["other", AUDIENCE])))


# Callers


@pytest.mark.parametrize(
    ("scope_claims", "scopes"),
    [
        ({"scope": "read"}, {"read"}),
        ({"scope": "openid write profile delete"}, {"write", "delete"}),
        ({"scope": "admin"}, {"admin"}),
        ({"scope": "monitor"}, {"monitor"}),
        ({"scope": "reader READ read:all xread"}, set()),
        ({"scope": "read\u00a0write\tadmin"}, set()),
        ({"scope": ""}, set()),
        ({"scope": None}, set()),
        ({"scope": ["read", "write"]}, {"read", "write"}),
        ({"scope": {"read": 1}}, set()),
        ({"scope": None, "scp": ["read", 7, "other"]}, {"read"}),
        ({"scope": None, "scp": "read write"}, {"read", "write"}),
        ({"scope": "read", "scp": ["admin"]}, {"read"}),
        ({"scope": "", "scp": ["admin"]}, set()),
    ],
)
def test_known_scopes_of_a_token_count(
    tokens: JwtVerifier, clock: FakeClock, scope_claims: dict[str, Any], scopes: set[Scope]
) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds, **scope_claims))).caller.scopes == scopes


@pytest.mark.parametrize("shares_owners", [True, False])
@pytest.mark.parametrize("claim", ["x", "x" * (256 - len(ISSUER) - 1), "Zoë, Inc.", f"{ISSUER}#x"])
async def test_other_claim_can_name_the_owner(path: Path, clock: FakeClock, claim: str, shares_owners: bool) -> None:
    """The owner has the issuer as a prefix, unless the issuer shares owners with API keys."""
    trust = JwtTrustPolicy(ISSUER, AUDIENCE, "client_id", shares_owners=shares_owners)
    async with open_jwt_verifier(str(path), trust, fetch=fetch_nothing, clock=clock) as tokens:
        caller = tokens.verify(EC.token(claims(clock.seconds, client_id=claim))).caller
        owner = claim if shares_owners else f"{ISSUER}#{claim}"
        assert (caller.owner, caller.name) == (owner, f"jwt:{sha256(SUBJECT.encode()).hexdigest()[:32]}")
        with pytest.raises(Unauthorized, match="client_id"):
            tokens.verify(EC.token(claims(clock.seconds)))


@pytest.mark.parametrize(
    ("changed_claims", "identity"),
    [
        ({"sub": "s", "jti": "j"}, b"s"),
        ({"sub": None, "jti": "j"}, b"\xffclient_id=o"),
        ({"sub": None}, b"\xffclient_id=o"),
        ({"sub": "", "jti": 7}, b"\xffclient_id=o"),
        ({"sub": "client_id=o"}, b"client_id=o"),
        ({"sub": "\xffclient_id=o"}, b"\xc3\xbfclient_id=o"),
        ({"sub": "\ud800"}, b"\xed\xa0\x80"),
    ],
)
async def test_owner_name_is_a_digest_of_the_subject_claim(
    path: Path, clock: FakeClock, changed_claims: dict[str, Any], identity: bytes
) -> None:
    async with open_jwt_verifier(
        str(path), JwtTrustPolicy(ISSUER, AUDIENCE, "client_id"), fetch=fetch_nothing, clock=clock
    ) as tokens:
        caller = tokens.verify(EC.token(claims(clock.seconds, client_id="o", **changed_claims))).caller

    assert caller.name == f"jwt:{sha256(identity).hexdigest()[:32]}"


# Purpose of a token


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT"])
def test_type_of_access_token_is_accepted(tokens: JwtVerifier, clock: FakeClock, typ: str) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds), typ=typ))


def test_type_is_optional(tokens: JwtVerifier, clock: FakeClock) -> None:
    token = EC.token(claims(clock.seconds), typ=None)
    assert "typ" not in jwt.get_unverified_header(token)
    assert tokens.verify(token)


@pytest.mark.parametrize(
    "typ",
    [
        "logout+jwt",
        "secevent+jwt",
        "dpop+jwt",
        "JOSE",
        "application/jwt",
        "id+jwt",
        "at+jwt ",
        "at_jwt",
        "JWE",
        "x",
        "jwt+at",
    ],
)
def test_other_type_is_rejected(tokens: JwtVerifier, clock: FakeClock, typ: str) -> None:
    with pytest.raises(Unauthorized, match=r"\(typ\)"):
        tokens.verify(EC.token(claims(clock.seconds), typ=typ))


@pytest.mark.parametrize("typ", [b"null", b"7", b"[]", b'["JWT"]', b"{}", b"true", b'""'])
def test_type_that_is_no_text_is_rejected(typ: bytes) -> None:
    header = segment(b'{"alg":"ES256","kid":"ec","typ":' + typ + b"}")
    with pytest.raises(Unauthorized, match=r"\(typ\)"):
        type_of(f"{header}.e30.x")


OTHER_USES: list[dict[str, object]] = [
    {"nonce": "n"},
    {"at_hash": "h"},
    {"c_hash": "h"},
    {"typ": "ID"},
    {"typ": "Refresh"},
    {"typ": "Logout"},
    {"token_use": "id"},
    {"typ": "ID", "nonce": "n"},
    {"typ": "Bearer", "token_use": "id"},
    {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
]


@pytest.mark.parametrize("other_claims", OTHER_USES, ids=str)
def test_id_token_of_any_type_is_rejected(tokens: JwtVerifier, clock: FakeClock, other_claims: dict[str, Any]) -> None:
    for typ in ("JWT", None):
        with pytest.raises(Unauthorized, match="not an access token"):
            tokens.verify(EC.token(claims(clock.seconds, **other_claims), typ=typ))
    assert tokens.verify(EC.token(claims(clock.seconds, **other_claims), typ="at+jwt")), (
        "the issuer marks it as an access token"
    )


@pytest.mark.parametrize(
    "claims_of_access_token", [{"typ": "Bearer", "nonce": "n"}, {"token_use": "access"}, {"auth_time": 1}], ids=str
)
def test_marked_access_token_is_accepted(
    tokens: JwtVerifier, clock: FakeClock, claims_of_access_token: dict[str, Any]
) -> None:
    assert tokens.verify(EC.token(claims(clock.seconds, **claims_of_access_token)))


async def test_setting_accepts_only_the_access_token_type(path: Path, clock: FakeClock) -> None:
    trust = JwtTrustPolicy(ISSUER, AUDIENCE, requires_access_token=True)
    async with open_jwt_verifier(str(path), trust, fetch=fetch_nothing, clock=clock) as tokens:
        assert tokens.verify(EC.token(claims(clock.seconds), typ="at+jwt"))
        assert tokens.verify(EC.token(claims(clock.seconds), typ="application/at+jwt"))
        for typ in ("JWT", None):
            with pytest.raises(Unauthorized, match=r"must be at\+jwt"):
                tokens.verify(EC.token(claims(clock.seconds), typ=typ))


# Start


@pytest.mark.parametrize("trust", [JwtTrustPolicy("", AUDIENCE), JwtTrustPolicy(ISSUER, ""), JwtTrustPolicy("", "")])
async def test_trust_settings_are_required_at_the_start(path: Path, clock: FakeClock, trust: JwtTrustPolicy) -> None:
    with pytest.raises(StartError, match=r"^jwt_issuer, jwt_audience: ") as error:
        async with open_jwt_verifier(str(path), trust, fetch=fetch_nothing, clock=clock):
            pass
    assert "\n" not in str(error.value)


def test_jwt_library_is_imported_only_if_configured() -> None:
    code = "import guidsvc.bootstrap.app, guidsvc.auth.tokens.jwt_bearer, sys; sys.exit('jwt' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
