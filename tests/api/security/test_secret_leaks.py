"""Secrets appear in no log line, no metric, and only in the responses that are meant to hold them.

A real process runs with the most verbose options. Each kind of secret contains its own canary and is sent in every way
a client or operator may send it: in valid and invalid requests, with the store up and down. The URLs of store and
cache contain passwords; `test_secrets` covers failing starts with such URLs.
"""

import asyncio
import http.client
import json
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pymongo
import pytest

from guidsvc.domain import api_key as keys
from guidsvc.domain.caller import SCOPES
from guidsvc.store import open_keys
from tests.support.backing_servers import Server, Service, guarded_mongo_server, redis_server, service
from tests.support.factories import GUID
from tests.support.jwt_issuer import AUDIENCE, ISSUER, Signer, claims, key_set

USER, METADATA, PASSWORD = "canary-user-71", "canary-metadata-72", "canary-password-73"
CORRUPT = "A" * 32
DEBUG = ("--log-level", "debug", "--server-timing", "--cache-status")
RECORD = {"user": USER, "metadata": {METADATA: METADATA}}
JSON = "application/json"
LONG_METHOD = "M" * 10_000


class Response(NamedTuple):
    """A response: its status, and its headers and body as text."""

    status: int
    text: str


class ServiceWithSecrets(NamedTuple):
    """A running service, its store, and the keys and the token that are valid for it."""

    running: Service
    store_url: str
    alice: str
    bob: str
    admin: str
    token: str
    database: Server | None

    @property
    def secrets(self) -> list[str]:
        """What must not leak: the secret part of each key, the token, and the passwords."""
        return [*(text.split("_")[2] for text in (self.alice, self.bob, self.admin)), *self.token.split("."), PASSWORD]

    @property
    def log(self) -> str:
        """The log of the process."""
        return self.running.log.read_text()

    def ask(self, method: str, path: str, key: str | None, body: object = None, **extra_headers: str) -> Response:
        """Send a request, with a key as bearer token if there is one."""
        headers = {name.replace("_", "-"): value for name, value in extra_headers.items()}
        headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
        headers |= {} if body is None else {"Content-Type": JSON}
        with closing(http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=30)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            return Response(reply.status, f"{reply.headers} {reply.read().decode()}")

    def send(self, lines: str) -> Response:
        """Send bytes that may be no valid request; return all that comes back on the connection."""
        with socket.create_connection(("127.0.0.1", self.running.port), 30) as connection:
            connection.sendall(lines.encode("latin-1"))
            connection.shutdown(socket.SHUT_WR)
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
        return Response(int(text.split()[1]) if text else 0, text)


async def _create_key(url: str, owner: str, scopes: str) -> str:
    key, text = keys.generate(owner, scopes.split(), time.time_ns() // 1_000_000)
    async with open_keys(url) as key_repository:
        assert await key_repository.swap(None, key)
    return text


@pytest.fixture(params=["httptools", "tornado", "mongo+redis"])
def service_with_secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceWithSecrets]:
    """Run the service on either HTTP server, and on MongoDB and Redis with passwords."""
    signer, jwks = Signer("ec"), tmp_path / "jwks.json"
    jwks.write_bytes(key_set(signer.jwk()))
    options = ["--access", "keys", "--login-limit", "", "--jwt-jwks", str(jwks), *DEBUG]
    options += ["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--jwt-shared-owners"]
    store_url, database = f"sqlite:///{tmp_path / 'guidsvc.db'}", None
    with ExitStack() as stack:
        if request.param == "mongo+redis":
            for name in ("mongo", "redis"):
                (tmp_path / name).mkdir()
            database = stack.enter_context(guarded_mongo_server(tmp_path / "mongo", "u", PASSWORD))
            cache = stack.enter_context(redis_server(tmp_path / "redis", "--requirepass", PASSWORD))
            store_url = f"mongodb://u:{PASSWORD}@127.0.0.1:{database.port}/guidsvc"
            store_url += "?authSource=guidsvc&serverSelectionTimeoutMS=500"
            options += ["--cache-url", f"redis://:{PASSWORD}@127.0.0.1:{cache.port}/0"]
        else:
            options += ["--server", request.param]
        running = stack.enter_context(service(tmp_path, "--store-url", store_url, *options))
        key_texts = [asyncio.run(_create_key(store_url, owner, scopes)) for owner, scopes in (
            ("alice", "read write delete"), ("bob", "read write delete"), ("root", "admin"))]  # fmt: skip
        token = signer.token(claims(int(time.time()), sub="alice", scope=" ".join(SCOPES[:3])))
        yield ServiceWithSecrets(running, store_url, key_texts[0], key_texts[1], key_texts[2], token, database)


