"""Long requests re-check their key or token: when it is revoked or expires, the request ends."""

import asyncio
import gc
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from guidsvc.api.resources.batch.document_batch import DocumentBatch
from guidsvc.api.resources.batch.executor import GROUP, BatchExecutor, Result
from guidsvc.api.resources.batch.line_batch import LineBatch
from guidsvc.auth import session
from guidsvc.domain.commands import PutCommand
from guidsvc.errors import StoreUnavailable, Unauthorized
from guidsvc.runtime.admission import Admission
from guidsvc.runtime.cancel_scope import CancelScope
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.services.guid_service import GuidService
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID
from tests.support.http_client import Client, chunk, hang_up, read_reply
from tests.support.jwt_issuer import AUDIENCE, ISSUER, Signer, claims, key_set
from tests.support.secured_service import Credential, KeyClient, SecuredService, wait_for_status

pytestmark = pytest.mark.both_servers

BATCH = "/guid:batch"
EC = Signer("ec")


@asynccontextmanager
async def open_line_batch(client: Client, headers: dict[str, str]) -> AsyncIterator[Any]:
    """Start an NDJSON batch; yield its writer and a function that reads the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1 << 26)
    header_lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(
        f"POST {BATCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n{header_lines}"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    try:
        yield writer, lambda: asyncio.wait_for(read_reply(reader, "POST"), 30)
    finally:
        await hang_up(writer)


def puts(user: str, count: int = GROUP) -> bytes:
    return chunk((json.dumps({"user": user}).encode() + b"\n") * count)


async def count_records(caller: KeyClient, user: str) -> int:
    """Count the records of a user."""
    reply = await caller.ask("GET", f"/guid?limit=1&user={user}", headers={"Prefer": "return=total-count"})
    return int(reply.json["total"])


async def end_key(secured: SecuredService, credential: Credential, how: str) -> None:
    """Revoke, expire or restrict a key; return when a new request with it is rejected."""
    if how == "expired":
        secured.clock.advance(seconds=61)
    elif how == "revoked":
        await secured.update_key(credential, revoked=1)
    else:
        await secured.update_key(credential, scopes="read")
        async with asyncio.timeout(10):
            while (
                await KeyClient(secured.client, credential).ask("PUT", f"/guid/{GUID}", json={"user": "x"})
            ).status != 403:
                await asyncio.sleep(0.05)
        return
    await wait_for_status(401, KeyClient(secured.client, credential), "/guid")


@pytest.mark.usefixtures("short_sessions")
@pytest.mark.parametrize("how", ["revoked", "expired", "other scopes"])
async def test_line_batch_ends_when_its_key_is_revoked(
    serving: Serving, sqlite_url: str, clock: FakeClock, how: str
) -> None:
    async with serving(access="keys", login_limit="") as client:
        secured = SecuredService(client, sqlite_url, clock)
        other_key = await secured.key_client()
        credential = await secured.create_key(expire=clock.seconds + 60)
        async with open_line_batch(client, credential.headers) as (writer, read_response):
            writer.write(puts("before"))
            async with asyncio.timeout(20):
                while await count_records(other_key, "before") < GROUP:
                    await asyncio.sleep(0.01)
            await end_key(secured, credential, how)
            writer.write(puts("after") + puts("after", 5) + b"0\r\n\r\n")
            response = await read_response()
        *results, error = response.lines
        assert [result["status"] for result in results] == [201] * GROUP
        assert (error["status"], error["problem"]["code"], error["problem"]["line"]) == (401, "unauthorized", GROUP + 1)
        assert await count_records(other_key, "after") == 0


async def test_holder_of_a_token_learns_what_it_may(
    serving: Serving, sqlite_url: str, clock: FakeClock, tmp_path: Path
) -> None:
    """The members of a key without id, note and creation time; `expire` is that of the token."""
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set(EC.jwk()))
    jwt_settings = {"jwt_jwks": str(jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "login_limit": ""}
    async with serving(access="keys", rate_limit="9/hour", **jwt_settings) as client:
        token = EC.token(claims(clock.seconds, sub="alice", scope="openid write monitor", exp=clock.seconds + 60))
        headers = {"Authorization": f"bearer {token}"}
        reply = await client.get("/keys/self", headers=headers)
        clock.advance(seconds=60)
        expired = await client.get("/keys/self", headers=headers)

    assert (reply.status, expired.status) == (200, 401)
    assert reply.json == {
        "access": "keys",
        "owner": f"{ISSUER}#alice",
        "scopes": ["write", "monitor"],
        "expire": str(clock.seconds),
        "state": "live",
        "rate": {"limit": 9, "seconds": 3600, "left": 8},
    }


@pytest.mark.usefixtures("short_sessions")
async def test_line_batch_ends_when_its_token_expires(
    serving: Serving, sqlite_url: str, clock: FakeClock, tmp_path: Path
) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set(EC.jwk()))
    jwt_settings = {"jwt_jwks": str(jwks), "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "login_limit": ""}
    async with serving(access="keys", jwt_shared_owners=True, **jwt_settings) as client:
        other_key = await SecuredService(client, sqlite_url, clock).key_client()
        token = EC.token(claims(clock.seconds, sub="alice", scope="read write", exp=clock.seconds + 60))
        headers = {"Authorization": f"Bearer {token}"}
        async with open_line_batch(client, headers) as (writer, read_response):
            writer.write(puts("before"))
            async with asyncio.timeout(20):
                while await count_records(other_key, "before") < GROUP:
                    await asyncio.sleep(0.01)
            clock.advance(seconds=61)
            async with asyncio.timeout(10):
                while (await client.get("/guid", headers=headers)).status != 401:
                    await asyncio.sleep(0.05)
            writer.write(puts("after") + b"0\r\n\r\n")
            response = await read_response()
        assert response.lines[-1]["problem"]["code"] == "unauthorized"
        assert await count_records(other_key, "after") == 0


@pytest.mark.usefixtures("short_sessions")
@pytest.mark.slow
async def test_stream_breaks_off_when_its_key_ends(serving: Serving, sqlite_url: str, clock: FakeClock) -> None:
    """The stream has no final chunk, and contains no record that was created after the key ended."""
    async with serving(access="keys", login_limit="") as client:
        secured = SecuredService(client, sqlite_url, clock)
        other_key, credential = await secured.key_client(), await secured.create_key()
        large = {"x": "x" * 16_000}
        for _ in range(10):
            document = {"operations": [{"user": "u", "metadata": large}] * 200}
            await other_key.ask("POST", BATCH, json=document, headers={"Prefer": "return=minimal"})
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=4096)
        writer.write(
            b"GET /guid HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/x-ndjson\r\nAuthorization: "
            + credential.headers["Authorization"].encode()
            + b"\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n")
        await end_key(secured, credential, "revoked")
        assert (await other_key.ask("PUT", f"/guid/{'F' * 32}", json={"user": "SECRET"})).status == 201
        tail = b""
        try:
            async with asyncio.timeout(30):
                while part := await reader.read(1 << 20):
                    tail = (tail + part)[-100_000:]
        except ConnectionResetError:
            pass
        await hang_up(writer)
        assert b"SECRET" not in tail
        assert not tail.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("error", [Unauthorized("The key has ended.", invalid=True), StoreUnavailable("no")], ids=repr)
async def test_rest_of_a_document_is_rejected_after_its_key_ends(error: Exception) -> None:
    """Each remaining operation is rejected; the operations before keep their results."""

    class StubExecutor:
        """An executor that reports success without work until the key ends."""

        def __init__(self) -> None:
            self._groups = 0

        async def perform(self, operations: list[object], draws: object) -> list[object]:
            self._groups += 1
            if self._groups > 1:
                await fail()
            return [Result(204, b'{"status":204}', b'{"status":204}', is_done=True)] * len(operations)

        def reject(self, error: Exception) -> object:
            return BatchExecutor(None, None, "id", full=False, minimal=False).reject(error)  # type: ignore[arg-type]

    async def fail() -> None:
        raise error

    admission = Admission()
    batch = DocumentBatch(
        [{"user": "a"}] * (2 * GROUP + 3),
        StubExecutor(),  # type: ignore[arg-type]
        lambda patient: admission.slot(CancelScope(), patient=patient),
        partial(FairSemaphore(1).take_turn, ""),
        {},
    )
    reply = await batch.perform(None)
    assert reply.body is not None
    statuses = [result["status"] for result in json.loads(reply.body)["results"]]
    error_status = 401 if isinstance(error, Unauthorized) else 503
    assert statuses == [204] * GROUP + [error_status] * (GROUP + 3)


class Gate:
    """Blocks a write with the user `gate`, which holds the only slot, until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go, self.queued = asyncio.Event(), asyncio.Event(), asyncio.Event()
        put, wait = GuidService.put, Admission._wait

        async def gated(service: GuidService, guid: str, change: PutCommand, *conditions: Any) -> Any:
            if change.user == "gate":
                self.reached.set()
                await self.go.wait()
            return await put(service, guid, change, *conditions)

        async def noted_wait(admission: Admission, *waiter: Any) -> None:
            self.queued.set()
            await wait(admission, *waiter)

        monkeypatch.setattr(GuidService, "put", gated)
        monkeypatch.setattr(Admission, "_wait", noted_wait)
        monkeypatch.setattr(session, "GOOD_SECONDS", 0.4)
        monkeypatch.setattr(session, "FRESH_SECONDS", 0.2)


