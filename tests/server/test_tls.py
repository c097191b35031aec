"""TLS on both servers: accepted versions and ciphers, and renewal of the certificate while connections stay open."""

import asyncio
import json
import os
import signal
import ssl
import warnings
from contextlib import suppress
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
CLOSE_NOTIFY_BYTES = 24
"""The size of a `close_notify` of TLS 1.3, encrypted."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def serial(connection: Connection) -> str:
    """Return the serial number of the certificate of a server."""
    return str(connection[1].get_extra_info("peercert")["serialNumber"])


async def ask(connection: Connection) -> int:
    """Send a request; return the status of the response."""
    reader, writer = connection
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return (await read_reply(reader, "GET")).status


async def serial_on_new_connection(port: int, context: ssl.SSLContext) -> str:
    """Return the serial number of the certificate on a new connection, which must serve a request."""
    connection = await asyncio.open_connection("127.0.0.1", port, ssl=context)
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
    expected_logs.add("SSL Error")  # logged by Tornado for each rejected handshake
    async with serving(**certificate.settings) as client:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = certificate.trusting(version)
            context.set_alpn_protocols(["h2", "http/1.1"])
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=context)
            ssl_object: ssl.SSLObject = writer.get_extra_info("ssl_object")
            assert ssl_object.version() == version.name.replace("_", ".")
            assert ssl_object.compression() is None
            assert ssl_object.selected_alpn_protocol() == "http/1.1"
            assert await ask((reader, writer)) == 200
            await hang_up(writer)
        for rejected in (
            _tls_1_1_context(certificate),
            certificate.trusting(ssl.TLSVersion.TLSv1_2, ciphers="ECDHE+AES:!AESGCM"),
        ):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", client.port, ssl=rejected)


class HalfClosing:
    """A TLS client that closes its side behind its last requests, which no stream of asyncio can."""

    def __init__(self, trusting: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trusting.wrap_bio(self._received, self._to_send, server_hostname="127.0.0.1")

    async def shake_hands(self) -> None:
        """Complete the handshake."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._writer.write(self._to_send.read())
                self._received.write(await self._reader.read(65536))
            else:
                break
        self._writer.write(self._to_send.read())

    async def ask(self, request: bytes) -> bytes:
        """Send a request, and return the first part of what the server sends."""
        self._tls.write(request)
        self._writer.write(self._to_send.read())
        while True:
            self._received.write(await self._reader.read(65536))
            with suppress(ssl.SSLWantReadError):
                return self._tls.read(65536)

    async def send_and_close(self, requests: bytes) -> int:
        """Send requests and `close_notify` in one piece, and return how many bytes the server sends until its end.

        They stay encrypted: OpenSSL reads nothing after its own `close_notify`.
        """
        self._tls.write(requests)
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._writer.write(self._to_send.read())
        received = await asyncio.wait_for(self._reader.read(), 30)
        await hang_up(self._writer)
        return len(received)


async def test_closed_tls_connection_gets_only_cached_reads(
    serving: Serving, server: str, certificate: Certificate
) -> None:
    if server == "tornado":
        return  # which closes without an answer, as it does over TCP
    trusting = certificate.trusting()
    body = json.dumps({"user": USER}).encode()
    read = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    write = f"PUT {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    sizes = []
    async with serving(**certificate.settings) as client:
        for requests in (read * 2, write * 2):
            closing = HalfClosing(trusting, *await asyncio.open_connection("127.0.0.1", client.port))
            await closing.shake_hands()
            for request in (write, read):
                assert b"HTTP/1.1 20" in await closing.ask(request)
            sizes.append(await closing.send_and_close(requests))
    assert sizes[0] > 2 * len(body) + CLOSE_NOTIFY_BYTES
    assert sizes[1] <= CLOSE_NOTIFY_BYTES


def _tls_1_1_context(certificate: Certificate) -> ssl.SSLContext:
    """Return the context of a client that only offers TLS 1.1."""
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
    tls_1_2_ciphers = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert tls_1_2_ciphers
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "POLY1305" in name) for name in tls_1_2_ciphers)


def test_unusable_certificate_stops_the_start(tmp_path: Path, certificate: Certificate) -> None:
    (tmp_path / "none").write_text("")
    for cert, key in ((str(tmp_path / "none"), None), (str(tmp_path / "no"), "no"), (str(tmp_path / "none"),) * 2):
        with pytest.raises(StartError, match=r"^tls_cert, tls_key: "):
            open_tls(cert, key)
    encrypt(certificate)
    with pytest.raises(StartError, match="the private key is encrypted"):
        open_tls(**dict(zip(("certificate", "key"), certificate.settings.values(), strict=True)))


