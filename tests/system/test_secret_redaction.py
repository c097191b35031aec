"""Passwords in URLs are hidden: in the debug log, in responses, and in the errors of a failed start."""

import http.client
import json
import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import redis

from guidsvc.bootstrap import run, validation
from guidsvc.errors import StartError
from tests.support.backing_servers import Server, Service, free_port, guarded_mongo_server, pdapt, service, wait_until
from tests.support.factories import GUID

SECRET = "CANARY"
PATHS = ("/", "/livez", "/readyz", "/version", "/metrics", "/openapi.json", f"/guid/{GUID}", "/guid", "/nothing")
DEBUG = ("--log-level", "debug", "--server-timing", "--cache-status")


def request_all(running: Service, paths: Sequence[str] = PATHS) -> str:
    """Request these paths, and write and delete a record; return all replies as one text."""
    texts = []
    for method, path in [("PUT", f"/guid/{GUID}"), *(("GET", path) for path in paths), ("DELETE", f"/guid/{GUID}")]:
        with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)) as connection:
            connection.request(method, path, b'{"user": "x"}' if method == "PUT" else None)
            reply = connection.getresponse()
            texts.append(f"{reply.status} {reply.headers} {reply.read().decode()}")
    return "\n".join(texts)


def wait_for_line(running: Service, line: str) -> None:
    """Wait until this text is in the log."""
    wait_until(lambda: line in running.log.read_text(), line, running.log)


def assert_secret(text: str) -> None:
    """Fail if the text contains part of the secret, since a driver may have split it."""
    lines = [line for line in text.splitlines() if any(part in line for part in ("CAN", "NARY"))]
    assert lines == []


CREDENTIALS = [
    *(f"u:{SECRET}@", f":{SECRET}@", f"{SECRET}@", f"u:CAN:ARY{SECRET}@", f"u:CAN/{SECRET}@", f"u:CAN?{SECRET}@"),
    *(f"u:CAN#{SECRET}@", f"u:CAN%{SECRET}@", f"u:12#{SECRET}@", f"u:12/{SECRET}@", f"u:CAN[{SECRET}@"),
]
BAD_FLAGS = [
    *(f"--store-url=mongodb://{each}127.0.0.1:{{port}}/guidsvc" for each in CREDENTIALS),
    *(f"--cache-url=redis://{each}127.0.0.1:port/0" for each in CREDENTIALS),
    f"--store-url=mongodb://127.0.0.1:{{port}}/x?tls=true&tlsCertificateKeyFilePassword={SECRET}&tlsCAFile=missing",
    f"--store-url=mongodb://127.0.0.1:{{port}}/x?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKENN:{SECRET}",
    f"--store-url=mongodb://127.0.0.1:{{port}}/x?authMechanismProperties=AWS_SESSION_TOKEN:a,{SECRET}:b",
    f"--store-url=mongodb://127.0.0.1:{{port}}/x?nonsense={SECRET}",
    f"--store-url=mongodb+srv://u:{SECRET}@nowhere.invalid/x",
    f"--cache-url=redis://:{SECRET}/0",
    f"--cache-url=rediss://redis:{SECRET}",
    f"--cache-url=redis://u:{SECRET}?db=1",
    f"--store-url=mongodb://guidsvc:{SECRET}/guidsvc",
    f"--store-url=mongodb://127.0.0.1:{{port}},guidsvc:{SECRET}/guidsvc",
    f"--store-url=postgres://guidsvc:{SECRET}/guidsvc",
    f"--store-ulr=mongodb://guidsvc:{SECRET}/guidsvc",
    f"--store-url=postgres://u:{SECRET}@h/x",
    f"--store-url=u:{SECRET}@h/x",
    f"--cache-url={SECRET}@cache:6379/0",
    f"--cache-url=REDIS://{SECRET}@cache:6379/0",
    f"--cache-url=redis://CAN@ARY:{SECRET}@cache:port/0",
    f"--cache-url=redis://h/0&password={SECRET}",
    f"--cache-ulr={SECRET}@cache:6379/0",
    f"--store-url=u:{SECRET}@h://x",
    f"--store-url=sqlite://u:{SECRET}@h/x",
    f"--cache-url=memcached://u:{SECRET}@h",
    f"--cache-url=memory://u:{SECRET}@h",
    f"--cache-url=redis://h/0?password={SECRET}&nonsense={SECRET}",
    f"--cache-url=redis://h/0?socket_timeout={SECRET}",
    f"--cache-url=rediss://h/0?ssl_cert_reqs={SECRET}",
    f"--store-ulr=mongodb://u:{SECRET}@h/x",
    f"--store-ulr=mongodb://u:CAN {SECRET}'\"@h/x",
    f"mongodb://u:{SECRET}@h/x",
    f"--port=redis://u:{SECRET}@h/x",
    f"--guid-version=redis://u:{SECRET}@h/x",
]


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_failed_start_hides_secrets(
    tmp_path: Path, flag: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG), pytest.raises(StartError) as error:
        run.run(validation.load(["--port", "0", flag.format(port=free_port())]))

    assert_secret("".join(traceback.format_exception(error.value)) + caplog.text)


