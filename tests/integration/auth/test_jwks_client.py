"""The JWKS client: successful fetches, and responses that are rejected."""

import asyncio
import gzip
import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from guidsvc.auth.tokens import jwks_client as jwks
from guidsvc.auth.tokens.jwks_client import fetch
from tests.conftest import ExpectedLogs
from tests.support.backing_servers import ROOT, free_port
from tests.support.jwt_issuer import JwksServer, jwks_server
from tests.support.stream_server import stream_server

BODY = b'{"keys": []}'
MAX_BYTES = 1000


@pytest.fixture
async def key_server() -> AsyncIterator[JwksServer]:
    async with jwks_server(BODY) as served:
        yield served


async def test_document_is_fetched(key_server: JwksServer) -> None:
    assert await fetch(key_server.url, MAX_BYTES) == BODY


async def test_oversized_document_is_rejected(key_server: JwksServer) -> None:
    key_server.body = b"x" * MAX_BYTES
    assert await fetch(key_server.url, MAX_BYTES) == key_server.body
    key_server.body += b"x"
    with pytest.raises(OSError, match=r"."):
        await fetch(key_server.url, MAX_BYTES)


async def test_compressed_document_is_not_unpacked(key_server: JwksServer) -> None:
    key_server.headers, key_server.body = "Content-Encoding: gzip\r\n", gzip.compress(b"x" * 10 * MAX_BYTES)

    assert await fetch(key_server.url, MAX_BYTES) == key_server.body


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "304 Not Modified"])
async def test_unexpected_status_is_reported(key_server: JwksServer, status: str) -> None:
    key_server.status = status
    with pytest.raises(OSError, match=status[:3]):
        await fetch(key_server.url, MAX_BYTES)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirect_is_not_followed(key_server: JwksServer, status: str) -> None:
    async with jwks_server(BODY) as redirect_target:
        key_server.status, key_server.headers = status, f"Location: {redirect_target.url}\r\n"
        with pytest.raises(OSError, match=status[:3]):
            await fetch(key_server.url, MAX_BYTES)
        assert (key_server.request_count, redirect_target.request_count) == (1, 0)


async def test_slow_server_is_not_waited_for_long(key_server: JwksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "SECONDS", 0.05)
    key_server.open.clear()

    with pytest.raises(OSError, match=r"no answer within 0\.05 s"):
        await fetch(key_server.url, MAX_BYTES)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"x" * 70_000,
    ],
    ids=["none", "no head", "cut off", "large head", "no HTTP"],
)
async def test_malformed_response_is_reported(text: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)

    async with stream_server(respond) as port:
        with pytest.raises(OSError, match=r"."):
            await fetch(f"http://127.0.0.1:{port}/", MAX_BYTES)


async def test_unreachable_server_is_reported() -> None:
    with pytest.raises(OSError, match="refused"):
        await fetch(f"http://127.0.0.1:{free_port()}/", MAX_BYTES)


async def test_untrusted_certificate_is_rejected(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("SSL Error")  # Tornado logs this by itself
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    code = (
        "import asyncio, sys; from guidsvc.auth.tokens.jwks_client import fetch; "
        "sys.stdout.buffer.write(asyncio.run(fetch(sys.argv[1], 99)))"
    )

    async with jwks_server(BODY, tls) as key_server:
        key_url = f"https://localhost:{key_server.port}/"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch(key_url, MAX_BYTES)
        trusting_client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, key_url,
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, env=os.environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem")},
        )  # fmt: skip
        assert (await trusting_client.communicate())[0] == BODY