def encrypt(certificate: Certificate) -> None:
    """Encrypt the private key with a password."""
    key = load_pem_private_key(certificate.key.read_bytes(), None)
    password = BestAvailableEncryption(b"password")
    certificate.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o600, 0o400])
def test_readable_private_key_is_warned_about(
    certificate: Certificate, mode: int, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    event = "private key is readable by other users"
    expected_logs.add(event)
    certificate.key.chmod(mode)
    Tls(*certificate.settings.values())

    assert sum(event in log_record.getMessage() for log_record in caplog.records) == bool(mode & 0o077)


def test_end_of_the_current_certificate_is_known(certificate: Certificate) -> None:
    """It is updated by a renewal, and kept if the new certificate is unusable."""
    tls = Tls(*certificate.settings.values())
    for _ in range(2):
        not_after = load_pem_x509_certificate(certificate.cert.read_bytes()).not_valid_after_utc.timestamp()
        assert tls.not_after == not_after
        certificate.issue(not_after=datetime.fromtimestamp(not_after + 86_400, UTC))
        tls.reload()
    not_after_before = tls.not_after
    certificate.cert.write_text("")
    with pytest.raises(StartError):
        tls.reload()
    assert tls.not_after == not_after_before


# Renewal


@pytest.mark.parametrize("kind", [trustme.KeyType.ECDSA, trustme.KeyType.RSA])
async def test_renewed_certificate_serves_new_connections_only(
    tmp_path: Path, certificate: Certificate, server: str, kind: trustme.KeyType
) -> None:
    """With another kind of key too: OpenSSL keeps one certificate of each kind, and could still use the old one."""
    certificate.issue(trustme.KeyType.RSA)
    context = certificate.trusting()
    rsa_context = certificate.trusting(ssl.TLSVersion.TLSv1_2, ciphers="aRSA")
    with service(tmp_path, "--server", server, *certificate.flags) as running:
        old_connection = await asyncio.open_connection("127.0.0.1", running.port, ssl=context)
        assert await ask(old_connection) == 200
        certificate.issue(kind)
        assert await serial_on_new_connection(running.port, context) == serial(old_connection), (
            "the service has not been signalled yet"
        )
        await asyncio.to_thread(reload, running, "certificate reloaded")

        new_serial = await serial_on_new_connection(running.port, context)
        assert new_serial != serial(old_connection)
        if kind is trustme.KeyType.RSA:
            assert await serial_on_new_connection(running.port, rsa_context) == new_serial
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await serial_on_new_connection(running.port, rsa_context)
        assert await ask(old_connection) == 200, "open connections continue"
        await hang_up(old_connection[1])


def reload(running: Service, event: str) -> None:
    """Send SIGHUP; return when the log contains this event once more than before."""
    count_before = running.log.read_text().count(event)
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: running.log.read_text().count(event) > count_before, event, running.log)


async def test_invalid_new_certificate_keeps_the_old_one(tmp_path: Path, certificate: Certificate) -> None:
    good_cert, good_key, event = (
        certificate.cert.read_bytes(),
        certificate.key.read_bytes(),
        "certificate reload failed",
    )
    context = certificate.trusting()
    certificate.issue()
    other_key = certificate.key.read_bytes()
    certificate.cert.write_bytes(good_cert)
    certificate.key.write_bytes(good_key)
    with service(tmp_path, *certificate.flags) as running:
        first_serial = await serial_on_new_connection(running.port, context)
        for file, content in ((certificate.cert, b"nonsense"), (certificate.key, other_key), (certificate.key, b"")):
            file.write_bytes(content)
            await asyncio.to_thread(reload, running, event)
            assert await serial_on_new_connection(running.port, context) == first_serial
            certificate.cert.write_bytes(good_cert)
            certificate.key.write_bytes(good_key)
        certificate.key.unlink()
        await asyncio.to_thread(reload, running, event)
        assert await serial_on_new_connection(running.port, context) == first_serial
        certificate.issue()
        await asyncio.to_thread(reload, running, "certificate reloaded")
        assert await serial_on_new_connection(running.port, context) != first_serial
        lines = [line for line in running.log.read_text().splitlines() if event in line]
        assert all('"level": "error"' in line and "--tls-cert, --tls-key: " in line for line in lines)


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
