"""The service as a process: start, banner, log and shutdown; and the faults that stop the start."""

import http.client
import json
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import guidsvc
from guidsvc.domain import guid_generator
from guidsvc.runtime.clock import system_clock
from tests.support.backing_servers import START_SECONDS, Server, Service, free_port, pdapt, service, wait_until
from tests.support.factories import GUID, USER

PATH = f"/guid/{GUID}"


def request_json(running: Service, method: str, path: str, body: object = None) -> tuple[int, dict[str, str]]:
    """Send a request to the service; return the status and the JSON of the body."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)) as connection:
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        text = reply.read()
        return reply.status, json.loads(text) if text else {}


@contextmanager
def unfinished_request(running: Service) -> Iterator[None]:
    """Keep a request in flight within the block: its body stays incomplete."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port)) as connection:
        connection.putrequest("PUT", PATH)
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        request_json(running, "GET", "/livez")  # a reply to a later request shows that this one has begun
        yield


def test_banner_shows_address_store_cache_and_an_example(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        wait_until(lambda: "curl" in running.log.read_text(), "the banner", running.log)
        banner = running.log.read_text().splitlines()[:8]

    assert banner[0] == f"guidsvc {guidsvc.__version__} at {running.url}"
    assert banner[1].split() == ["docs", f"{running.url}/docs"]
    assert banner[2].split() == ["console", f"{running.url}/console"]
    assert banner[3].split() == ["records", str(tmp_path / "guidsvc.db")]
    assert banner[4].split() == ["cache", "memory://"]
    assert banner[5].split() == ["access", "off"]
    assert banner[6].split()[0] == "try"
    assert f'curl -X PUT -d \'{{"user": "Cylance, Inc."}}\' {running.url}/guid' in banner[6]
    assert banner[7].split() == ["stop", "Ctrl+C"]


def test_banner_shows_the_command_for_the_first_key(tmp_path: Path) -> None:
    options = ["--access", "keys", "--store-url", "sqlite:///own.db"]
    with service(tmp_path, *options) as running:
        wait_until(lambda: "curl" in running.log.read_text(), "the banner", running.log)
        banner = running.log.read_text()
        command = re.search(
            "  keys     none; create one, then set KEY to the key that it prints: (.*) --owner NAME (.*)\n", banner
        )
        assert command is not None, banner
        arguments = [*shlex.split(command[1]), "--owner", "a", *shlex.split(command[2])]
        result = subprocess.run(arguments, cwd="/", capture_output=True, text=True, timeout=START_SECONDS, check=True)

        assert "access   keys" in banner
        assert 'curl -H "Authorization: Bearer $KEY" -X PUT' in banner
        assert result.stdout.startswith("gs_")
    with service(tmp_path, *options) as running:
        wait_until(lambda: running.log.read_text().count("curl") == 2, "the second banner", running.log)
        assert running.log.read_text().count("create one") == 1, "the store has a key now"


def test_start_and_failure_are_json_lines_with_the_json_log(tmp_path: Path) -> None:
    with service(tmp_path, "--log-format", "json", "--jwt-issuer", "a", "--access", "off") as running:
        wait_until(lambda: "curl" in running.log.read_text(), "the banner", running.log)
        running.stop()
        lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    result = pdapt(tmp_path, "--port", "x", "--quota", "-1", GUIDSVC_LOG_FORMAT="json")
    faults = [json.loads(line) for line in result.stderr.splitlines()]

    assert [line["event"] for line in lines] == ["setting has no effect", "serving", "stopping"]
    assert (lines[0]["setting"], lines[0]["reason"]) == ("--jwt-issuer", "access is off")
    assert (lines[1]["url"], lines[1]["records"]) == ([running.url], str(tmp_path / "guidsvc.db"))
    assert (result.returncode, result.stdout) == (2, "")
    assert [line["event"] for line in faults] == ["start failed"] * 2
    assert [line["error"].partition(": ")[0] for line in faults] == ["--port", "--quota"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_service_and_acknowledged_writes_remain(tmp_path: Path, number: signal.Signals) -> None:
    with service(tmp_path) as running:
        assert request_json(running, "PUT", PATH, {"user": USER})[0] == 201
        assert running.stop(number) == 0
        assert "Traceback" not in running.log.read_text()
    assert sorted(each.name for each in tmp_path.glob("*.db*")) == ["guidsvc.db", "guidsvc.db-lock"], "no WAL remains"
    with service(tmp_path) as running:
        assert request_json(running, "GET", PATH)[1]["user"] == USER


def test_request_in_flight_at_shutdown_is_answered(tmp_path: Path) -> None:
    with service(tmp_path) as running, closing(sqlite3.connect(tmp_path / "guidsvc.db", isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        in_flight = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        in_flight.request("PUT", PATH, b'{"user": "x"}')
        request_json(running, "GET", "/livez")
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in running.log.read_text(), "the shutdown", running.log)
        lock.execute("ROLLBACK")

        assert in_flight.getresponse().status == 201
        in_flight.close()
        assert running.process.wait(30) == 0


def test_keep_alive_client_is_told_to_close_at_shutdown(tmp_path: Path) -> None:
    with service(tmp_path, "--grace", "3600") as running:
        keep_alive = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        keep_alive.request("GET", "/livez")
        reply_before = keep_alive.getresponse()
        assert (reply_before.read(), reply_before.headers["Connection"]) == (b'{"status":"live"}\n', None)
        keep_alive.putrequest("PUT", PATH)
        keep_alive.putheader("Content-Length", "13")
        keep_alive.endheaders(b'{"user"')
        request_json(running, "GET", "/livez")
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in running.log.read_text(), "the shutdown", running.log)
        keep_alive.send(b': "x"}')
        reply = keep_alive.getresponse()

        assert (reply.status, reply.headers["Connection"]) == (201, "close")
        keep_alive.close()
        assert running.process.wait(30) == 0


def test_service_in_shutdown_is_not_ready(tmp_path: Path) -> None:
    with service(tmp_path, "--grace", "0.2") as running, unfinished_request(running):
        keep_alive = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        keep_alive.request("GET", "/readyz")
        assert b'"ready"' in keep_alive.getresponse().read()
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in running.log.read_text(), "the shutdown", running.log)
        keep_alive.request("GET", "/readyz")
        reply = keep_alive.getresponse()

        assert (reply.status, reply.headers["Connection"]) == (503, "close")
        keep_alive.close()
        assert running.process.wait(30) == 0


def test_connection_used_during_shutdown_closes_after_response(tmp_path: Path) -> None:
    with service(tmp_path, "--grace", "3600") as running, unfinished_request(running):
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as keep_alive:
            keep_alive.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in keep_alive.recv(4096)
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in running.log.read_text(), "the shutdown", running.log)
            keep_alive.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with keep_alive.makefile("rb") as replies:
                assert b"Connection: close" in replies.read(), "the reply announces the close"
        assert running.stop() == -signal.SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_second_signal_ends_the_service_at_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with service(tmp_path, "--grace", "3600") as running, unfinished_request(running):
        running.process.send_signal(number)
        wait_until(lambda: "stopping" in running.log.read_text(), "the shutdown", running.log)
        assert running.process.poll() is None, "it waits for the request"
        assert running.stop(number) == code
        assert "Traceback" not in running.log.read_text()


