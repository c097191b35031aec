"""A host that is suspended for longer than leases, sessions and claims last: after it resumes, they have ended.

The monotonic clocks of the service stand still meanwhile (`tests/support/suspended_host.py`).
"""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.backing_servers import Service, pdapt, service
from tests.support.http_client import Client
from tests.support.mongo_proxy import MongoProxy
from tests.support.suspended_host import SuspendableHost, suspendable_service

pytestmark = pytest.mark.slow

SUSPENSIONS = 3
WAIT_SECONDS = 240.0
KEY_SECONDS = 8
"""The life of a key, within which a busy machine must create it and use it once."""
CREATIONS = 300
"""In one batch. It must be suspended after the first of them, and before the last."""
STEP_SECONDS = 0.5
"""The time of each command of the batch, so that it goes on while a busy machine suspends its host."""
NAMED = [f"{number:032X}" for number in range(CREATIONS)]


@pytest.fixture(params=["sqlite", "mongo"])
def store_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def other_folder(tmp_path: Path) -> Path:
    """Return the folder of the process on another host."""
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


@contextmanager
def both_services(tmp_path: Path, mongo: MongoProxy, redis_url: str) -> Iterator[tuple[SuspendableHost, Service]]:
    """Run a service on a host that can be suspended, which uses MongoDB through the proxy, and one on another host."""
    through_proxy, direct = (f"mongodb://127.0.0.1:{port}/guidsvc_test" for port in (mongo.port, mongo.upstream))
    with (
        suspendable_service(tmp_path / "suspended", "--store-url", through_proxy, "--cache-url", redis_url) as host,
        service(other_folder(tmp_path), "--store-url", direct, "--cache-url", redis_url) as other,
    ):
        yield host, other


async def until_in_local_cache(client: Client, path: str) -> None:
    """Read a GUID until its process serves it from its own memory."""
    async with asyncio.timeout(WAIT_SECONDS):
        while "detail=l1" not in (await client.get(path)).headers.get("Cache-Status", ""):
            await asyncio.sleep(0.01)


async def test_revoked_guid_is_not_served_after_a_suspension(tmp_path: Path, store_url: str, redis_url: str) -> None:
    options = ("--store-url", store_url, "--cache-url", redis_url, "--cache-status")
    with (
        suspendable_service(tmp_path / "suspended", *options) as host,
        service(other_folder(tmp_path), *options) as other,
    ):
        async with aclosing(Client(host.port)) as reader, aclosing(Client(other.port)) as writer:
            for number in range(SUSPENSIONS):
                path = f"/guid/{number:032X}"
                assert (await writer.put(path, {"user": "a"})).status == 201
                await until_in_local_cache(reader, path)
                with host.suspended():
                    assert (await writer.put(path, {"expire": 0})).status == 200
                assert (await reader.get(path)).status == 410


@pytest.mark.parametrize("server", ["httptools", "tornado"])
async def test_key_that_expired_during_a_suspension_is_rejected(tmp_path: Path, server: str) -> None:
    admin = pdapt(tmp_path, "keys", "create", "--new-store", "--owner", "a", "--scopes", "admin").stdout.strip()
    with suspendable_service(tmp_path, "--access", "keys", "--server", server) as host:
        async with aclosing(Client(host.port)) as client:
            expire = int(time.time()) + KEY_SECONDS
            created = await client.post(
                "/keys",
                {"owner": "b", "scopes": ["read"], "expire": expire},
                headers={"Authorization": f"Bearer {admin}"},
            )
            headers = {"Authorization": f"Bearer {created.json['key']}"}
            assert (await client.get("/guid", headers=headers)).status == 200
            with host.suspended():
                await asyncio.sleep(max(0.0, expire - time.time()))
            assert (await client.get("/guid", headers=headers)).status == 401


def create_all(port: int) -> tuple[int, bytes]:
    """Send a batch of creations with a key, and wait for the response; return its status and body."""
    return send_batch(port, [{"user": "a"}] * CREATIONS)


