"""Passwords in URLs come out nowhere: not in the most talkative log, nor in replies, nor where the start fails."""

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


def replies(running: Service, paths: Sequence[str] = PATHS) -> str:
    """Ask for all of these, write something, and return what was answered."""
    said = []
    for method, path in [("PUT", f"/guid/{GUID}"), *(("GET", path) for path in paths), ("DELETE", f"/guid/{GUID}")]:
        with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)) as connection:
            connection.request(method, path, b'{"user": "x"}' if method == "PUT" else None)
            reply = connection.getresponse()
            said.append(f"{reply.status} {reply.headers} {reply.read().decode()}")
    return "\n".join(said)


def until_told(running: Service, line: str) -> None:
    """Return when this is in the log."""
    wait_until(lambda: line in running.log.read_text(), line, running.log)


def assert_secret(text: str) -> None:
    """Fail if some of the secret is in a text: a driver may have cut it where it took it for something else."""
    lines = [line for line in text.splitlines() if any(part in line for part in ("CAN", "NARY"))]
    assert lines == []


CREDENTIALS = [
    *(f"u:{SECRET}@", f":{SECRET}@", f"{SECRET}@", f"u:CAN:ARY{SECRET}@", f"u:CAN/{SECRET}@", f"u:CAN?{SECRET}@"),
    *(f"u:CAN#{SECRET}@", f"u:CAN%{SECRET}@", f"u:12#{SECRET}@", f"u:12/{SECRET}@", f"u:CAN[{SECRET}@"),
]
BAD = [
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


@pytest.mark.parametrize("flag", BAD)
def test_failed_start_hides_secrets(
    tmp_path: Path, flag: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.DEBUG), pytest.raises(StartError) as caught:
        run.run(validation.load(["--port", "0", flag.format(port=free_port())]))

    assert_secret("".join(traceback.format_exception(caught.value)) + caplog.text)


@pytest.mark.parametrize("flag", [BAD[0], BAD[3], BAD[len(CREDENTIALS)], BAD[-5]])
def test_failed_process_hides_secrets(tmp_path: Path, flag: str) -> None:
    refused = pdapt(tmp_path, "--port", str(free_port()), *DEBUG, flag.format(port=free_port()))

    assert refused.returncode == (1 if flag == BAD[0] else 2), "the first URL is valid"
    assert "pdapt.py: " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert_secret(refused.stdout + refused.stderr)


@pytest.mark.parametrize(
    "text", [f"GUIDSVC_STORE_ULR=redis://u:{SECRET}@h", f"GUIDSVC_PORT=redis://u:{SECRET}@h", f"x {SECRET}"]
)
def test_failed_process_with_dotenv_hides_secrets(tmp_path: Path, text: str) -> None:
    (tmp_path / ".env").write_text(f"{text}\n")
    refused = pdapt(tmp_path)

    assert refused.returncode == 2
    assert_secret(refused.stdout + refused.stderr)


@pytest.mark.parametrize(("form", "workers"), [("json", "1"), ("console", "2")])
def test_absent_redis_is_reported_without_its_password(tmp_path: Path, form: str, workers: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    for url in (f"redis://u:{SECRET}@{nobody}/0", f"rediss://{nobody}/0?username=u&password={SECRET}"):
        with service(tmp_path, *DEBUG, "--log-format", form, "--workers", workers, "--cache-url", url) as running:
            until_told(running, "redis unavailable")
            assert_secret(replies(running))
            running.stop()
            assert_secret(running.log.read_text())


def test_redis_login_error_hides_the_password(tmp_path: Path, own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", f">{SECRET}", "~*", "+@all")
    at = f"127.0.0.1:{own_redis.port}"
    refused = pdapt(tmp_path, "--port", "0", *DEBUG, "--cache-url", f"redis://u:{SECRET}-@{at}/0")
    assert refused.returncode == 1
    assert "pdapt.py: --cache-url: Redis rejects the user or the password; " in refused.stderr
    assert_secret(refused.stdout + refused.stderr)
    with service(tmp_path, *DEBUG, "--cache-url", f"redis://u:{SECRET}@{at}/0") as running:
        told = replies(running)
        until_told(running, "/readyz")
        assert '"status":"degraded"' not in told
        assert_secret(told)
        running.stop()
        assert_secret(running.log.read_text())


@pytest.fixture
def guarded_mongo(tmp_path: Path) -> Iterator[Server]:
    """A MongoDB-protocol server that knows a user `u`, whose password is the secret, and nobody else."""
    folder = tmp_path / "mongo"
    folder.mkdir()
    with guarded_mongo_server(folder, "u", SECRET) as server:
        yield server


def test_mongodb_login_error_hides_the_password(tmp_path: Path, guarded_mongo: Server) -> None:
    url = f"mongodb://u:{{}}@127.0.0.1:{guarded_mongo.port}/guidsvc"
    refused = pdapt(tmp_path, "--port", str(free_port()), *DEBUG, "--store-url", url.format(f"{SECRET}-"))
    assert refused.returncode == 1
    assert re.search(
        r"mongodb cannot be used: authentication failed \(code 18\); correct the user, .*\n", refused.stderr.lower()
    )
    assert_secret(refused.stdout + refused.stderr)
    with service(tmp_path, *DEBUG, "--store-url", url.format(SECRET)) as running:
        told = replies(running)
        assert json.dumps(GUID) in told
        guarded_mongo.kill()
        down = replies(running, ["/readyz", "/metrics"])
        assert "503" in down
        assert_secret(told + down)
        running.stop()
        assert_secret(running.log.read_text())