def permitted_requests(it: ServiceWithSecrets) -> Iterator[Response]:
    """Send requests whose responses contain the record: to its owner and to an admin."""
    for key in (it.alice, it.token, it.admin):
        for path in (f"/guid/{GUID}", f"/guid/{GUID}?view=full", "/guid", f"/guid?user={USER}"):
            yield it.ask("GET", path, key)
    for key in (it.alice, it.token):
        yield it.ask("PUT", f"/guid/{GUID}", key, RECORD, If_Match='"1"')  # 412, with the record as it is
        yield it.ask("PATCH", f"/guid/{GUID}", key, {"metadata": {"more": METADATA}})
        yield it.ask("POST", "/guid", key, RECORD, Idempotency_Key=f"once-{len(key)}")
        yield it.ask("POST", "/guid:batch", key, {"operations": [{"op": "get", "guid": GUID}, {"op": "put", **RECORD}]})


def _percent_encoded(key: str) -> str:
    """Return a key percent-encoded, as some clients put it into a path."""
    return key.replace("_", "%5F").replace(".", "%2E").replace("eyJ", "%65yJ")


def rejected_requests(it: ServiceWithSecrets) -> Iterator[Response]:
    """Send requests that are rejected or open to everybody: no response may contain a secret or the record."""
    wrong = keys.format_key(keys.parse(it.alice).id, it.bob.split("_")[2])  # type: ignore[union-attr]  # it is one
    mistyped, cut = it.alice[:-1] + ("0" if it.alice[-1] != "0" else "1"), it.alice[:-3]
    for key in (None, it.bob, wrong, mistyped, cut, f"{it.token}x", it.token[:-5], f"{it.alice}, Bearer {it.bob}"):
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            yield it.ask(method, f"/guid/{GUID}", key, RECORD if method in {"PUT", "PATCH"} else None)
    for path in ("/", "/livez", "/readyz", "/version", "/openapi.json", "/docs", "/problems/unauthorized", "/metrics"):
        yield it.ask("GET", path, it.bob)
    yield it.ask("GET", "/metrics", it.admin)
    for path in (f"/GS_{it.alice[3:]}", f"/gs_/{it.alice[3:]}", f"/{it.alice[3:]}", f"/keys/gs_%2F{it.alice[3:]}"):
        yield it.ask("GET", path, it.bob)
    for key in (it.alice, it.token, it.alice[3:]):
        yield it.ask("GET", f"/guid/{GUID}", it.bob, X_Request_Id=key)
        yield it.ask("GET", "/livez", None, X_Request_Id=key)
    for key in (it.alice, it.token):
        for path in (
            f"/guid/{GUID}?access_token={key}",
            f"/guid/{key}",
            f"/keys/{key}",
            f"/{key}",
            f"/guid?cursor={key}",
            *(f"{path}/{_percent_encoded(key)}" for path in ("/guid", "/keys", "")),
        ):
            yield it.ask("GET", path, it.bob)
            yield it.ask("POST", path, it.bob)


def invalid_bodies(it: ServiceWithSecrets) -> Iterator[Response]:
    """Send invalid bodies with secrets in them: errors must name the place, not the value."""
    for body in (
        {"user": USER + "\n"},
        {"user": [USER]},
        {"user": USER * 30},
        {"user": USER, "metadata": METADATA},
        {"user": USER, "metadata": {"a": METADATA * 1000}},
        {"user": USER, "expire": METADATA},
        {"user": USER, "guid": it.alice},
        [USER],
    ):
        yield it.ask("PUT", "/guid", it.alice, body)
        yield it.ask("POST", "/guid:batch", it.alice, {"operations": [body]})
    yield it.ask("POST", "/keys", it.admin, {"owner": USER + "\n", "scopes": [METADATA], "expire": it.alice})