async def revoke_and_wait(secured: SecuredService, credential: Credential) -> None:
    """Revoke a key; return when a request that needs no slot is rejected."""
    await secured.update_key(credential, revoked=1)
    await wait_for_status(401, KeyClient(secured.client, credential), "/guid?limit=no")


NDJSON = {"Content-Type": "application/x-ndjson"}
SLOT_REQUESTS = [
    ("PUT", f"/guid/{GUID}", {"json": {"user": "late"}}),
    ("PUT", f"/guid/{GUID}?view=full", {"json": {"user": "late"}}),
    ("POST", "/guid", {"json": {"user": "late"}}),
    ("POST", "/guid", {"json": {"user": "late"}, "headers": {"Idempotency-Key": "k"}}),
    ("POST", BATCH, {"json": {"operations": [{"user": "late"}]}}),
    ("POST", BATCH, {"json": {"operations": [{"user": "late"}]}, "headers": {"Idempotency-Key": "k"}}),
    ("POST", BATCH, {"body": b'{"user": "late"}\n', "headers": NDJSON}),
    ("POST", "/keys", {"json": {"owner": "late", "scopes": ["read"]}}),
    ("GET", "/guid", {}),
    ("GET", "/guid", {"headers": {"Accept": "application/x-ndjson"}}),
]


