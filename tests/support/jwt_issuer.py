"""A token issuer: real keys, their JWKS, and a server for the JWKS."""

import asyncio
import json
import ssl
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from tests.support.stream_server import stream_server

ISSUER, AUDIENCE = "https://issuer.example/", "guidsvc"
SUBJECT = "robot 7"
LIFE_SECONDS = 600

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@cache
def private_key(kind: str, number: int = 0) -> PrivateKey:
    """Generate a key of a kind, such as `RS2048`, `P-256` or `Ed25519`. The same number gives the same key."""
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(), "secp256k1": ec.SECP256K1()}
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    if kind.startswith("RS"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.removeprefix("RS")))
    return ed448.Ed448PrivateKey.generate() if kind == "Ed448" else ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, **members: object) -> dict[str, Any]:
    """Return a key, public or private, as a JWK with these members."""
    kinds = {"RSA": "RSAAlgorithm", "EC": "ECAlgorithm", "Ed": "OKPAlgorithm"}
    name = next(kinds[prefix] for prefix in kinds if type(key).__name__.startswith(prefix))
    key_members: dict[str, Any] = getattr(jwt.algorithms, name).to_jwk(key, as_dict=True)
    return key_members | members


def key_set(*keys: object) -> bytes:
    """Return a JWKS."""
    return json.dumps({"keys": keys}).encode()


def segment(content: object) -> str:
    """Return a part of a token."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return urlsafe_b64encode(text).rstrip(b"=").decode()


class Signer:
    """A key of the issuer."""

    def __init__(self, kid: str | None, kind: str = "P-256", algorithm: str = "ES256", number: int = 0) -> None:
        self.kid, self.algorithm = kid, algorithm
        self.private_key = private_key(kind, number)

    def jwk(self, **members: object) -> dict[str, Any]:
        """Return the public part, as contained in the JWKS."""
        return jwk(self.private_key.public_key(), **({} if self.kid is None else {"kid": self.kid}), **members)

    def token(self, claims: Mapping[str, object], **header: object) -> str:
        """Sign claims."""
        key_id = {} if self.kid is None else {"kid": self.kid}
        algorithm = str(header.pop("by", self.algorithm))
        return jwt.encode(dict(claims), self.private_key, algorithm, headers=key_id | header)


def claims(now: int, **changed: object) -> dict[str, Any]:
    """Return claims that are valid at a time in Unix seconds, with changes. A change to None omits the claim."""
    valid = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": now + LIFE_SECONDS, "iat": now, "scope": "read"}
    return {name: value for name, value in (valid | changed).items() if value is not None}


class JwksServer:
    """A server that counts requests, and responds to each in the same way as soon as `open` is set."""

    def __init__(self, body: bytes) -> None:
        self.body, self.status, self.headers = body, "200 OK", ""
        self.request_count, self.port = 0, 0
        self.open = asyncio.Event()
        self.open.set()

    @property
    def url(self) -> str:
        """The URL of the JWKS."""
        return f"http://127.0.0.1:{self.port}/keys"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        with suppress(OSError, asyncio.IncompleteReadError):  # the client may disconnect
            await reader.readuntil(b"\r\n\r\n")
            self.request_count += 1
            await self.open.wait()
            head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\n{self.headers}\r\n"
            writer.write(head.encode() + self.body)
            await writer.drain()


@asynccontextmanager
async def jwks_server(body: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[JwksServer]:
    """Serve a JWKS within the block."""
    jwks = JwksServer(body)
    async with stream_server(jwks.answer, tls) as jwks.port:
        yield jwks
