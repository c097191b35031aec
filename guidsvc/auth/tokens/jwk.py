"""Public signing keys of a JSON Web Key Set (RFC 7517).

The only module that imports PyJWT and cryptography, which is slow: import it on demand. A key accepts only the
algorithms of its type, whatever a token claims (RFC 8725, 3.1): never `none`, never HS256, for which the public key
would be the secret. Reading a set and validating claims belong to other modules.
"""

from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic_core import from_json

from guidsvc.errors import Unauthorized

RSA_BITS = 2048
"""Minimum size of an RSA key, in bits."""
RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES = {"secp256r1": frozenset({"ES256"}), "secp384r1": frozenset({"ES384"})}
EDWARDS = frozenset({"EdDSA"})
ALGORITHMS = RSA.union(EDWARDS, *CURVES.values())
MALFORMED = "The token is not a signed JWT."
ACCESS_TOKEN = frozenset({"at+jwt", "application/at+jwt"})
"""Types (`typ`, in lower case) that mark an access token (RFC 9068, 2.1)."""
ANY_TYPE = ACCESS_TOKEN | {"jwt", None}
"""Accepted types. Others, such as `logout+jwt`, mark tokens for another use (RFC 8725, 3.11)."""

Public = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_READERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}
_CLAIMS = (
    "exp",
    "nbf",
    "iat",
    "iss",
    "aud",
    "sub",
    "jti",
)  # `guidsvc.auth.tokens.jwt_bearer` validates these, with an injected clock
_JWT = jwt.PyJWT(options={f"verify_{claim}": False for claim in _CLAIMS})  # type: ignore[arg-type]  # names of options


class SigningKey(NamedTuple):
    """A public key, and the algorithms it may be used with."""

    public: Public
    algorithms: frozenset[str]

    def claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token, not validated yet; raise Unauthorized if this key has not signed it."""
        try:
            return _JWT.decode(token, self.public, sorted(self.algorithms))
        except jwt.InvalidAlgorithmError as error:
            raise Unauthorized(
                "The algorithm (alg) of the token does not match its signing key.", invalid=True
            ) from error
        except jwt.InvalidSignatureError as error:
            raise Unauthorized("The signature of the token is invalid.", invalid=True) from error
        except jwt.PyJWTError as error:
            raise Unauthorized(MALFORMED, invalid=True) from error


class JwkSet(NamedTuple):
    """The keys of a set by `kid`, and the reasons why others are ignored."""

    keys: Mapping[str | None, SigningKey]
    ignored: Sequence[str] = ()

    def signer(self, token: str) -> SigningKey | None:
        """Return the signing key that a token names, or None if it is absent; raise Unauthorized if it names none.

        A token need not name its key if the set holds only one.
        """
        header = read_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise Unauthorized("The algorithm (alg) of the token is not accepted.", invalid=True)
        if isinstance(kid, str):
            return self.keys.get(kid)
        if "kid" in header or len(self.keys) != 1:
            raise Unauthorized("The token does not name its signing key (kid).", invalid=True)
        return next(iter(self.keys.values()))


def parse_jwks(text: bytes) -> JwkSet:
    """Return the keys of a set that may sign tokens, and ignore others; raise ValueError if the text is no set."""
    document = from_json(text)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a JWKS: expected an object with a list of keys")  # noqa: TRY004  # the text is wrong, not a type
    keys: dict[str | None, SigningKey] = {}
    ignored = []
    for each in document["keys"]:
        kid = each.get("kid") if isinstance(each, dict) else None
        try:
            if kid in keys:
                raise ValueError("the key id (kid) is not unique")
            keys[kid] = _key(each)
        except (ValueError, TypeError, UnsupportedAlgorithm, jwt.PyJWTError) as error:
            ignored.append(f"{kid!r:.80}: {' '.join(str(error).split()):.200}")
    return JwkSet(keys, ignored)


def _key(jwk: object) -> SigningKey:
    """Parse a key; the error says why it may not sign tokens."""
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kid", ""), str):
        raise TypeError("not a key")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise ValueError("not a key for signatures (use, key_ops)")
    if "d" in jwk:
        raise ValueError("contains its private part; publish only public keys")
    reader = _READERS.get(jwk.get("kty", ""))
    if reader is None:
        raise ValueError("unsupported key type (kty)")
    public = reader(jwk)
    algorithms = _algorithms(public) & ({jwk["alg"]} if "alg" in jwk else ALGORITHMS)
    if not algorithms:
        raise ValueError("unsupported algorithm (alg)")
    return SigningKey(public, algorithms)  # type: ignore[arg-type]  # only supported keys have algorithms


def _algorithms(public: object) -> frozenset[str]:
    """Return the algorithms of a key's type, empty if unsupported; raise ValueError if an RSA key is too short."""
    match public:
        case RSAPublicKey():
            if public.key_size < RSA_BITS:
                raise ValueError(f"has {public.key_size} bits; at least {RSA_BITS} are required")
            return RSA
        case EllipticCurvePublicKey():
            return CURVES.get(public.curve.name, frozenset())
        case Ed25519PublicKey():
            return EDWARDS
        case _:
            return frozenset()


def type_of(token: str) -> str | None:
    """Return the type (`typ`) of a token in lower case, None if absent; raise Unauthorized if it is not accepted."""
    header = read_header(token)
    value = header.get("typ")
    token_type = value.lower() if isinstance(value, str) else value
    if "typ" in header and not (isinstance(token_type, str) and token_type in ANY_TYPE):
        raise Unauthorized("The type (typ) of the token is not one of access tokens.", invalid=True)
    return token_type


def read_header(token: str) -> dict[str, Any]:
    """Return the unverified header of a token; raise Unauthorized if it is malformed."""
    part = token.partition(".")[0]
    try:
        header = from_json(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError as error:
        raise Unauthorized(MALFORMED, invalid=True) from error
    if not (token.isascii() and isinstance(header, dict)):
        raise Unauthorized(MALFORMED, invalid=True)
    return header
