"""TLS: which is spoken, on both servers, and a certificate that is renewed while connections go on."""

import asyncio
import json
import os
import signal
import ssl
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate

from guidsvc.errors import StartError
from guidsvc.server.tls import Tls, open_tls
from tests.conftest import ExpectedLogs, Serving
from tests.support.backing_servers import Service, service, wait_until
from tests.support.certificates import Certificate
from tests.support.factories import GUID, USER
from tests.support.http_client import hang_up, read_reply

pytestmark = pytest.mark.both_servers

PATH = f"/guid/{GUID}"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def serial(connection: Connection) -> str:
    """Return the number of the certificate that a server has shown."""
    return str(connection[1].get_extra_info("peercert")["serialNumber"])


async def ask(connection: Connection) -> int:
    """Ask for something, and return the status of the answer."""
    reader, writer = connection
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return (await read_reply(reader, "GET")).status


async def shown(port: int, trusting: ssl.SSLContext) -> str:
    """Return the number of the certificate that is shown to a new connection, on which something is answered."""
    connection = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    assert await ask(connection) == 200
    await hang_up(connection[1])
    return serial(connection)


async def test_tls_is_used_with_a_certificate(serving: Serving, certificate: Certificate) -> None:
    async with serving(**certificate.settings) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=certificate.trusting())
        body = json.dumps({"user": USER}).encode()
        writer.write(f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert (await read_reply(reader, "PUT")).status == 201
        for _ in range(2):
            writer.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await read_reply(reader, "GET")).json["user"] == USER
        await hang_up(writer)


async def test_only_modern_tls_with_forward_secrecy_is_accepted(
    serving: Serving, certificate: Certificate, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("SSL Error")  # Tornado's, of each that is refused
    async with serving(**certificate.settings) as client:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            trusting = certificate.trusting(version)
            trusting.set_alpn_protocols(["h2", "http/1.1"])
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=trusting)
            spoken: ssl.SSLObject = writer.get_extra_info("ssl_object")
            assert spoken.version() == version.name.replace("_", ".")
            assert spoken.compression() is None
            assert spoken.selected_alpn_protocol() == "http/1.1"
            assert await ask((reader, writer)) == 200
            await hang_up(writer)
        for refused in (_old(certificate), certificate.trusting(ssl.TLSVersion.TLSv1_2, ciphers="ECDHE+AES:!AESGCM")):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", client.port, ssl=refused)


def _old(certificate: Certificate) -> ssl.SSLContext:
    """Return what a client speaks TLS 1.1 with, whatever its OpenSSL thinks of that."""
    context = certificate.trusting(ciphers="ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def test_server_tls_allows_no_known_weakness(certificate: Certificate) -> None:
    context = Tls(*certificate.settings.values()).context

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    old = [each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert old
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in old)


def test_unusable_certificate_stops_the_start(tmp_path: Path, certificate: Certificate) -> None:
    (tmp_path / "none").write_text("")
    for cert, key in ((str(tmp_path / "none"), None), (str(tmp_path / "no"), "no"), (str(tmp_path / "none"),) * 2):
        with pytest.raises(StartError, match=r"^tls_cert, tls_key: "):
            open_tls(cert, key)
    encrypt(certificate)
    with pytest.raises(StartError, match="the private key is encrypted"):
        open_tls(**dict(zip(("certificate", "key"), certificate.settings.values(), strict=True)))


def encrypt(certificate: Certificate) -> None:
    """Put the key under a password."""
    key = load_pem_private_key(certificate.key.read_bytes(), None)
    password = BestAvailableEncryption(b"password")
    certificate.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o600, 0o400])