@pytest.mark.parametrize("request_", SLOT_REQUESTS, ids=str)
async def test_request_that_waits_for_a_slot_ends_with_its_key(
    serving: Serving,
    sqlite_url: str,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    request_: tuple[str, str, dict[str, Any]],
) -> None:
    """It was authenticated before the key ended; other requests of the owner could delay it for long."""
    async with serving(access="keys", login_limit="", max_in_progress=1) as client:
        secured = SecuredService(client, sqlite_url, clock)
        other_key, credential = await secured.key_client(scopes="admin"), await secured.create_key(scopes="admin")
        gate = Gate(monkeypatch)
        blocking = asyncio.create_task(other_key.ask("PUT", f"/guid/{'F' * 32}", json={"user": "gate"}))
        await asyncio.wait_for(gate.reached.wait(), 20)
        method, path, options = request_
        waiting = asyncio.create_task(KeyClient(client, credential).ask(method, path, **options))
        await asyncio.wait_for(gate.queued.wait(), 20)
        await revoke_and_wait(secured, credential)
        gate.go.set()
        assert (await waiting).status == 401
        assert (await blocking).status == 201
        assert await count_records(other_key, "late") == 0
        assert "late" not in [key["owner"] for key in (await other_key.ask("GET", "/keys")).json["items"]]


