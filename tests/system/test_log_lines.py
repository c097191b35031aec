"""Every log line is JSON with the same members, including lines of libraries and lines about faulty requests."""

import asyncio
import json
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.backing_servers import Server, Service, service, wait_until
from tests.support.certificates import Certificate

SERVERS = ("httptools", "tornado")
EVERY_LINE = {"event", "logger", "level", "timestamp"}
SECRET = "gs_4rGcVd0Xq2Lb_" + "s" * 43 + "_000000"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506)
TLS_SENT = "TLS (https) sent to an http port; use http://"
MALFORMED_REQUESTS = (
    b"%s\r\n\r\n",
    b"GET / HTTP/9.%s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a b%s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-%s\0: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%.40s\r\n",
)


def lines_of(running: Service) -> list[dict[str, Any]]:
    """Return the log lines of a service; check that each has the common members."""
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert all(line.keys() >= EVERY_LINE for line in lines)
    assert [line for line in lines if line["level"] not in {"debug", "info", "warning", "error"}] == []
    return lines


def send(running: Service, data: bytes) -> bytes:
    """Send bytes over a new connection; return the start of the reply."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(data)
        try:
            return connection.recv(64)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("server", SERVERS)
def test_tls_on_a_plain_port_is_named(tmp_path: Path, server: str) -> None:
    with service(tmp_path, "--server", server, "--log-format", "json") as running:
        assert send(running, TLS).startswith(b"HTTP/1.1 400 ")
        with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", running.port)) as connection:
            ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")
        assert send(running, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        running.stop()
        rejections = [line for line in lines_of(running) if line["event"] == "refused"]

    assert [line["detail"] for line in rejections] == [TLS_SENT, TLS_SENT, "HTTP/2 is not supported; use HTTP/1.1"]
    assert {(line["status"], line["code"], line["level"]) for line in rejections} == {(400, "invalid-request", "info")}


def test_tls_on_a_plain_port_takes_one_line_of_a_terminal(tmp_path: Path) -> None:
    with service(tmp_path, "--server", "tornado", "--log-format", "console") as running:
        assert send(running, TLS).startswith(b"HTTP/1.1 400 ")
        running.stop()

    expected = f"refused 400 {TLS_SENT} code=invalid-request"
    assert [line[9:] for line in running.log.read_text().splitlines() if "TLS" in line] == [expected]


@pytest.mark.parametrize("server", SERVERS)
def test_malformed_request_is_a_line_without_its_content(tmp_path: Path, server: str) -> None:
    with service(tmp_path, "--server", server, "--log-format", "json", "--log-level", "debug") as running:
        for template in MALFORMED_REQUESTS:
            assert send(running, template % SECRET.encode()).startswith(b"HTTP/1.1 4")
        running.stop()
        lines = lines_of(running)

    assert len([line for line in lines if line["event"] == "refused"]) == len(MALFORMED_REQUESTS)
    assert {line["logger"].partition(".")[0] for line in lines} <= {"guidsvc", "asyncio"}
    assert SECRET[:20] not in running.log.read_text()


def test_connection_that_tornado_closes_has_a_reason(tmp_path: Path) -> None:
    flags = ["--server", "tornado", "--log-format", "json", "--body-timeout", "0.1", "--access", "off"]
    with service(tmp_path, *flags) as running:
        assert send(running, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n") == b""
        send(running, b"PUT /guid HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
        running.stop()
        closed = [line for line in lines_of(running) if line["event"] == "connection closed"]

    assert [line["reason"] for line in closed] == [
        "a head or a line is longer than 16384 bytes",
        "the body was not sent in time",
    ]


@pytest.mark.parametrize("server", SERVERS)
def test_plain_http_to_the_tls_port_is_logged(tmp_path: Path, certificate: Certificate, server: str) -> None:
    with service(tmp_path, "--server", server, "--log-format", "console", *certificate.flags) as running:
        assert send(running, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        wait_until(lambda: "handshake" in running.log.read_text(), "the line", running.log)
        running.stop()
        (line,) = [line for line in running.log.read_text().split("\n") if "tls handshake failed" in line]

    assert "HTTP sent to an https port; use https://" in running.log.read_text()
    assert " [info     ] " in line


def test_failed_tls_handshake_is_no_warning(tmp_path: Path, certificate: Certificate) -> None:
    flags = ["--server", "tornado", "--log-format", "json", *certificate.flags]
    with service(tmp_path, *flags) as running:
        for data in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"no HTTP\r\n\r\n"):
            assert send(running, data) == b""
        running.pause()  # the client disconnects before its connection is accepted
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(b"x")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        running.resume()
        wait_until(lambda: running.log.read_text().count("tls handshake failed") == 3, "the third line", running.log)
        running.stop()
        lines = lines_of(running)

    failed = [line for line in lines if line["event"] == "tls handshake failed"]
    assert failed[0]["reason"] == "HTTP sent to an https port; use https://"
    assert {line["remote"] for line in failed} == {"127.0.0.1"}
    assert {line["level"] for line in lines} == {"info"}


@pytest.mark.parametrize("server", SERVERS)
async def test_lines_of_libraries_have_the_members_of_all_lines(
    tmp_path: Path, own_mongo: Server, own_redis: Server, server: str
) -> None:
    urls = [f"--store-url=mongodb://127.0.0.1:{own_mongo.port}/x", f"--cache-url=redis://127.0.0.1:{own_redis.port}/0"]
    flags = ["--server", server, "--log-format", "json", "--log-level", "debug", "--request-timeout", "1"]
    with service(tmp_path, *urls, *flags) as running:
        assert await asyncio.to_thread(status, running, "PUT", "/guid", b'{"user": "a"}') == 201
        own_redis.kill()
        assert await asyncio.to_thread(status, running, "GET", f"/guid/{'A' * 32}") == 404
        own_mongo.kill()
        assert await asyncio.to_thread(status, running, "GET", f"/guid/{'B' * 32}") == 503
        await asyncio.to_thread(running.stop)
        lines = lines_of(running)

    driver = [line for line in lines if line["logger"].startswith("pymongo.")]
    assert {"Connection checked out", "Server heartbeat failed"} <= {line["event"] for line in driver}
    assert all(isinstance(line["details"], dict) and line["level"] == "debug" for line in driver)
    assert "pymongo.command" not in {line["logger"] for line in driver}, "the driver would log the records"
    assert {line["logger"].partition(".")[0] for line in lines} == {"guidsvc", "pymongo", "asyncio"}


def status(running: Service, method: str, path: str, body: bytes | None = None) -> int:
    """Return the status of a request."""
    request = urllib.request.Request(f"{running.url}{path}", body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
