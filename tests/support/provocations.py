"""How to provoke each problem of the service over real sockets."""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, closing
from typing import NamedTuple

from guidsvc.domain import api_key as keys
from guidsvc.domain.record import EXAMPLE
from guidsvc.domain.record import EXAMPLE_GUID as GUID
from guidsvc.store import open_store
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import FakeClock, Serving
from tests.support.event_reader import LINES, reading
from tests.support.http_client import Client, Reply, raw
from tests.support.secured_service import SecuredService

PATH = f"/guid/{GUID}"
BODY = {"user": EXAMPLE["user"]}
RETRY = {"Idempotency-Key": "a"}


class World(NamedTuple):
    """The means to provoke a problem."""

    serving: Serving
    clock: FakeClock
    sqlite_url: str

    def change_database(self, statement: str, *values: object) -> None:
        """Change one row of the store without the service."""
        with closing(sqlite3.connect(path_of_url(self.sqlite_url))) as file, file:
            assert file.execute(statement, values).rowcount == 1


Provocation = Callable[[World], Awaitable[Reply]]


def by_request(method: str, path: str = PATH, body: object = None, **headers: str) -> Provocation:
    """Return a provocation by one request."""

    async def provoke(world: World) -> Reply:
        async with world.serving() as client:
            header_fields = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.ask(method, path, json=body, headers=header_fields)

    return provoke


def by_request_after_creation(
    request: Callable[[Client, FakeClock], Awaitable[Reply]], body: object, **settings: object
) -> Provocation:
    """Return a provocation by a request after the GUID was created with this body."""

    async def provoke(world: World) -> Reply:
        async with world.serving(**settings) as client:
            assert (await client.put(PATH, body)).status == 201
            return await request(client, world.clock)

    return provoke


async def read_late(client: Client, clock: FakeClock) -> Reply:
    clock.advance(seconds=100)
    return await client.get(PATH)


