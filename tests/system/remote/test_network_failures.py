"""Commands against an address where no guidsvc answers: what happened, what to do, and the exit code."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.backing_servers import free_port
from tests.support.certificates import Certificate
from tests.support.command_line import CommandLine
from tests.support.stream_server import stream_server

RAW = ("Errno", "_ssl.c", "SSL:", "ConnectError", "certificate verify failed")
DAY = timedelta(days=1)


@asynccontextmanager
async def listening(context: ssl.SSLContext | None, answer: bytes = b"") -> AsyncIterator[int]:
    """Answer each connection with these bytes, and yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(1)
            writer.write(answer)

    async with stream_server(serve, context) as port:
        yield port


async def run(folder: Path, url: str, **variables: str) -> Any:
    """Run a command, whose text must be free of those of libraries."""
    done = await asyncio.to_thread(CommandLine(folder), "get", "0" * 32, "--url", url, "--quiet", **variables)
    assert (done.code, done.out) == (6, ""), done
    assert not [each for each in RAW if each in done.err], done.err
    return done.err


def of_certificate(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


async def test_absent_service_is_to_be_started(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    assert await run(tmp_path, url) == (
        f"guidsvc: no connection to {url}: connection refused: nothing listens there. Start the service with "
        "`guidsvc`, or name its address with --url or GUIDSVC_URL.\n"
    )


async def test_unknown_host_name_is_to_be_corrected(tmp_path: Path) -> None:
    said = await run(tmp_path, "http://nowhere.invalid")

    assert "no connection to http://nowhere.invalid: its host name " in said
    assert "DNS of this host." in said


async def test_service_without_tls_is_recognized(tmp_path: Path) -> None:
    async with listening(None, b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        said = await run(tmp_path, f"https://127.0.0.1:{port}")

    assert f": it speaks no TLS. Use http://127.0.0.1:{port}, or the port with TLS.\n" in said


@pytest.mark.parametrize(
    ("host", "end", "is_trusted", "reason"),
    [
        (
            "127.0.0.1",
            DAY,
            False,
            "from an authority that this host does not trust. Set SSL_CERT_FILE to the file with",
        ),
        ("127.0.0.1", -DAY, True, "its certificate has expired. Renew the certificate.\n"),
        ("localhost", DAY, True, "its certificate is for another host. Use a name that the certificate has.\n"),
    ],
)
async def test_certificate_that_is_not_trusted_is_explained(
    tmp_path: Path, host: str, end: timedelta, is_trusted: bool, reason: str
) -> None:
    certificate = Certificate(tmp_path)
    certificate.issue(not_after=datetime.now(UTC) + end)
    variables = {"SSL_CERT_FILE": str(certificate.ca)} if is_trusted else {}
    async with listening(of_certificate(certificate)) as port:
        said = await run(tmp_path, f"https://{host}:{port}", **variables)

    assert reason in said


@pytest.mark.parametrize(("scheme", "are_loaded"), [("http", False), ("https", True)])
async def test_command_loads_authorities_only_for_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, *, are_loaded: bool
) -> None:
    """To load them takes 20 ms of CPU, a tenth of a command."""
    loads: list[str] = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: loads.append("file"))
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: loads.append("default"))
    await run(tmp_path, f"{scheme}://127.0.0.1:{free_port()}", no_proxy="*")

    assert bool(loads) == are_loaded
