"""What is secret turns up in no log, no metric, and in no reply but the one that it is for.

A real process, as talkative as it can be; each kind of secret holds a canary of its own, and is sent every way that a
client or an operator may come to send it, in good requests and in bad ones, while all is well and while the store is
down. The passwords in URLs of store and cache are here too; where a start fails with them is in `test_secrets`.
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


class Told(NamedTuple):
    """An answer: its status, and all of it."""

    status: int
    text: str


class Secretive(NamedTuple):
    """A service with secrets: where it keeps what, and who holds which."""

    running: Service
    store_url: str
    alice: str
    bob: str
    admin: str
    token: str
    database: Server | None

    @property
    def secrets(self) -> list[str]:
        """What nobody may be told: the secret part of each key, the token, and the passwords."""
        return [*(text.split("_")[2] for text in (self.alice, self.bob, self.admin)), *self.token.split("."), PASSWORD]

    @property
    def log(self) -> str:
        """All that the process has said."""
        return self.running.log.read_text()

    def ask(self, method: str, path: str, key: str | None, body: object = None, **more: str) -> Told:
        """Ask, with `Bearer` and a key; return what was answered."""
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
        headers |= {} if body is None else {"Content-Type": JSON}
        with closing(http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=30)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            return Told(reply.status, f"{reply.headers} {reply.read().decode()}")

    def send(self, lines: str) -> Told:
        """Send what may be no request; return what comes back, until the end of it or of the connection."""
        with socket.create_connection(("127.0.0.1", self.running.port), 30) as connection:
            connection.sendall(lines.encode("latin-1"))
            connection.shutdown(socket.SHUT_WR)
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
        return Told(int(text.split()[1]) if text else 0, text)


async def _give(url: str, owner: str, scopes: str) -> str:
    made, text = keys.generate(owner, scopes.split(), time.time_ns() // 1_000_000)
    async with open_keys(url) as kept:
        assert await kept.swap(None, made)
    return text


@pytest.fixture(params=["httptools", "tornado", "mongo+redis"])
def secretive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Secretive]:
    """Serve, on either server; and on MongoDB and Redis that want a password."""
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
        held = [asyncio.run(_give(store_url, owner, scopes)) for owner, scopes in (
            ("alice", "read write delete"), ("bob", "read write delete"), ("root", "admin"))]  # fmt: skip
        token = signer.token(claims(int(time.time()), sub="alice", scope=" ".join(SCOPES[:3])))
        yield Secretive(running, store_url, held[0], held[1], held[2], token, database)


def to_the_owner(it: Secretive) -> Iterator[Told]:
    """Do all that is right with a record: its owner, and an admin, are told what is in it."""
    for key in (it.alice, it.token, it.admin):
        for path in (f"/guid/{GUID}", f"/guid/{GUID}?view=full", "/guid", f"/guid?user={USER}"):
            yield it.ask("GET", path, key)
    for key in (it.alice, it.token):
        yield it.ask("PUT", f"/guid/{GUID}", key, RECORD, If_Match='"1"')  # 412, with the record as it is
        yield it.ask("PATCH", f"/guid/{GUID}", key, {"metadata": {"more": METADATA}})
        yield it.ask("POST", "/guid", key, RECORD, Idempotency_Key=f"once-{len(key)}")
        yield it.ask("POST", "/guid:batch", key, {"operations": [{"op": "get", "guid": GUID}, {"op": "put", **RECORD}]})


def _encoded(key: str) -> str:
    """Return a key as some clients write it into a path."""
    return key.replace("_", "%5F").replace(".", "%2E").replace("eyJ", "%65yJ")


def to_nobody(it: Secretive) -> Iterator[Told]:
    """Ask for what is refused, or is open to all: none of this may tell anything."""
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
            *(f"{path}/{_encoded(key)}" for path in ("/guid", "/keys", "")),
        ):
            yield it.ask("GET", path, it.bob)
            yield it.ask("POST", path, it.bob)


def bad_bodies(it: Secretive) -> Iterator[Told]:
    """Send what is wrong, with secrets in it: what is wrong is told by where it stands."""
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


def no_requests(it: Secretive) -> Iterator[Told]:
    """Send what the connection refuses, with a key in it."""
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
        yield it.ask(key, "/livez", None)  # as the rest of a body is read, if its length was too small
    yield it.ask(LONG_METHOD, "/livez", None)


def corrupt(it: Secretive) -> Iterator[Told]:
    """Make of a record what is none, with its user and metadata in it, and ask for it: a fault of the service."""
    assert it.ask("PUT", f"/guid/{CORRUPT}", it.alice, RECORD).status == 201
    if it.database is None:
        with closing(sqlite3.connect(it.running.log.parent / "guidsvc.db")) as file, file:
            changed = (f"{USER}\n", METADATA, CORRUPT)
            file.execute("UPDATE records SET user = ?, metadata = ? WHERE guid = ?", changed)
    else:
        with pymongo.MongoClient[dict[str, object]](it.store_url) as client:
            changes = {"$set": {"user": f"{USER}\n", "metadata": METADATA}}
            assert client["guidsvc"]["records"].update_one({"_id": CORRUPT}, changes).modified_count == 1
    for method, path in (("GET", "/guid"), ("DELETE", f"/guid/{CORRUPT}"), ("PATCH", f"/guid/{CORRUPT}")):
        told = it.ask(method, path, it.alice, {"metadata": {"a": METADATA}} if method == "PATCH" else None)
        assert told.status == 500
        yield told
    if it.database is None:
        with closing(sqlite3.connect(it.running.log.parent / "guidsvc.db")) as file, file:
            no_utf_8 = (b"\xff" + USER.encode(), CORRUPT)
            file.execute("UPDATE records SET user = CAST(? AS TEXT), metadata = NULL WHERE guid = ?", no_utf_8)
        told = it.ask("GET", "/guid", it.alice)
        assert told.status == 500
        yield told


def down(it: Secretive) -> Iterator[Told]:
    """Ask while the store is down, if it is one that can be."""
    if it.database is not None:
        it.database.kill()
        for method, key in (("PUT", it.alice), ("DELETE", it.alice), ("GET", keys.generate("dave", SCOPES, 0)[1])):
            told = it.ask(method, f"/guid/{GUID}", key, RECORD if method == "PUT" else None)
            assert told.status in {503, 504}
            yield told


def assert_none(text: str, *secrets: str) -> None:
    """Fail, with the lines, if one of these is in a text."""
    found = [line for line in text.splitlines() if any(secret in line for secret in secrets)]
    assert found == []


@pytest.mark.slow
def test_responses_and_logs_hold_no_secret(secretive: Secretive) -> None:
    """Good requests, bad ones, and what is no request; a fault (500), and a store that is down (503)."""
    it = secretive
    assert it.ask("PUT", f"/guid/{GUID}", it.alice, RECORD).status == 201
    shown = it.ask("POST", "/keys", it.admin, {"owner": "carol", "scopes": ["read"]}).text
    _, new_id, new, _ = re.findall('gs_.*(?=")', shown)[0].split("_")
    own = list(to_the_owner(it))
    others = [*to_nobody(it), *bad_bodies(it), *no_requests(it)]
    others += [it.ask("GET", path, it.admin) for path in ("/keys", f"/keys/{new_id}")]
    others += [*corrupt(it), *down(it), it.ask("GET", "/metrics", it.admin)]

    for told in [*own, *others]:
        assert_none(told.text, *it.secrets, new)
    for told in others:
        assert_none(told.text, USER, METADATA)
    assert_none(it.log, *it.secrets, new, USER, METADATA, LONG_METHOD[:33])
    assert all(USER in told.text for told in own), "this is how it would be seen"
    assert f"/guid/gs_{it.alice.split('_')[1]}_..." in it.log