async def send_version(world: World) -> Reply:
    async with world.serving() as client:
        return await raw(client, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n")


async def send_long_head(world: World) -> Reply:
    async with world.serving() as client:
        return await raw(client, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")


async def send_unknown_key(world: World) -> Reply:
    _, text = keys.generate("alice", ["read"], world.clock())
    async with world.serving(access="keys") as client:
        return await client.get(PATH, headers={"Authorization": f"Bearer {text}"})


async def write_as_reader(world: World) -> Reply:
    async with world.serving(access="keys") as client:
        reader = await SecuredService(client, world.sqlite_url, world.clock).key_client("alice", "read")
        return await reader.ask("PUT", PATH, json=BODY)


async def rotate_revoked_key(world: World) -> Reply:
    async with world.serving(access="keys") as client:
        secured = SecuredService(client, world.sqlite_url, world.clock)
        admin, credential = await secured.key_client("ops", "admin"), await secured.create_key()
        assert (await admin.ask("DELETE", f"/keys/{credential.key.id}")).status == 204
        return await admin.ask("POST", f"/keys/{credential.key.id}/rotation", json={})


async def exceed_quota(world: World) -> Reply:
    async with world.serving(access="keys", quota=2) as client:
        alice = await SecuredService(client, world.sqlite_url, world.clock).key_client("alice")
        assert (await alice.ask("PUT", PATH, json=BODY)).status == 201
        assert (await alice.ask("POST", "/guid", json=BODY)).status == 201
        return await alice.ask("POST", "/guid", json=BODY)


async def exceed_rate(world: World) -> Reply:
    async with world.serving(access="keys", rate_limit="2/second") as client:
        alice = await SecuredService(client, world.sqlite_url, world.clock).key_client("alice")
        for _ in range(2):
            assert (await alice.ask("GET", "/guid")).status == 200
        return await alice.ask("GET", "/guid")


async def repeat_while_in_progress(world: World) -> Reply:
    async with world.serving() as client:
        assert (await client.post("/guid", BODY, headers=RETRY)).status == 201
        world.change_database("UPDATE receipts SET answer = NULL, leased_until = ?", world.clock() + 1)
        return await client.post("/guid", BODY, headers=RETRY)


async def repeat_changed(world: World) -> Reply:
    async with world.serving() as client:
        assert (await client.post("/guid", BODY, headers=RETRY)).status == 201
        return await client.post("/guid", {"user": "another"}, headers=RETRY)


async def fill_receipts(world: World) -> Reply:
    async with world.serving(receipt_bytes_per_owner=8 * 1024) as client:
        for number in range(100):
            reply = await client.post("/guid", BODY, headers={"Idempotency-Key": f"{number}"})
            if reply.status != 201:
                return reply
    raise AssertionError("the receipts have no limit")


async def read_corrupt(world: World) -> Reply:
    async with world.serving() as client:
        assert (await client.put(PATH, BODY)).status == 201
        world.change_database("UPDATE records SET user = '' WHERE guid = ?", GUID)
        return await client.get(PATH)


async def renew_at_limit(world: World) -> Reply:
    async with world.serving(max_life=60) as client:
        assert (await client.put(PATH, BODY | {"ttl": 60})).status == 201
        world.clock.advance(seconds=30)
        return await client.post(f"{PATH}/renewal", {"ttl": 60})


async def follow_from_trimmed_events(world: World) -> Reply:
    async with world.serving() as client:
        for user in ("first", "second", "third"):
            await client.put(PATH, {"user": user})
        first = (await client.get("/events?limit=1")).json["next"]
    async with open_store(world.sqlite_url, exclusive=False) as store:
        assert await store.events.trim(world.clock() + 1, 2**30, 2) == 2
    async with world.serving() as client:
        return await client.get(f"/events?cursor={first}")


async def open_too_many_streams(world: World) -> Reply:
    async with world.serving(max_streams=32) as client, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(reading(client.port, "?follow=true", LINES))
        return await client.get("/events?follow=true", headers=LINES)


PROVOCATIONS: Mapping[str, Provocation] = {
    "invalid-guid": by_request("GET", "/guid/9094e4c9-80c7-4043-a4b5-86b420e69ddf"),
    "invalid-request": by_request("PUT", body={"expire": 1_798_761_600_000, "metdata": {}}),
    "not-found": by_request("GET"),
    "method-not-allowed": by_request("DELETE", "/guid"),
    "not-implemented": by_request("put", body=BODY),
    "http-version-not-supported": send_version,
    "expired": by_request_after_creation(read_late, BODY | {"ttl": 60}),
    "life-limit": renew_at_limit,
    "events-gone": follow_from_trimmed_events,
    "too-many-streams": open_too_many_streams,
    "expires-too-soon": by_request_after_creation(
        lambda client, _: client.get(f"{PATH}?valid_for=600"), BODY | {"ttl": 60}
    ),
    "precondition-failed": by_request_after_creation(
        lambda client, _: client.put(PATH, BODY, headers={"If-Match": '"1"'}), EXAMPLE
    ),
    "precondition-required": by_request_after_creation(
        lambda client, _: client.put(PATH, BODY), EXAMPLE, require_preconditions=True
    ),
    "unauthorized": send_unknown_key,
    "forbidden": write_as_reader,
    "key-ended": rotate_revoked_key,
    "quota-exceeded": exceed_quota,
    "rate-limited": exceed_rate,
    "in-progress": repeat_while_in_progress,
    "idempotency-mismatch": repeat_changed,
    "receipts-full": fill_receipts,
    "too-large": by_request("PUT", body={"user": "x" * 70_000}),
    "misdirected-request": by_request("GET", Host="registry.example"),
    "too-early": by_request("PUT", body=BODY, Early_Data="1"),
    "headers-too-large": send_long_head,
    "unsupported-media-type": by_request("POST", "/guid", BODY, Content_Type="text/plain"),
    "internal": read_corrupt,
}
"""How to provoke each problem that needs no failing store."""
OF_FAILING_STORE = {"unavailable", "outcome-unknown"}