def test_request_without_end_is_cancelled_after_the_grace(tmp_path: Path) -> None:
    with service(tmp_path, "--grace", "0.2") as running, unfinished_request(running):
        assert running.stop() == 0
        assert "grace period over, aborting requests" in running.log.read_text()


def test_end_of_the_process_examines_no_object_again(tmp_path: Path) -> None:
    """Python would do so for the records in the cache, and for requests that have just been aborted."""
    program = tmp_path / "counting.py"
    program.write_text(
        "import gc\nfrom guidsvc.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print('examined:', len(gc.get_objects()), flush=True)\n"
    )
    head = b"POST /guid:batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with service(tmp_path, "--grace", "0", program=program) as running, ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port))).sendall(head)
        request_json(running, "GET", "/livez")
        assert running.stop() == 0
    (count,) = re.findall(r"^examined: (\d+)$", running.log.read_text(), re.MULTILINE)
    assert int(count) < 100


def test_every_request_is_logged_with_its_request_id(tmp_path: Path) -> None:
    with service(tmp_path, "--log-format", "json") as running:
        request = urllib.request.Request(f"{running.url}/livez", headers={"X-Request-Id": "find-me"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            assert reply.status == 200
        wait_until(lambda: "find-me" in running.log.read_text(), "the line", running.log)
        line = json.loads(next(line for line in running.log.read_text().splitlines() if "find-me" in line))

    assert (line["event"], line["level"], line["method"]) == ("request", "info", "GET")
    assert (line["path"], line["status"], line["request_id"]) == ("/livez", 200, "find-me")
    assert line["ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"])


def test_log_can_be_human_readable_and_without_requests(tmp_path: Path) -> None:
    with service(tmp_path, "--log-format", "console", "--no-access-log") as running:
        request_json(running, "GET", "/livez")
        running.stop()
        log = running.log.read_text()

    assert "/livez" not in log
    assert re.search(r"\[info *\] stopping", log)


@pytest.mark.parametrize(
    ("first_bytes", "message"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS (https) sent to an http port; use http://"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 is not supported; use HTTP/1.1"),
    ],
)
def test_other_protocol_is_named_in_one_line_of_a_terminal(tmp_path: Path, first_bytes: bytes, message: str) -> None:
    with service(tmp_path, "--log-format", "console") as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
            connection.sendall(first_bytes)
            assert connection.recv(64).startswith(b"HTTP/1.1 400 ")
        running.stop()
        (line,) = [line for line in running.log.read_text().splitlines() if " refused " in line]

    assert re.fullmatch(rf"[0-9:]{{8}} refused 400 {re.escape(message)} request_id=\w+.*", line)
    assert len(line) <= 120


def test_used_port_stops_the_start_with_one_line(tmp_path: Path, own_redis: Server) -> None:
    result = pdapt(tmp_path, "--port", str(own_redis.port))

    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"pdapt.py: --host, --port: cannot listen on 127.0.0.1:{own_redis.port}: Address already in use; "
        f"stop what listens there (ss -ltnp 'sport = :{own_redis.port}' shows it), or use --port 0 for any free port\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--store-url", "postgres://db/x"], "--store-url: unsupported store postgres; use sqlite:///"),
        (["--store-url", "guidsvc.db"], "--store-url: unsupported store 'guidsvc.db'; use "),
        (["--store-url", "/tmp/foo.db"], "--store-url: unsupported store '/tmp/foo.db'; use sqlite:////tmp/foo.db or "),
        (["--cache-url", "redis"], "--cache-url: unsupported cache 'redis'; use "),
        (["--access", "keys", "--rate-limit", "lots"], "--rate-limit: invalid limit 'lots'; use "),
        (["--access", "keys", "--rate-limit", "0/second"], "--rate-limit: invalid limit '0/second'; use "),
        (["--access", "off", "--login-limit", "lots"], "--login-limit: invalid limit 'lots'; use "),
        (
            ["--rate-limit", "1/second"],
            "--rate-limit: has no effect while access is off: use --access keys, or leave it out",
        ),
        (["--jwt-jwks", "https://issuer.example/jwks"], "--jwt-jwks: has no effect while access is off"),
        (
            ["--jwt-issuer", "a", "--jwt-shared-owners"],
            "--jwt-issuer, --jwt-shared-owners: have no effect while access is off",
        ),
        (["--cache-url", "memcached://h"], "--cache-url: unsupported cache memcached; use memory:// or redis://"),
        (["--cache-url", "redis://h:port"], "--cache-url: "),
        (["--cache-url", "redis://h/abc"], "--cache-url: /abc is not the number"),
        (["--cache-url", "memory://here"], "--cache-url: unsupported cache "),
        (["--store-url", "mongodb://[::1"], "--store-url: "),
        (["--store-url", "mongodb://h/x?nonsense=1"], "--store-url: Unknown option: nonsense"),
        (["--store-url", "mongodb://h/x?tls=true&tlsCAFile=missing"], "No such file or directory: 'missing'"),
        (["--cache-url", "rediss://h/0?ssl_cert_reqs=x"], "--cache-url: Invalid SSL"),
        (["--store-url", "sqlite://[::1"], "--store-url: "),
        (["--cache-url", "redis://[::1"], "--cache-url: "),
        (["--store-url", "sqlite:///%00"], "--store-url: "),
        (["--host", "0.0.0.0"], "--access: required, because other hosts can connect to 0.0.0.0"),
        (
            ["--host", "::", "--cache-url", "redis://h", "--workers", "2"],
            "--access: required, because other hosts can connect to ::",
        ),
        (["--store-url="], "--store-url: unsupported store "),
    ],
)
def test_invalid_settings_stop_the_start_with_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    result = pdapt(tmp_path, "--port", str(free_port()), *options)

    assert result.returncode == 2
    assert result.stderr.startswith("pdapt.py: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--store-url", "sqlite:///missing/guidsvc.db"], "folder is missing"),
        (["--store-url", "mongodb://127.0.0.1:1/guidsvc"], "; start MongoDB, or correct host, port and tls"),
        (["--host", "x" * 64, "--access", "off"], "--host, --port: "),
        (["--host", "nowhere.invalid", "--access", "off"], "; use an address of this host as --host"),
    ],
)
def test_unusable_resource_stops_the_start_with_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    result = pdapt(tmp_path, "--port", str(free_port()), *options)

    assert result.returncode == 1
    assert result.stderr.startswith("pdapt.py: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_missing_folder_of_the_unix_socket_stops_the_start(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "--unix-socket", "missing/s")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "pdapt.py: --unix-socket: missing/s: No such file or directory; create its folder, or name another file\n"
    )


