"""The keys of a JWKS: which of them may verify tokens, and for which algorithms."""

from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidsvc.auth.tokens.jwk import parse_jwks
from guidsvc.errors import Unauthorized
from tests.support.jwt_issuer import Signer, jwk, key_set, private_key

GOOD = Signer("good")
SECRET = urlsafe_b64encode(b"s" * 32).decode()


def public(kind: str, **members: object) -> dict[str, Any]:
    """Return a JWK of this kind."""
    return jwk(private_key(kind).public_key(), **members)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [
        ("RS2048", {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ("P-256", {"ES256"}),
        ("P-384", {"ES384"}),
        ("Ed25519", {"EdDSA"}),
    ],
)
def test_key_verifies_tokens_of_its_kind(kind: str, algorithms: set[str]) -> None:
    assert parse_jwks(key_set(public(kind, kid="k"))).keys["k"].algorithms == algorithms


def test_key_with_a_purpose_verifies_only_for_it() -> None:
    assert parse_jwks(key_set(public("RS2048", kid="k", alg="PS256"))).keys["k"].algorithms == {"PS256"}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (public("RS1024"), "1024 bits; at least 2048 are required"),
        ({"kty": "oct", "k": SECRET}, "key type"),
        ({"kty": "oct", "k": SECRET, "alg": "HS256"}, "key type"),
        (public("P-521"), "algorithm"),
        (public("secp256k1"), "algorithm"),
        (public("Ed448"), "algorithm"),
        (public("RS2048", alg="HS256"), "algorithm"),
        (public("RS2048", alg="ES256"), "algorithm"),
        (public("RS2048", alg="RSA-OAEP"), "algorithm"),
        (public("RS2048", alg="none"), "algorithm"),
        (public("RS2048", use="enc"), "signatures"),
        (public("RS2048", key_ops=["encrypt"]), "signatures"),
        (jwk(private_key("P-256")), "private part"),
        (jwk(private_key("RS2048"), key_ops=["verify"]), "private part"),
        (public("P-256", kid="good"), "not unique"),
        (public("P-256", kid=7), "not a key"),
        (public("P-256", kid=["k"]), ""),
        (public("P-256", x="AAAA"), ""),
        (public("P-256", x=SECRET, y=SECRET), ""),
        (public("P-256", alg=["ES256"]), ""),
        (public("P-256", key_ops=7), ""),
        (public("RS2048", e="AA"), ""),
        ({"kty": ["RSA"]}, ""),
        ({}, "key type"),
        ("a key", "not a key"),
        (None, "not a key"),
    ],
)
def test_unusable_key_is_skipped_with_a_reason(key: object, reason: str) -> None:
    jwks = parse_jwks(key_set(GOOD.jwk(), key))

    assert list(jwks.keys) == ["good"]
    assert len(jwks.ignored) == 1
    assert reason in jwks.ignored[0].partition(": ")[2]
    assert "\n" not in jwks.ignored[0]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"7", b"{}", b'{"keys": {}}', b'{"keys": null}', b"\xff", b"[" * 9999]
)
def test_invalid_set_is_reported(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse_jwks(text)
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda j: st.lists(j, max_size=3)
)


@given(
    st.sampled_from(["RS2048", "P-256", "Ed25519"]),
    st.sampled_from(["kty", "crv", "n", "e", "x", "y", "alg", "use", "key_ops", "kid"]),
    JSON,
)
def test_malformed_key_does_not_spoil_the_set(kind: str, member: str, value: object) -> None:
    jwks = parse_jwks(key_set(GOOD.jwk(), public(kind, **{member: value})))

    assert "good" in jwks.keys
    assert len(jwks.keys) + len(jwks.ignored) == 2


@given(st.text())
def test_malformed_token_has_no_key_id(text: str) -> None:
    with pytest.raises(Unauthorized):
        parse_jwks(key_set(GOOD.jwk())).signer(text)


@pytest.mark.parametrize("kid", ["k", None])
def test_token_without_key_id_uses_the_only_key(kid: str | None) -> None:
    keyed, nameless = Signer(kid), Signer(None)

    jwks = parse_jwks(key_set(keyed.jwk()))
    signer = jwks.signer(nameless.token({"sub": "x"}))
    assert signer is not None
    assert signer.claims(nameless.token({"sub": "x"})) == {"sub": "x"}


def test_token_without_key_id_is_rejected_among_several_keys() -> None:
    jwks = parse_jwks(key_set(GOOD.jwk(), public("Ed25519", kid="other")))

    with pytest.raises(Unauthorized, match="does not name"):
        jwks.signer(Signer(None).token({}))
