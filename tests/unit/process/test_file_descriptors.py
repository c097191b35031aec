"""The limit of file descriptors: it is raised, compared with the connection limit, and reached."""

import json
import os
import resource
import socket
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from guidsvc.process import file_descriptors as descriptors
from tests.support.backing_servers import Service, service_with_file_limit, wait_until
from tests.support.certificates import Certificate

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


def limits_of(running: Service) -> tuple[int, int]:
    return resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)


def status_of(connection: socket.socket, request: bytes) -> int:
    """Send a request, read the whole response, and return its status."""
    connection.sendall(request)
    with connection.makefile("rb") as response:
        status, length = int(response.readline().split()[1]), 0
        while (line := response.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name == b"Content-Length" else length
        assert len(response.read(length)) == length
    return status


def log_lines(running: Service, event: str) -> list[dict[str, object]]:
    """Return the log lines with this event."""
    logged = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in logged if event in str(line["event"])]


def test_soft_limit_is_raised_for_the_connections(tmp_path: Path) -> None:
    with service_with_file_limit(tmp_path, 100, 600, "--max-connections", "300") as running:
        assert limits_of(running)[0] == 300 + descriptors.RESERVED
        assert not log_lines(running, "too few file descriptors")


def test_low_limit_is_reported_at_the_start(tmp_path: Path, server: str) -> None:
    with service_with_file_limit(tmp_path, 100, 200, "--server", server) as running:
        assert limits_of(running)[0] == 200
        wait_until(lambda: bool(log_lines(running, "too few file descriptors")), "a line of the log", running.log)
        (line,) = log_lines(running, "too few file descriptors")
        assert (line["max_connections"], line["file_descriptors"]) == (10_000, 200)


@pytest.mark.slow
def test_connections_over_the_limit_are_rejected(tmp_path: Path, server: str) -> None:
    options = ("--server", server, "--audit-log", str(tmp_path / "audit.log"), "--grace", "5", "--idle-timeout", "60")
    with service_with_file_limit(tmp_path, 64, 64, *options) as running, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 30))

        first = connect()
        assert status_of(first, GET % b"/livez") == 200  # the connection of the start check has ended by then
        connections = [connect() for _ in range(99)]
        statuses = []
        for connection in connections:
            connection.sendall(GET % b"/livez")
            try:
                statuses.append(connection.recv(4096)[9:12])
            except ConnectionResetError:  # rejected, and closed while it was sending
                statuses.append(b"503")
        assert set(statuses) == {b"200", b"503"}
        body = b'{"user": "a"}'
        (tmp_path / "audit.log").rename(tmp_path / "audit.log.1")  # so that the next audit line opens a file
        for path in (b"/version", b"/guid?limit=3", b"/guid", b"/docs", b"/metrics", b"/openapi.json", b"/guid"):
            assert status_of(first, GET % path) == 200
        put = b"PUT /guid HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert status_of(first, put + body) == 201
        assert (tmp_path / "audit.log").read_text().count("create") == 1
        refusals = log_lines(running, "too many connections")
        assert len(refusals) == 1
        assert refusals[0]["limit"] == statuses.count(b"200") + 1
        stack.close()
        assert running.stop() == 0


def descriptors_of(running: Service) -> int:
    return len(os.listdir(f"/proc/{running.process.pid}/fd"))  # noqa: PTH208  # only the names


def responds_over_tls(running: Service, trusting: ssl.SSLContext) -> bool:
    try:
        with (
            socket.create_connection(("127.0.0.1", running.port), 30) as raw,
            trusting.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        ):
            return status_of(tls, GET % b"/livez") == 200
    except OSError:
        return False


def test_failed_tls_handshakes_leave_descriptors_free(tmp_path: Path, certificate: Certificate, server: str) -> None:
    """Also of handshakes over the limit; and timeouts still apply afterwards."""
    limits = ("--idle-timeout", "1", "--head-timeout", "4", "--server", server)
    with service_with_file_limit(tmp_path, 100, 100, *limits, *certificate.flags) as running, ExitStack() as stack:
        trusting = certificate.trusting()
        with (
            socket.create_connection(("127.0.0.1", running.port), 30) as raw,
            trusting.wrap_socket(raw, server_hostname="127.0.0.1") as idle,
        ):
            assert status_of(idle, GET % b"/livez") == 200
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 30))
            idle.settimeout(30)
            max_descriptors = 0
            while True:  # until the idle timeout closes it
                max_descriptors = max(max_descriptors, descriptors_of(running))
                with suppress(TimeoutError):
                    idle.settimeout(0.01)
                    if not idle.recv(1):
                        break
            assert max_descriptors < 95, "some descriptors stay free"
        stack.close()
        wait_until(lambda: responds_over_tls(running, trusting), "a response", running.log)
        assert "Traceback" not in running.log.read_text()
        assert log_lines(running, "too many connections")


def test_room_is_what_the_limit_leaves() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        assert 500 < descriptors.room_for(10_000) <= 1000 - descriptors.RESERVED
        assert descriptors.room_for(10) == 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