async def test_line_batch_that_waits_for_a_slot_ends_with_its_key(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first group is executed; the second waits behind another request while the key ends."""
    async with serving(access="keys", login_limit="", max_in_progress=1) as client:
        secured = SecuredService(client, sqlite_url, clock)
        other_key, credential = await secured.key_client(), await secured.create_key()
        async with open_line_batch(client, credential.headers) as (writer, read_response):
            writer.write(puts("before"))
            async with asyncio.timeout(20):
                while await count_records(other_key, "before") < GROUP:
                    await asyncio.sleep(0.01)
            gate = Gate(monkeypatch)
            blocking = asyncio.create_task(other_key.ask("PUT", f"/guid/{'F' * 32}", json={"user": "gate"}))
            await asyncio.wait_for(gate.reached.wait(), 20)
            writer.write(puts("after"))
            await asyncio.wait_for(gate.queued.wait(), 20)
            await revoke_and_wait(secured, credential)
            gate.go.set()
            writer.write(b"0\r\n\r\n")
            error = (await read_response()).lines[-1]
        assert (await blocking).status == 201
        assert (error["problem"]["code"], error["problem"]["line"]) == ("unauthorized", GROUP + 1)
        assert await count_records(other_key, "after") == 0


@pytest.mark.usefixtures("short_sessions")
@pytest.mark.parametrize("number", [0, GROUP, GROUP + 5])
async def test_line_batch_that_waits_for_lines_ends_with_its_key(
    serving: Serving, sqlite_url: str, clock: FakeClock, number: int
) -> None:
    """Whether its client sends nothing more or an incomplete group."""
    async with serving(access="keys", login_limit="") as client:
        secured = SecuredService(client, sqlite_url, clock)
        other_key, credential = await secured.key_client(), await secured.create_key()
        async with open_line_batch(client, credential.headers) as (writer, read_response):
            writer.write(puts("before", number) if number else chunk(b"\n"))
            async with asyncio.timeout(20):
                while await count_records(other_key, "before") < number - number % GROUP:
                    await asyncio.sleep(0.01)
            await secured.update_key(credential, revoked=1)
            async with asyncio.timeout(20):
                response = await read_response()  # although the client has not ended the batch
        if not number:
            assert (response.status, response.json["code"]) == (401, "unauthorized")
            return
        *results, error = response.lines
        assert [result["status"] for result in results] == [201] * GROUP
        assert (error["problem"]["code"], error["problem"]["line"]) == ("unauthorized", GROUP + 1)
        assert await count_records(other_key, "before") == GROUP


async def test_first_group_of_lines_is_reported_though_its_key_ends(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 401 for the whole request would claim that nothing was executed."""
    reached, go, perform = asyncio.Event(), asyncio.Event(), BatchExecutor.perform

    async def blocked_perform(executor: BatchExecutor, operations: Any, factory: Any = None) -> list[Result]:
        results = await perform(executor, operations, factory)
        reached.set()
        await go.wait()
        return results

    monkeypatch.setattr(BatchExecutor, "perform", blocked_perform)
    gc.collect()  # batches of earlier tests
    async with serving(access="keys", login_limit="") as client, asyncio.timeout(60):
        secured = SecuredService(client, sqlite_url, clock)
        credential = await secured.create_key()
        async with open_line_batch(client, credential.headers) as (writer, read_response):
            writer.write(puts("first"))
            await reached.wait()
            await secured.update_key(credential, revoked=1)
            while not any(type(candidate) is LineBatch and candidate.has_ended for candidate in gc.get_objects()):
                await asyncio.sleep(0.05)
            go.set()
            *results_reported, error = (await read_response()).lines
        assert [result["status"] for result in results_reported] == [201] * GROUP
        assert (error["problem"]["code"], error["problem"]["line"]) == ("unauthorized", GROUP + 1)


async def test_operation_after_a_slow_one_needs_its_key(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operations on one GUID run one after the other, so the key can end between them."""
    async with serving(access="keys", login_limit="") as client:
        secured = SecuredService(client, sqlite_url, clock)
        credential, gate = await secured.create_key(), Gate(monkeypatch)
        operations = [{"guid": GUID, "user": user} for user in ("gate", "late")]
        batch = asyncio.create_task(KeyClient(client, credential).ask("POST", BATCH, json={"operations": operations}))
        await asyncio.wait_for(gate.reached.wait(), 20)
        await revoke_and_wait(secured, credential)
        gate.go.set()
        assert [result["status"] for result in (await batch).json["results"]] == [201, 401]


@pytest.mark.usefixtures("short_sessions")
async def test_repeated_batch_whose_key_ended_undoes_no_deletion(
    serving: Serving, sqlite_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry replays the stored response and executes nothing."""
    perform, groups = BatchExecutor.perform, 0

    async def interrupted(executor: BatchExecutor, *group: Any) -> Any:
        nonlocal groups
        groups += 1
        if groups == 2:
            await revoke_and_wait(secured, credential)
        return await perform(executor, *group)

    monkeypatch.setattr(BatchExecutor, "perform", interrupted)
    batch = {"json": {"operations": [{"user": "once"}] * (GROUP + 2)}, "headers": {"Idempotency-Key": "k"}}
    async with serving(access="keys", login_limit="") as client:
        secured = SecuredService(client, sqlite_url, clock)
        other_key, credential = await secured.key_client(), await secured.create_key(scopes="write")
        first = await KeyClient(client, credential).ask("POST", BATCH, **batch)
        assert [result["status"] for result in first.json["results"]] == [201] * GROUP + [401] * 2
        deleted, changed = (f"/guid/{first.json['results'][index]['guid']}" for index in (0, 1))
        assert (await other_key.ask("DELETE", deleted)).status == 204
        assert (await other_key.ask("PATCH", changed, json={"user": "SECRET"})).status == 200
        retry = await (await secured.key_client(scopes="write")).ask("POST", BATCH, **batch)
        assert (retry.status, retry.headers["Idempotent-Replayed"], retry.body) == (200, "true", first.body)
        assert (await other_key.ask("GET", deleted)).status == 404
        assert await count_records(other_key, "once") == GROUP - 2


CREATION: dict[str, Any] = {"user": "mine"}


@pytest.mark.parametrize(("path", "body"), [("/guid", CREATION), (BATCH, {"operations": [CREATION]})])
async def test_retry_after_a_crash_shows_no_changes_of_others(
    serving: Serving, sqlite_url: str, clock: FakeClock, path: str, body: dict[str, Any]
) -> None:
    """A key without the scope `read` sees what it created, but no later changes."""
    request = {"json": body, "headers": {"Idempotency-Key": "k"}}
    async with serving(access="keys", login_limit="") as client:
        secured = SecuredService(client, sqlite_url, clock)
        writer, other_key = await secured.key_client(scopes="write"), await secured.key_client()
        first = await writer.ask("POST", path, **request)
        for user, is_shown in (("mine", True), ("SECRET", False)):
            guid = (await other_key.ask("GET", "/guid")).json["items"][0]["guid"]
            assert (await other_key.ask("PUT", f"/guid/{guid}", json={"user": user})).status == 200
            with closing(sqlite3.connect(path_of_url(sqlite_url))) as file:
                # as after a crash before the response was stored
                file.execute("UPDATE receipts SET answer = NULL, leased_until = 0")
                file.commit()
            retry = await writer.ask("POST", path, **request)
            assert retry.status == first.status
            assert (retry.body == first.body) is is_shown
            assert b"SECRET" not in retry.body


LATE_BODY_REQUESTS = [
    ("PUT", f"/guid/{GUID}?view=full", b'{"user": "late"}'),
    ("PATCH", f"/guid/{GUID}", b'{"user": "late"}'),
    ("DELETE", f"/guid/{GUID}", b" "),
    ("GET", f"/guid/{GUID}?view=full", b" "),
    ("GET", "/guid", b" "),
    ("GET", "/keys", b" "),
    ("POST", "/guid", b'{"user": "late"}'),
    ("POST", BATCH, b'{"operations": [{"user": "late"}]}'),
    ("POST", "/keys", b'{"owner": "late", "scopes": ["admin"]}'),
    ("POST", "/keys/{id}/rotation", b"{}"),
    ("DELETE", "/keys/{id}", b" "),
]


@pytest.mark.usefixtures("short_sessions")
@pytest.mark.parametrize(("method", "path", "body"), LATE_BODY_REQUESTS)
async def test_body_received_after_its_key_ends_is_rejected(
    serving: Serving, sqlite_url: str, clock: FakeClock, method: str, path: str, body: bytes
) -> None:
    """Its head was authenticated; the rest may arrive up to `--body-timeout` later, and then changes nothing."""
    async with serving(access="keys", login_limit="") as client:
        secured = SecuredService(client, sqlite_url, clock)
        credential = await secured.create_key(scopes="admin")
        assert (await KeyClient(client, credential).ask("PUT", f"/guid/{GUID}", json={"user": "first"})).status == 201
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        header_lines = "".join(f"{name}: {value}\r\n" for name, value in credential.headers.items())
        target = path.replace("{id}", credential.key.id)
        writer.write(
            f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{header_lines}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body[:-1]
        )
        await end_key(secured, credential, "revoked")
        writer.write(body[-1:])
        assert (await asyncio.wait_for(read_reply(reader, method), 30)).status == 401
        await hang_up(writer)
        other_key = await secured.key_client(scopes="admin")
        assert (await other_key.ask("GET", f"/guid/{GUID}")).json["user"] == "first"
        assert len((await other_key.ask("GET", "/guid?state=all")).json["items"]) == 1
        assert [key["owner"] for key in (await other_key.ask("GET", "/keys")).json["items"]].count("late") == 0