def test_second_service_on_one_file_is_rejected_with_local_cache(tmp_path: Path) -> None:
    with service(tmp_path):
        result = pdapt(tmp_path, "--port", str(free_port()))

    assert result.returncode == 1
    assert result.stderr == (
        f"pdapt.py: another guidsvc uses {tmp_path / 'guidsvc.db'}: stop it, or start this one with "
        "--store-url sqlite:///other.db --port 8889 (or the same --cache-url redis://... in both)\n"
    )


def test_wait_for_a_file_of_one_service_is_announced(tmp_path: Path, redis_url: str) -> None:
    with service(tmp_path):
        result = pdapt(tmp_path, "--port", str(free_port()), "--cache-url", redis_url, "--log-format", "console")

    waiting_line, error_line = result.stderr.splitlines()
    assert result.returncode == 1
    assert "store in use, waiting until it is shared" in waiting_line
    assert error_line.startswith(
        f"pdapt.py: another guidsvc uses {tmp_path / 'guidsvc.db'} without sharing it: stop it, or "
    )
    assert "memory://" not in result.stderr


def test_two_services_with_one_file_and_redis_see_writes_of_both(tmp_path: Path, redis_url: str) -> None:
    with service(tmp_path, "--cache-url", redis_url) as first, service(tmp_path, "--cache-url", redis_url) as second:
        for number in range(20):
            writer, reader = (first, second) if number % 2 else (second, first)
            assert request_json(writer, "PUT", PATH, {"user": f"user {number}"})[0] in {200, 201}
            assert request_json(reader, "GET", PATH)[1]["user"] == f"user {number}"


def test_write_during_redis_outage_is_seen_afterwards(tmp_path: Path, redis_url: str) -> None:
    with service(tmp_path, "--cache-url", redis_url) as running:
        request_json(running, "PUT", PATH, {"user": "before"})
        assert request_json(running, "GET", PATH)[1]["user"] == "before"
    with service(tmp_path, "--cache-url", "memory://") as running:
        request_json(running, "PUT", PATH, {"user": "past it"})
    with service(tmp_path, "--cache-url", redis_url) as running:
        assert request_json(running, "GET", PATH)[1]["user"] == "past it"


def test_clock_is_in_unix_milliseconds_and_draws_differ() -> None:
    assert 1_700_000_000_000 < system_clock() < 100_000_000_000_000
    draw = guid_generator.random_generator(guid_generator.guid_v4)
    assert len({draw(0) for _ in range(1000)}) == 1000