def test_readable_private_key_is_warned_about(
    certificate: Certificate, mode: int, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    told = "private key is readable by other users"
    expected_logs.add(told)
    certificate.key.chmod(mode)
    Tls(*certificate.settings.values())

    assert sum(told in each.getMessage() for each in caplog.records) == bool(mode & 0o077)


def test_end_of_the_current_certificate_is_known(certificate: Certificate) -> None:
    """Also after it was renewed, and still that of the former one if the new one is unusable."""
    tls = Tls(*certificate.settings.values())
    for _ in range(2):
        ends = load_pem_x509_certificate(certificate.cert.read_bytes()).not_valid_after_utc.timestamp()
        assert tls.not_after == ends
        certificate.issue(not_after=datetime.fromtimestamp(ends + 86_400, UTC))
        tls.reload()
    before = tls.not_after
    certificate.cert.write_text("")
    with pytest.raises(StartError):
        tls.reload()
    assert tls.not_after == before


# Renewed


@pytest.mark.parametrize("kind", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
async def test_renewed_certificate_serves_new_connections_only(
    tmp_path: Path, certificate: Certificate, server: str, kind: trustme.KeyType
) -> None:
    """Of another kind of key too: OpenSSL keeps one certificate of each kind, and would go on to show the old one."""
    certificate.issue(trustme.KeyType.RSA)
    trusting = certificate.trusting()
    rsa = certificate.trusting(ssl.TLSVersion.TLSv1_2, ciphers="aRSA")
    with service(tmp_path, "--server", server, *certificate.flags) as running:
        before = await asyncio.open_connection("127.0.0.1", running.port, ssl=trusting)
        assert await ask(before) == 200
        certificate.issue(kind)
        assert await shown(running.port, trusting) == serial(before), "nobody has been told yet"
        await asyncio.to_thread(reload, running, "certificate reloaded")

        after = await shown(running.port, trusting)
        assert after != serial(before)
        if kind is trustme.KeyType.RSA:
            assert await shown(running.port, rsa) == after
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await shown(running.port, rsa)
        assert await ask(before) == 200, "what was under way goes on"
        await hang_up(before[1])


def reload(running: Service, told: str) -> None:
    """Send a SIGHUP, and return when the log says this once more than it did."""
    before = running.log.read_text().count(told)
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: running.log.read_text().count(told) > before, told, running.log)


async def test_invalid_new_certificate_keeps_the_old_one(tmp_path: Path, certificate: Certificate) -> None:
    good_cert, good_key, kept = certificate.cert.read_bytes(), certificate.key.read_bytes(), "certificate reload failed"
    trusting = certificate.trusting()
    certificate.issue()
    other_key = certificate.key.read_bytes()
    certificate.cert.write_bytes(good_cert)
    certificate.key.write_bytes(good_key)
    with service(tmp_path, *certificate.flags) as running:
        first = await shown(running.port, trusting)
        for file, content in ((certificate.cert, b"nonsense"), (certificate.key, other_key), (certificate.key, b"")):
            file.write_bytes(content)
            await asyncio.to_thread(reload, running, kept)
            assert await shown(running.port, trusting) == first
            certificate.cert.write_bytes(good_cert)
            certificate.key.write_bytes(good_key)
        certificate.key.unlink()
        await asyncio.to_thread(reload, running, kept)
        assert await shown(running.port, trusting) == first
        certificate.issue()
        await asyncio.to_thread(reload, running, "certificate reloaded")
        assert await shown(running.port, trusting) != first
        lines = [line for line in running.log.read_text().splitlines() if kept in line]
        assert all('"level": "error"' in line and "tls_cert, tls_key: " in line for line in lines)


def test_other_signals_end_a_tls_service_as_usual(tmp_path: Path, certificate: Certificate) -> None:
    with service(tmp_path, *certificate.flags) as running:
        wait_until(lambda: "curl" in running.log.read_text(), "the banner", running.log)
        os.kill(running.process.pid, signal.SIGHUP)
        wait_until(lambda: "certificate reloaded" in running.log.read_text(), "the certificate", running.log)
        assert running.stop(signal.SIGTERM) == 0


def test_files_of_wrong_kind_are_named(certificate: Certificate) -> None:
    cert, key = str(certificate.cert), str(certificate.key)

    with pytest.raises(StartError, match=f": {key}: contains no PEM certificate; the two files are swapped$"):
        open_tls(key, cert)
    with pytest.raises(
        StartError, match=f"^tls_cert, tls_key: {key}: contains no PEM certificate; name the file of the certificate$"
    ):
        open_tls(key, key)
    with pytest.raises(
        StartError, match=f"^tls_cert, tls_key: {cert}: contains no PEM private key; name the file of the key$"
    ):
        open_tls(cert, cert)