def malformed_requests(it: ServiceWithSecrets) -> Iterator[Response]:
    """Send malformed requests with a key in them."""
    for key in (it.alice, it.token):
        for mark in ("\x01", "\x7f", "\x00"):
            yield it.send(f"GET /guid/{GUID} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}{mark}\r\n\r\n")
            yield it.send(f"PUT /guid HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}{mark}\r\nX: 1\r\n\r\n")
        yield it.send(f"GET / HTTP/1.1\r\nHost: Bearer {key}\r\n\r\n")
        yield it.send(f"GET / HTTP/1.1\r\nHost: a\r\nBearer {key}\r\n\r\n")
        yield it.send(f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {key}\r\n\r\n")
        yield it.send(f"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {key}\r\n\r\n")
        yield it.send(f"Bearer {key}\r\n\r\n")
        yield it.send(f"GET / {key}\r\nHost: a\r\n\r\n")
        yield it.ask(key, "/livez", None)  # as if Content-Length was too small, and the rest of the body is parsed
    yield it.ask(LONG_METHOD, "/livez", None)


def requests_for_corrupt_record(it: ServiceWithSecrets) -> Iterator[Response]:
    """Corrupt a stored record that holds the user and metadata, and read it: the responses are 500."""
    assert it.ask("PUT", f"/guid/{CORRUPT}", it.alice, RECORD).status == 201
    if it.database is None:
        with closing(sqlite3.connect(it.running.log.parent / "guidsvc.db")) as file, file:
            values = (f"{USER}\n", METADATA, CORRUPT)
            file.execute("UPDATE records SET user = ?, metadata = ? WHERE guid = ?", values)
    else:
        with pymongo.MongoClient[dict[str, object]](it.store_url) as client:
            changes = {"$set": {"user": f"{USER}\n", "metadata": METADATA}}
            assert client["guidsvc"]["records"].update_one({"_id": CORRUPT}, changes).modified_count == 1
    for method, path in (("GET", "/guid"), ("DELETE", f"/guid/{CORRUPT}"), ("PATCH", f"/guid/{CORRUPT}")):
        response = it.ask(method, path, it.alice, {"metadata": {"a": METADATA}} if method == "PATCH" else None)
        assert response.status == 500
        yield response
    if it.database is None:
        with closing(sqlite3.connect(it.running.log.parent / "guidsvc.db")) as file, file:
            invalid_utf_8 = (b"\xff" + USER.encode(), CORRUPT)
            file.execute("UPDATE records SET user = CAST(? AS TEXT), metadata = NULL WHERE guid = ?", invalid_utf_8)
        response = it.ask("GET", "/guid", it.alice)
        assert response.status == 500
        yield response


def requests_without_store(it: ServiceWithSecrets) -> Iterator[Response]:
    """Send requests while the store is down, if it is a server that can be stopped."""
    if it.database is not None:
        it.database.kill()
        for method, key in (("PUT", it.alice), ("DELETE", it.alice), ("GET", keys.generate("dave", SCOPES, 0)[1])):
            response = it.ask(method, f"/guid/{GUID}", key, RECORD if method == "PUT" else None)
            assert response.status in {503, 504}
            yield response


def assert_absent(text: str, *secrets: str) -> None:
    """Fail, with the offending lines, if the text contains one of the secrets."""
    leaks = [line for line in text.splitlines() if any(secret in line for secret in secrets)]
    assert leaks == []


@pytest.mark.slow
def test_responses_and_logs_hold_no_secret(service_with_secrets: ServiceWithSecrets) -> None:
    """Valid, invalid and malformed requests, internal errors (500), and a store that is down (503)."""
    it = service_with_secrets
    assert it.ask("PUT", f"/guid/{GUID}", it.alice, RECORD).status == 201
    creation = it.ask("POST", "/keys", it.admin, {"owner": "carol", "scopes": ["read"]}).text
    _, new_id, new_secret, _ = re.findall('gs_.*(?=")', creation)[0].split("_")
    permitted = list(permitted_requests(it))
    remaining = [*rejected_requests(it), *invalid_bodies(it), *malformed_requests(it)]
    remaining += [it.ask("GET", path, it.admin) for path in ("/keys", f"/keys/{new_id}")]
    remaining += [*requests_for_corrupt_record(it), *requests_without_store(it), it.ask("GET", "/metrics", it.admin)]

    for response in [*permitted, *remaining]:
        assert_absent(response.text, *it.secrets, new_secret)
    for response in remaining:
        assert_absent(response.text, USER, METADATA)
    assert_absent(it.log, *it.secrets, new_secret, USER, METADATA, LONG_METHOD[:33])
    assert all(USER in response.text for response in permitted), "a leak would be found this way"
    assert f"/guid/gs_{it.alice.split('_')[1]}_..." in it.log