@pytest.mark.parametrize("flag", [BAD_FLAGS[0], BAD_FLAGS[3], BAD_FLAGS[len(CREDENTIALS)], BAD_FLAGS[-5]])
def test_failed_process_hides_secrets(tmp_path: Path, flag: str) -> None:
    result = pdapt(tmp_path, "--port", str(free_port()), *DEBUG, flag.format(port=free_port()))

    assert result.returncode == (1 if flag == BAD_FLAGS[0] else 2), "the first URL is valid"
    assert "pdapt.py: " in result.stderr
    assert "Traceback" not in result.stderr
    assert_secret(result.stdout + result.stderr)


@pytest.mark.parametrize(
    "text", [f"GUIDSVC_STORE_ULR=redis://u:{SECRET}@h", f"GUIDSVC_PORT=redis://u:{SECRET}@h", f"x {SECRET}"]
)
def test_failed_process_with_dotenv_hides_secrets(tmp_path: Path, text: str) -> None:
    (tmp_path / ".env").write_text(f"{text}\n")
    result = pdapt(tmp_path)

    assert result.returncode == 2
    assert_secret(result.stdout + result.stderr)


@pytest.mark.parametrize(("form", "workers"), [("json", "1"), ("console", "2")])
def test_absent_redis_is_reported_without_its_password(tmp_path: Path, form: str, workers: str) -> None:
    closed_port = f"127.0.0.1:{free_port()}"
    for url in (f"redis://u:{SECRET}@{closed_port}/0", f"rediss://{closed_port}/0?username=u&password={SECRET}"):
        with service(tmp_path, *DEBUG, "--log-format", form, "--workers", workers, "--cache-url", url) as running:
            wait_for_line(running, "redis unavailable")
            assert_secret(request_all(running))
            running.stop()
            assert_secret(running.log.read_text())


def test_redis_login_error_hides_the_password(tmp_path: Path, own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", f">{SECRET}", "~*", "+@all")
    address = f"127.0.0.1:{own_redis.port}"
    result = pdapt(tmp_path, "--port", "0", *DEBUG, "--cache-url", f"redis://u:{SECRET}-@{address}/0")
    assert result.returncode == 1
    assert "pdapt.py: --cache-url: Redis rejects the user or the password; " in result.stderr
    assert_secret(result.stdout + result.stderr)
    with service(tmp_path, *DEBUG, "--cache-url", f"redis://u:{SECRET}@{address}/0") as running:
        responses = request_all(running)
        wait_for_line(running, "/readyz")
        assert '"status":"degraded"' not in responses
        assert_secret(responses)
        running.stop()
        assert_secret(running.log.read_text())


@pytest.fixture
def guarded_mongo(tmp_path: Path) -> Iterator[Server]:
    """A MongoDB-protocol server with one user `u`, whose password is the secret."""
    folder = tmp_path / "mongo"
    folder.mkdir()
    with guarded_mongo_server(folder, "u", SECRET) as server:
        yield server


def test_mongodb_login_error_hides_the_password(tmp_path: Path, guarded_mongo: Server) -> None:
    url = f"mongodb://u:{{}}@127.0.0.1:{guarded_mongo.port}/guidsvc"
    result = pdapt(tmp_path, "--port", str(free_port()), *DEBUG, "--store-url", url.format(f"{SECRET}-"))
    assert result.returncode == 1
    assert re.search(
        r"mongodb cannot be used: authentication failed \(code 18\); correct the user, .*\n", result.stderr.lower()
    )
    assert_secret(result.stdout + result.stderr)
    with service(tmp_path, *DEBUG, "--store-url", url.format(SECRET)) as running:
        responses = request_all(running)
        assert json.dumps(GUID) in responses
        guarded_mongo.kill()
        responses_in_outage = request_all(running, ["/readyz", "/metrics"])
        assert "503" in responses_in_outage
        assert_secret(responses + responses_in_outage)
        running.stop()
        assert_secret(running.log.read_text())
