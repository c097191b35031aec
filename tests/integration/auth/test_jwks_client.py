"""Fetching a key set: what comes back, and what is not trusted."""

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
from tests.support.jwt_issuer import Place, serving_keys

BODY = b'{"keys": []}'
MOST = 1000


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with serving_keys(BODY) as served:
        yield served


async def test_document_is_fetched(place: Place) -> None:
    assert await fetch(place.url, MOST) == BODY


async def test_oversized_document_is_rejected(place: Place) -> None:
    place.body = b"x" * MOST
    assert await fetch(place.url, MOST) == place.body
    place.body += b"x"
    with pytest.raises(OSError, match=r"."):
        await fetch(place.url, MOST)


async def test_compressed_document_is_not_unpacked(place: Place) -> None:
    place.headers, place.body = "Content-Encoding: gzip\r\n", gzip.compress(b"x" * 10 * MOST)

    assert await fetch(place.url, MOST) == place.body


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "304 Not Modified"])
async def test_unexpected_status_is_reported(place: Place, status: str) -> None:
    place.status = status
    with pytest.raises(OSError, match=status[:3]):
        await fetch(place.url, MOST)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirect_is_not_followed(place: Place, status: str) -> None:
    async with serving_keys(BODY) as other:
        place.status, place.headers = status, f"Location: {other.url}\r\n"
        with pytest.raises(OSError, match=status[:3]):
            await fetch(place.url, MOST)
        assert (place.asked, other.asked) == (1, 0)


async def test_slow_server_is_not_waited_for_long(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "SECONDS", 0.05)
    place.open.clear()

    with pytest.raises(OSError, match=r"no answer within 0\.05 s"):
        await fetch(place.url, MOST)


@pytest.mark.parametrize("text", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"])
async def test_malformed_response_is_reported(text: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(OSError, match=r"."):
            await fetch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", MOST)


async def test_unreachable_server_is_reported() -> None:
    with pytest.raises(OSError, match="refused"):
        await fetch(f"http://127.0.0.1:{free_port()}/", MOST)


async def test_untrusted_certificate_is_rejected(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("SSL Error")  # which Tornado logs by itself
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    code = (
        "import asyncio, sys; from guidsvc.auth.tokens.jwks_client import fetch; "
        "sys.stdout.buffer.write(asyncio.run(fetch(sys.argv[1], 99)))"
    )

    async with serving_keys(BODY, tls) as place:
        place_url = f"https://localhost:{place.port}/"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch(place_url, MOST)
        trusting = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, place_url,
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, env=os.environ | {"SSL_CERT_FILE": str(tmp_path / "ca.pem")},
        )  # fmt: skip
        assert (await trusting.communicate())[0] == BODY