def put_all(port: int) -> tuple[int, bytes]:
    """Send a batch that creates `NAMED` with a key, and wait for the response; return its status and body."""
    return send_batch(port, [{"guid": guid, "user": "old"} for guid in NAMED])


def send_batch(port: int, operations: list[dict[str, str]]) -> tuple[int, bytes]:
    """Send a batch with a key, and wait for the response; return its status and body."""
    document = json.dumps({"operations": operations})
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    connection = HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    with closing(connection):
        connection.request("POST", "/guid:batch", document, headers)
        response = connection.getresponse()
        return response.status, response.read()


async def guids_of(client: Client) -> list[str]:
    """Return all live GUIDs. A stream that breaks off, as the store of a busy machine was late, is repeated."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with suppress(ConnectionResetError):
                listed = await client.get("/guid", headers={"Accept": "application/x-ndjson"})
                if listed.status == HTTPStatus.OK:
                    return [record["guid"] for record in listed.lines]
            await asyncio.sleep(0.1)


async def create_all_elsewhere(port: int) -> None:
    """Repeat the batch in another process: the claim of the first must have ended, and each outcome be known."""

    def is_complete(reply: tuple[int, bytes]) -> bool:
        return reply[0] == 200 and all("record" in result for result in json.loads(reply[1])["results"])

    async with asyncio.timeout(WAIT_SECONDS):
        while not is_complete(await asyncio.to_thread(create_all, port)):
            await asyncio.sleep(0.5)


async def delete_all(client: Client) -> None:
    """Delete all GUIDs."""
    async with asyncio.timeout(WAIT_SECONDS):
        while guids := await guids_of(client):
            operations = [{"op": "delete", "guid": guid} for guid in guids[:100]]
            await client.post("/guid:batch", {"operations": operations})


async def test_batch_ends_with_its_claim_in_a_suspension(
    tmp_path: Path, proxied_mongo: MongoProxy, redis_url: str
) -> None:
    with both_services(tmp_path, proxied_mongo, redis_url) as (host, other), proxied_mongo.delaying(STEP_SECONDS):
        async with aclosing(Client(other.port)) as second:
            batch = asyncio.create_task(asyncio.to_thread(create_all, host.port))
            while not await guids_of(second):
                await asyncio.sleep(0)
            with host.suspended():
                assert len(await guids_of(second)) < CREATIONS, "the batch had ended before the suspension"
                await create_all_elsewhere(other.port)
                await delete_all(second)
            await batch
            assert await guids_of(second) == []


async def until_outcome_unknown(port: int) -> None:
    """Repeat the batch of named GUIDs in another process until that reports an unknown outcome."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (await asyncio.to_thread(put_all, port))[0] != HTTPStatus.GATEWAY_TIMEOUT:
            await asyncio.sleep(0.5)


async def test_named_operations_end_with_the_claim_of_their_batch(
    tmp_path: Path, proxied_mongo: MongoProxy, redis_url: str
) -> None:
    """Otherwise they would undo what clients do once they know that its outcome is unknown."""
    with both_services(tmp_path, proxied_mongo, redis_url) as (host, other), proxied_mongo.delaying(STEP_SECONDS):
        async with aclosing(Client(other.port)) as second:
            batch = asyncio.create_task(asyncio.to_thread(put_all, host.port))
            while not await guids_of(second):
                await asyncio.sleep(0)
            with host.suspended():
                assert len(await guids_of(second)) < CREATIONS, "the batch had ended before the suspension"
                await until_outcome_unknown(other.port)
                done = await guids_of(second)
                assert (await second.put(f"/guid/{NAMED[-1]}", {"user": "new"})).status == 201
            status, body = await batch
            statuses = [result["status"] for result in json.loads(body)["results"]]
            assert (status, statuses[-1]) == (200, 503)
            assert sorted(await guids_of(second)) == sorted([*done, NAMED[-1]])
            assert (await second.get(f"/guid/{NAMED[-1]}")).json["user"] == "new"
            assert (await asyncio.to_thread(put_all, other.port))[0] == HTTPStatus.GATEWAY_TIMEOUT
