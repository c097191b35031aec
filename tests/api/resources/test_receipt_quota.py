"""Receipts of requests with an idempotency key: their quota, their content, and their owners."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from secrets import token_urlsafe
from typing import Any

import pytest
from pydantic_core import to_json

from guidsvc.api.contract.problems import TABLE
from guidsvc.api.resources.batch.stored_results import MINIMAL, encode_results, shorten
from guidsvc.domain import guid_generator
from guidsvc.domain.commands import MAX_OPERATIONS
from guidsvc.domain.receipt import ReceiptUsage
from guidsvc.errors import Contention, ReceiptsFull
from guidsvc.services.idempotency import KEPT_SECONDS, GuidFactory, Idempotency, Request
from guidsvc.services.receipts.lease import MAX_ANSWER_BYTES
from guidsvc.services.receipts.quota import (
    COUNT_EVERY_MS,
    OWNER_BYTES,
    RECEIPT_BYTES,
    TOTAL_BYTES,
    pack,
    prefix_of,
    unpack,
)
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.lease import LeaseClock
from guidsvc.store.mongo.store import open_mongo
from guidsvc.store.sqlite.search.finder import Finder
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, read_reply, reset
from tests.support.secured_service import SecuredService

BATCH = "/guid:batch"
KEY = {"Idempotency-Key": "k"}
ANSWER_BYTES = 650


@pytest.fixture(params=["sqlite", "mongo"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    url = request.getfixturevalue(f"{request.param}_url")
    async with open_store(url, exclusive=False) as store:
        yield store


@pytest.fixture
async def secured(serving: Serving, combination: dict[str, str], clock: FakeClock) -> AsyncIterator[SecuredService]:
    async with serving(**combination, access="keys") as client:
        yield SecuredService(client, combination["store_url"], clock)


async def large_response(_: GuidFactory | None) -> bytes:
    return to_json([200, {}, "x" * ANSWER_BYTES])


async def small_response(_: GuidFactory | None) -> bytes:
    return b"done"


def request_of(owner: str, number: int) -> Request:
    """Return a request of an owner with an idempotency key of its own."""
    return Request(caller=owner, key=f"{number}", fingerprint="f" * 64)


def open_idempotency(
    backend: Database, clock: FakeClock, owner_bytes: int = OWNER_BYTES, total_bytes: int = TOTAL_BYTES
) -> Idempotency:
    seeded = partial(guid_generator.seeded, guid_generator.guid_v4)
    return Idempotency(
        backend.receipts,
        LeaseClock(backend.fence),
        clock=clock,
        seeded=seeded,
        owner_bytes=owner_bytes,
        total_bytes=total_bytes,
    )


async def usage(url: str, owner: str = "") -> ReceiptUsage:
    """Count the receipts of an owner, or all, in the store of a running service."""
    prefix = prefix_of(owner) if owner else ""
    if url.startswith("sqlite"):
        async with aclosing(Finder(path_of_url(url))) as finder:
            return await finder.receipt_usage(prefix)
    async with open_mongo(url) as mongo:
        return await mongo.receipts.usage(prefix)


# Bounds


async def test_store_counts_receipts_of_an_owner_and_in_total(backend: Database, clock: FakeClock) -> None:
    idempotency = open_idempotency(backend, clock)
    assert await backend.receipts.usage("") == (0, 0)
    for owner, count in (("a", 3), ("b", 1), ("", 1)):
        for index in range(count):
            await idempotency.once(request_of(owner, index), large_response)
    usage_of_a, total_usage = await backend.receipts.usage(prefix_of("a")), await backend.receipts.usage("")
    assert (usage_of_a.number, total_usage.number) == (3, 5)
    assert 3 * ANSWER_BYTES < usage_of_a.answer_bytes < 3 * (ANSWER_BYTES + 100)
    assert total_usage.answer_bytes * 3 == usage_of_a.answer_bytes * 5


@pytest.mark.parametrize("bound", ["owner_bytes", "total_bytes"])
async def test_new_request_at_the_bound_is_rejected_before_execution(
    backend: Database, clock: FakeClock, bound: str
) -> None:
    max_bytes = (10 if bound == "owner_bytes" else 20) * (ANSWER_BYTES + RECEIPT_BYTES)
    idempotency = open_idempotency(backend, clock, **{bound: max_bytes})
    executed = 0

    async def counted_work(draws: GuidFactory | None) -> bytes:
        nonlocal executed
        executed += 1
        return await large_response(draws)

    async def fill_quota() -> None:
        for number in range(100):
            await idempotency.once(request_of("a", number), counted_work)

    with pytest.raises(ReceiptsFull):
        await fill_quota()
    assert 8 <= executed <= 10
    assert await idempotency.once(request_of("a", 0), counted_work) == (await large_response(None), True), (
        "a stored response is replayed"
    )
    await idempotency.once(request_of("b", 0), counted_work)
    other_process = open_idempotency(backend, clock, **{bound: max_bytes})  # as in another process
    with pytest.raises(ReceiptsFull):
        await other_process.once(request_of("a", 100), counted_work)
    clock.advance(seconds=KEPT_SECONDS + 1)
    await backend.receipts.purge(clock.seconds, 1000)
    await idempotency.once(request_of("a", 101), counted_work)


async def test_each_owner_leaves_as_much_room_as_it_takes(backend: Database, clock: FakeClock) -> None:
    idempotency = open_idempotency(backend, clock, total_bytes=64 * RECEIPT_BYTES)

    async def fill_room(owner: str) -> int:
        for number in range(100):
            try:
                await idempotency.once(request_of(owner, number), small_response)
            except ReceiptsFull:
                return number
        return 100

    counts = [await fill_room(owner) for owner in "abcde"]
    assert counts == [32, 16, 8, 4, 2]
    assert await fill_room("f") == 1, "some room is always left"


async def test_rejection_shows_nothing_of_the_responses_of_others(backend: Database, clock: FakeClock) -> None:
    """What is left for an owner depends on what all others use."""
    idempotency = open_idempotency(backend, clock, total_bytes=40 * RECEIPT_BYTES)

    async def rejection() -> str:
        try:
            for number in range(100):
                await idempotency.once(request_of("a", number), small_response)
        except ReceiptsFull as error:
            return str(error)
        raise AssertionError("the bound was not reached")

    before = await rejection()
    await idempotency.once(request_of("b", 0), small_response)
    assert await rejection() == before


async def test_expired_receipts_take_no_room(backend: Database, clock: FakeClock) -> None:
    idempotency = open_idempotency(backend, clock, owner_bytes=2 * RECEIPT_BYTES + ANSWER_BYTES)

    async def fail(_: GuidFactory | None) -> bytes:
        raise Contention("any error before a write")

    for number in range(50):
        with pytest.raises(Contention):
            await idempotency.once(request_of("a", number), fail)
    clock.advance(seconds=COUNT_EVERY_MS / 1000)
    await idempotency.once(request_of("a", 50), large_response)


async def test_room_is_recounted_after_clock_goes_back(backend: Database, clock: FakeClock) -> None:
    """Otherwise a full budget would stay full for as long as the clock was ahead."""
    idempotency = open_idempotency(backend, clock, owner_bytes=2 * RECEIPT_BYTES + ANSWER_BYTES)
    await idempotency.once(request_of("a", 0), large_response)
    with pytest.raises(ReceiptsFull):
        await idempotency.once(request_of("a", 1), large_response)
    assert await backend.receipts.purge(clock.seconds + KEPT_SECONDS + 1, 10) == 1
    clock.advance(seconds=-24 * 3600)
    await idempotency.once(request_of("a", 2), large_response)


def test_packed_response_can_be_unpacked() -> None:
    for text in (b"[]", b"x" * 5_000_000, os.urandom(40_000).hex().encode(), "Zürich🜁".encode() * 1000):
        assert unpack(pack(text)) == text
    assert len(pack(b"x" * 5_000_000)) < MAX_ANSWER_BYTES


async def test_problem_at_the_bound_says_how_to_continue(serving: Serving) -> None:
    async with serving(receipt_bytes_per_owner=8 * 1024) as client:
        for number in range(100):
            reply = await client.post("/guid", {"user": USER}, headers={"Idempotency-Key": f"{number}"})
            if reply.status != 201:
                break
        problem = assert_problem(reply, 429, "receipts-full")
        assert "Nothing was done" in str(problem["detail"])
        assert int(reply.headers["Retry-After"]) > 0
        page = await client.get("/guid", headers={"Prefer": "return=total-count"})
        assert page.json["total"] == number
        retry = await client.post("/guid", {"user": USER}, headers={"Idempotency-Key": "0"})
        assert retry.headers["Idempotent-Replayed"] == "true"
        assert (await client.post("/guid", {"user": USER})).status == 201


# Content


async def test_read_only_request_leaves_no_receipt(secured: SecuredService) -> None:
    """Neither does one without permission to write or one that only validates; its key must still be valid."""
    writer, reader = await secured.key_client(), await secured.key_client(scopes="read")
    await writer.ask("PUT", f"/guid/{GUID}", json={"user": USER, "metadata": {"x": "x" * 16_000}})
    reads: dict[str, Any] = {"operations": [{"op": "get", "guid": GUID}] * 200}
    writes: dict[str, Any] = {"operations": [{"user": USER}]}
    for caller, path, document in (
        (writer, BATCH, reads),
        (reader, BATCH, reads),
        (reader, BATCH, writes),
        (writer, f"{BATCH}?validate_only=true", writes),
    ):
        for _ in range(2):
            reply = await caller.ask("POST", path, json=document, headers=KEY)
            assert reply.status == 200
            assert "Idempotent-Replayed" not in reply.headers
    assert await usage(secured.store_url) == (0, 0)
    rejection = await reader.ask("POST", BATCH, json=writes, headers={"Idempotency-Key": "not a key"})
    assert rejection.status == 400, "a malformed key is rejected all the same"


async def test_receipt_of_large_response_omits_the_records(client: Client, combination: dict[str, str]) -> None:
    operations = [{"user": USER, "metadata": {"noise": os.urandom(1500).hex()}} for _ in range(200)]
    first, retry = [await client.post(BATCH, {"operations": operations}, headers=KEY) for _ in range(2)]

    def without_record(result: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in result.items() if name != "record"}

    assert all("record" in result for result in first.json["results"])
    assert retry.headers["Idempotent-Replayed"] == "true"
    assert retry.headers["Preference-Applied"] == "return=minimal"
    assert retry.json["results"] == [without_record(result) for result in first.json["results"]]
    assert (await usage(combination["store_url"])).answer_bytes <= MAX_ANSWER_BYTES


async def test_receipt_of_long_problems_omits_their_details(client: Client) -> None:
    """Otherwise the batch would be executed again, and create the record that its client has deleted."""
    unknown_members = [{"user": USER, token_urlsafe(45): 1} for _ in range(998)]
    for key, other in (("repeatable", {"user": USER}), ("named", {"guid": GUID, "user": USER})):
        document = {"operations": [{"user": USER}, other, *unknown_members]}
        first = await client.post(BATCH, document, headers={"Idempotency-Key": key})
        created, *_, failed = first.json["results"]
        assert (created["status"], failed["status"]) == (201, 400)
        assert (await client.delete(f"/guid/{created['guid']}")).status == 204
        retry = await client.post(BATCH, document, headers={"Idempotency-Key": key})
        assert (await client.get(f"/guid/{created['guid']}")).status == 404
        assert retry.headers["Idempotent-Replayed"] == "true"
        assert retry.headers["Preference-Applied"] == "return=minimal"
        assert retry.json["results"][0] == {name: created[name] for name in ("status", "guid", "etag")}
        problem = {name: failed["problem"][name] for name in ("type", "title", "status", "code", "request_id")}
        detail = "The details of this error were not stored, because the response was too large."
        assert retry.json["results"][-1] == {"status": 400, "problem": problem | {"detail": detail}}


def test_shortest_results_of_a_batch_fit_into_a_receipt() -> None:
    """Whatever the client has sent, and whatever codes the results have."""
    problems = [problem for problem in TABLE.values() if problem.code != "invalid-request"]

    def result(number: int) -> dict[str, Any]:
        head = {"guid": os.urandom(16).hex().upper(), "etag": f'"{random.randrange(10**15)}"'}
        if number % 3:
            return {"status": 201, **head, "record": {"user": os.urandom(100).hex()}}
        code, status, title = random.choice(problems)
        members = {"type": f"https://host.example/problems/{code}", "title": title, "status": status, "code": code}
        problem = members | {"detail": os.urandom(100).hex(), "request_id": "1" * 64, "guid": head["guid"]}
        return {"status": status, **head, "problem": problem}

    texts = [shorten(to_json(result(number))) for number in range(MAX_OPERATIONS)]
    for unknown in (range(0), range(MAX_OPERATIONS)):
        assert len(pack(encode_results(MINIMAL, texts, unknown))) <= MAX_ANSWER_BYTES * 0.95


async def test_batch_without_changes_frees_its_key(client: Client) -> None:
    document: dict[str, Any] = {
        "operations": [{"op": "delete", "guid": GUID}, {"user": ""}, {"op": "get", "guid": GUID}]
    }
    first = await client.post(BATCH, document, headers=KEY)
    assert [result["status"] for result in first.json["results"]] == [404, 400, 404]
    await client.put(f"/guid/{GUID}", {"user": USER})
    retry = await client.post(BATCH, document, headers=KEY)
    assert [result["status"] for result in retry.json["results"]] == [204, 400, 404]


async def test_put_without_change_is_not_repeated(client: Client) -> None:
    document: dict[str, Any] = {"operations": [{"guid": GUID, "user": USER}]}
    await client.put(f"/guid/{GUID}", {"user": USER})
    first = await client.post(BATCH, document, headers=KEY)
    await client.put(f"/guid/{GUID}", {"user": "another, later"})
    retry = await client.post(BATCH, document, headers=KEY)
    assert (retry.body, retry.headers["Idempotent-Replayed"]) == (first.body, "true")
    assert (await client.get(f"/guid/{GUID}")).json["user"] == "another, later"


# Owners


async def test_replay_needs_the_same_owner_and_scopes(secured: SecuredService) -> None:
    """Another API key with the same rights gets the replay; one with other rights does not."""
    alice = await secured.key_client("alice")
    await alice.ask("PUT", f"/guid/{GUID}", json={"user": "SECRET"})
    document = {"operations": [{"op": "get", "guid": GUID}, {"user": USER}]}
    admin, twin = await secured.key_client("ops", "admin"), await secured.key_client("ops", "admin")
    first = await admin.ask("POST", BATCH, json=document, headers=KEY)
    assert first.json["results"][0]["record"]["user"] == "SECRET"
    replay = await twin.ask("POST", BATCH, json=document, headers=KEY)
    assert (replay.body, replay.headers["Idempotent-Replayed"]) == (first.body, "true")
    for scopes in ("read", "write", "read write delete"):
        reply = await (await secured.key_client("ops", scopes)).ask("POST", BATCH, json=document, headers=KEY)
        assert b"SECRET" not in reply.body
        assert "Idempotent-Replayed" not in reply.headers


@pytest.mark.parametrize("scopes", ["read", "delete"])
async def test_rejection_is_not_replayed_to_a_permitted_caller(secured: SecuredService, scopes: str) -> None:
    document = {"operations": [{"user": USER}]}
    unpermitted, permitted = await secured.key_client("ops", scopes), await secured.key_client("ops", "write")
    rejection = await unpermitted.ask("POST", BATCH, json=document, headers=KEY)
    assert [result["status"] for result in rejection.json["results"]] == [403]
    success = await permitted.ask("POST", BATCH, json=document, headers=KEY)
    assert [result["status"] for result in success.json["results"]] == [201]
    assert (await usage(secured.store_url, "ops")).number == 1


# Interruptions


async def interrupt_batch(client: Client, document: dict[str, Any], count: int) -> None:
    """Send a batch, and reset the connection as soon as the batch has created `count` records."""
    body = json.dumps(document).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = f"POST {BATCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    while await total(client) < count:
        await asyncio.sleep(0)
    await reset(writer)


async def total(client: Client) -> int:
    reply = await client.get("/guid?limit=1&state=all", headers={"Prefer": "return=total-count"})
    return int(reply.json["total"])


async def retry_until_done(client: Client, document: dict[str, Any]) -> Any:
    """Repeat a batch until it is no longer in progress; return the response."""
    async with asyncio.timeout(60):
        while (reply := await client.post(BATCH, document, headers=KEY)).status == 409:
            await asyncio.sleep(0.01)
    return reply


@pytest.mark.parametrize("count", [1, 200])
async def test_interrupted_batch_is_executed_once_on_retry(serving: Serving, count: int) -> None:
    document = {"operations": [{"user": f"u{number}"} for number in range(1000)]}
    async with serving() as client:
        await interrupt_batch(client, document, count)
        reply = await retry_until_done(client, document)
        assert reply.headers["Idempotent-Replayed"] == "true"
        assert {result["status"] for result in reply.json["results"]} == {201}
        assert await total(client) == 1000


async def test_interrupted_batch_of_named_guids_is_not_repeated(serving: Serving) -> None:
    guids = [f"{number:032X}" for number in range(1000)]
    document = {"operations": [{"guid": guid, "user": "batch"} for guid in guids]}
    async with serving() as client:
        await interrupt_batch(client, document, 1)
        assert (await client.put(f"/guid/{guids[0]}", {"user": "later"})).status == 200
        reply = await retry_until_done(client, document)
        assert reply.status == 200
        assert (await client.get(f"/guid/{guids[0]}")).json["user"] == "later"
        assert await total(client) == 1000


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_creation_interrupted_at_any_point_is_executed_once(serving: Serving, method: str) -> None:
    async with serving() as client:
        for number in range(40):
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            head = f"{method} /guid HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            writer.write(f'{head}Idempotency-Key: {number}\r\nContent-Length: 13\r\n\r\n{{"user": "a"}}'.encode())
            for _ in range(number):
                await asyncio.sleep(0)
            await reset(writer)
            async with asyncio.timeout(30):
                while True:
                    key = {"Idempotency-Key": f"{number}"}
                    reply = await client.ask(method, "/guid", json={"user": "a"}, headers=key)
                    if reply.status != 409:
                        break
                    await asyncio.sleep(0.01)
            assert reply.status == 201
        assert await total(client) == 40


async def test_staying_client_gets_the_same_response_as_a_leaving_one(serving: Serving) -> None:
    document = {"operations": [{"user": f"u{number}"} for number in range(300)]}
    body = json.dumps(document).encode()
    head = f"POST {BATCH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(f"{head}Idempotency-Key: k\r\n\r\n".encode() + body)
        first = await asyncio.wait_for(read_reply(reader, "POST"), 30)
        await reset(writer)
        assert (await retry_until_done(client, document)).body == first.body
