"""`python pdapt.py healthcheck`, beside services of every kind that it must find by itself."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from guidsvc.cli.local import healthcheck as healthcheck_command
from guidsvc.cli.local.container import container_flags
from guidsvc.errors import StartError
from tests.support.backing_servers import ROOT, START_SECONDS, Server, free_port, pdapt, suspend, wait_until
from tests.support.certificates import Certificate
from tests.support.forked_program import ForkedProgram

REFUSED = "connection refused: nothing listens there"
SILENT = ("--no-access-log",)


@contextmanager
def running_service(folder: Path, *flags: str, **environment: str) -> Iterator[ForkedProgram]:
    """Run a service within the block; the banner shows that it listens, since its address may vary."""
    log = folder / "started.log"
    log.unlink(missing_ok=True)
    process = ForkedProgram([*SILENT, *flags], cwd=folder, env=os.environ | environment, stdout=log)
    try:
        wait_until(lambda: " at " in log.read_text() or process.poll() is not None, "the banner", log)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(START_SECONDS)


def expect_healthy(folder: Path, *flags: str, **environment: str) -> str:
    """Check that a healthcheck with these flags succeeds; return its output."""
    result = pdapt(folder, "healthcheck", *flags, **environment)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    (line,) = result.stdout.splitlines()
    return line


def expect_unhealthy(folder: Path, *flags: str, **environment: str) -> str:
    """Check that a healthcheck with these flags fails; return its error message."""
    result = pdapt(folder, "healthcheck", *flags, **environment)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("pdapt.py: healthcheck: ")
    return line


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", "localhost"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_service_on_any_address_is_found(tmp_path: Path, host: str, address: str) -> None:
    flags = ["--host", host, "--port", str(free_port()), "--access", "off"]
    with running_service(tmp_path, *flags):
        assert expect_healthy(tmp_path, *flags) == f"alive: http://{address}:{flags[3]}/livez"
        assert expect_healthy(tmp_path, "--ready", *flags) == f"ready: http://{address}:{flags[3]}/readyz"


def test_service_with_access_control_is_found(tmp_path: Path) -> None:
    flags = ["--host", "0.0.0.0", "--port", str(free_port()), "--access", "keys"]
    with running_service(tmp_path, *flags):
        expect_healthy(tmp_path, *flags)
        expect_healthy(tmp_path, *flags, "--ready")


@pytest.mark.parametrize("source", ["environment", ".env", "file", "flag"])
def test_settings_are_read_as_the_service_reads_them(tmp_path: Path, source: str) -> None:
    port, flags, environment = str(free_port()), list[str](), dict[str, str]()
    match source:
        case "environment":
            environment["GUIDSVC_PORT"] = port
        case ".env":
            (tmp_path / ".env").write_text(f"GUIDSVC_PORT={port}\n")
        case "file":
            (tmp_path / "port").write_text(f"{port}\n")
            environment["GUIDSVC_PORT_FILE"] = str(tmp_path / "port")
        case "flag":
            environment["GUIDSVC_PORT"], flags = str(free_port()), ["--port", port]
    with running_service(tmp_path, *flags, **environment):
        assert f":{port}/" in expect_healthy(tmp_path, *flags, **environment)


def test_absent_service_is_reported_with_what_to_do(tmp_path: Path) -> None:
    flags = ["--port", str(free_port())]

    assert expect_unhealthy(tmp_path, *flags).endswith(f"/livez: {REFUSED}; start the service, or name its --port")
    missing = expect_unhealthy(tmp_path, "--unix-socket", "missing")
    assert missing.endswith(": No such file or directory; start the service, or name its --unix-socket")


def test_help_lists_the_flags_that_find_the_service(tmp_path: Path) -> None:
    text = pdapt(tmp_path, "healthcheck", "--help").stdout

    for flag in ("--host ADDRESS", "--port PORT", "--unix-socket PATH", "--tls-cert FILE", "--tls-key FILE"):
        assert re.search(f"^  {flag}  ", text, re.MULTILINE), flag


@pytest.mark.parametrize("server", ["httptools", "tornado"])
def test_tls_works_with_any_certificate_issuer(tmp_path: Path, certificate: Certificate, server: str) -> None:
    flags = ["--port", str(free_port())]
    with running_service(tmp_path, *flags, *certificate.flags, "--server", server):
        assert expect_healthy(tmp_path, *flags, *certificate.flags).startswith("alive: https://")
        expect_unhealthy(tmp_path, *flags)


@pytest.mark.parametrize("server", ["httptools", "tornado"])
@pytest.mark.parametrize("tls", [False, True])
def test_unix_socket_is_supported(tmp_path: Path, certificate: Certificate, server: str, *, tls: bool) -> None:
    flags = ["--unix-socket", "guidsvc.sock", *(certificate.flags if tls else [])]
    with running_service(tmp_path, *flags, "--server", server):
        assert expect_healthy(tmp_path, *flags).endswith("://localhost/livez at guidsvc.sock")
        expect_healthy(tmp_path, *flags, "--ready")
    assert "guidsvc.sock" in expect_unhealthy(tmp_path, *flags)


def test_absent_or_foreign_service_is_reported_in_one_line(tmp_path: Path, own_redis: Server) -> None:
    port = str(free_port())

    assert f" http://127.0.0.1:{port}/livez: {REFUSED}; start " in expect_unhealthy(tmp_path, "--port", port)
    assert "it closed the connection without an HTTP response" in expect_unhealthy(
        tmp_path, "--port", str(own_redis.port)
    )


@pytest.mark.parametrize("server", ["httptools", "tornado"])
def test_tls_mismatch_is_explained(tmp_path: Path, certificate: Certificate, server: str) -> None:
    flags = ["--port", str(free_port())]
    with running_service(tmp_path, *flags, *certificate.flags, "--server", server):
        assert expect_unhealthy(tmp_path, *flags).endswith(
            "if the service speaks TLS, give its --tls-cert and --tls-key"
        )
    with running_service(tmp_path, *flags, "--server", server):
        assert expect_unhealthy(tmp_path, *flags, *certificate.flags).endswith("leave out --tls-cert and --tls-key")


def test_service_without_cache_is_degraded_with_a_reason(tmp_path: Path) -> None:
    flags = ["--port", str(free_port()), "--cache-url", f"redis://127.0.0.1:{free_port()}/0"]
    with running_service(tmp_path, *flags):
        line = expect_healthy(tmp_path, *flags, "--ready")
    assert line == f"degraded: http://127.0.0.1:{flags[1]}/readyz: store up, cache down"


def test_suspended_service_is_not_alive(tmp_path: Path) -> None:
    flags = ["--port", str(free_port())]
    with running_service(tmp_path, *flags) as process:
        expect_healthy(tmp_path, *flags)
        suspend(process)
        assert "no response within 3 s" in expect_unhealthy(tmp_path, *flags)


def test_service_without_store_is_alive_and_not_ready(tmp_path: Path, own_mongo: Server) -> None:
    flags = ["--port", str(free_port()), "--store-url", f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc"]
    with running_service(tmp_path, *flags):
        wait_until(lambda: pdapt(tmp_path, "healthcheck", *flags, "--ready").returncode == 0, "the store is up")
        own_mongo.kill()
        wait_until(lambda: pdapt(tmp_path, "healthcheck", *flags, "--ready").returncode == 1, "the store is down")
        message = expect_unhealthy(tmp_path, *flags, "--ready")
        assert "/readyz: not ready: store down, cache up. The store does not answer." in message
        documented = message.replace("pdapt.py: ", "guidsvc: ").replace(f":{flags[1]}/", ":8888/")
        assert f"    {documented}\n" in (ROOT / "docs" / "operations.md").read_text()
        expect_healthy(tmp_path, *flags)


@pytest.mark.parametrize(
    ("command_line", "flags"),
    [
        ("/venv/bin/python /app/pdapt.py --port 9000", ["--port", "9000"]),
        ("/sbin/docker-init -- guidsvc --port 9000 --host ::", ["--port", "9000", "--host", "::"]),
        ("/sbin/docker-init -- guidsvc", []),
        ("/venv/bin/python /venv/bin/guidsvc serve --port 9000", ["--port", "9000"]),
        ("/venv/bin/python /venv/bin/guidsvc doctor --json --port 9000", []),
        ("/bin/sh /usr/local/bin/guidsvc --jwt-audience guidsvc", ["--jwt-audience", "guidsvc"]),
        ("/sbin/init", []),
        ("", []),
    ],
)
def test_flags_of_a_container_are_those_of_its_first_process(
    tmp_path: Path, command_line: str, flags: list[str]
) -> None:
    file = tmp_path / "cmdline"
    file.write_text("".join(f"{argument}\0" for argument in command_line.split()))

    assert container_flags(file) == flags
    assert container_flags(tmp_path / "missing") == []


def test_given_flags_override_those_of_the_container(tmp_path: Path) -> None:
    file = tmp_path / "cmdline"
    container_port, own_port = str(free_port()), str(free_port())
    file.write_text(f"python\0pdapt.py\0--port\0{container_port}\0")

    for flags, port in (([], container_port), (["--port", own_port], own_port)):
        with pytest.raises(StartError, match=f":{port}/livez"):
            healthcheck_command.run(flags, is_ready=False, first_process=file)


def reply_with(folder: Path, reply: bytes, *flags: str) -> tuple[bytes, str]:
    """Reply to a healthcheck with these bytes; return its request and its error output."""
    log = folder / "healthcheck.log"
    log.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment: Mapping[str, str] = os.environ | {"GUIDSVC_PORT": str(listener.getsockname()[1])}
        process = ForkedProgram(["healthcheck", *flags], cwd=folder, env=environment, stdout=log)
        listener.settimeout(START_SECONDS)
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(65536)
            connection.sendall(reply)
        assert process.wait(START_SECONDS) == 1
    return request, log.read_text()


@pytest.mark.parametrize(("flags", "path"), [((), b"/livez"), (("--ready",), b"/readyz")])
def test_host_name_is_accepted_by_every_listener(tmp_path: Path, flags: tuple[str, ...], path: bytes) -> None:
    request, _ = reply_with(tmp_path, b"", *flags)

    assert request.startswith(b"GET %b HTTP/1.1\r\n" % path)
    assert re.findall(rb"(?im)^host: (.*)\r$", request) == [b"localhost"]


def test_bad_response_is_shown_in_one_truncated_line(tmp_path: Path) -> None:
    body = b'{"store":\n "down"}\xff' + b"x" * 50_000
    _, errors = reply_with(tmp_path, b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), "--ready")

    assert '/readyz: answered 503: {"store": "down"}' in errors
    assert len(errors.splitlines()) == 1
    assert len(errors) < 500


@pytest.mark.parametrize("flags", [(), ("--ready",)])
def test_success_of_another_program_is_none(tmp_path: Path, flags: tuple[str, ...]) -> None:
    for body in (b"", b"ok", b"[]", b"{}", b'{"status": "ready"}', b'{"ready": true, "status": "up", "store": "up"}'):
        _, errors = reply_with(tmp_path, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), *flags)

        assert errors.endswith("z: another program answers; name the --port of the service\n")
        assert len(errors.splitlines()) == 1


def test_deeply_nested_response_is_no_report(tmp_path: Path) -> None:
    _, errors = reply_with(tmp_path, b"HTTP/1.1 503 No\r\nContent-Length: 4000\r\n\r\n" + b"[" * 4000, "--ready")

    assert "/readyz: answered 503: [[[" in errors
    assert len(errors.splitlines()) == 1


def test_dripping_server_is_given_up(tmp_path: Path) -> None:
    """Each byte arrives in time, but the response never ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, str(ROOT / "pdapt.py"), "healthcheck"]
        environment = os.environ | {"GUIDSVC_PORT": str(listener.getsockname()[1])}
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            listener.settimeout(START_SECONDS)
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                running_service = time.monotonic()
                while process.poll() is None and time.monotonic() - running_service < 30:
                    connection.sendall(b"X: y\r\n")
                    time.sleep(0.5)
            process.kill()
            assert process.stderr is not None
            assert "no complete response within 5 s" in process.stderr.read()
    assert process.returncode == 1
