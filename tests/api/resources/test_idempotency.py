"""Idempotency-Key, over HTTP."""

import asyncio
import itertools
import json
import re
import sqlite3
from contextlib import closing

import pytest

from guidsvc.api.contract.headers import IDEMPOTENCY_KEY
from guidsvc.api.resources.batch.handler import MAX_BYTES as BATCH_BYTES
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.api_document import RENDERED, resolved
from tests.support.assertions import assert_problem
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, raw

pytestmark = pytest.mark.each_backend

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


async def count_records(client: Client) -> int:
    """Count all stored records."""
    total: int = (await client.get("/guid?state=all", headers={"Prefer": "return=total-count"})).json["total"]
    return total


async def test_repeated_creation_replays_the_first_response(client: Client, clock: FakeClock) -> None:
    first = await client.post("/guid", {"user": USER}, headers=KEY)
    clock.advance(seconds=3600)
    await client.put(f"/guid/{first.json['guid']}", {"user": "changed since"})
    retry = await client.post("/guid", {"user": USER}, headers=KEY)

    assert first.status == retry.status == 201
    assert first.body == retry.body
    for name in ("ETag", "Location", "Last-Modified", "Content-Type", "Cache-Control"):
        assert first.headers[name] == retry.headers[name]
    assert "Idempotent-Replayed" not in first.headers
    assert retry.headers["Idempotent-Replayed"] == "true"
    assert first.headers["X-Request-Id"] != retry.headers["X-Request-Id"]
    assert await count_records(client) == 1


async def test_replay_does_not_renew_a_revoked_record(client: Client) -> None:
    revoked = {"user": USER, "expire": 0}
    first, retry = [await client.post("/guid", revoked, headers=KEY) for _ in range(2)]
    path = f"/guid/{first.json['guid']}"

    assert (first.status, retry.status, retry.body) == (201, 201, first.body)
    assert_problem(await client.get(path), 410, "expired")
    assert_problem(await client.put(path, {"user": USER}), 410, "expired")


async def test_key_with_another_body_path_or_query_is_a_mismatch(client: Client) -> None:
    await client.post("/guid", {"user": USER}, headers=KEY)

    for path, body in (
        ("/guid", {"user": "b"}),
        ("/guid?view=full", {"user": USER}),
        ("/guid:batch", {"operations": [{"user": USER}]}),
    ):
        assert_problem(await client.post(path, body, headers=KEY), 422, "idempotency-mismatch")
    assert await count_records(client) == 1


async def test_one_concurrent_request_creates_and_others_must_retry(client: Client) -> None:
    async def create() -> bytes:
        while True:
            reply = await client.post("/guid", {"user": USER}, headers=KEY)
            if reply.status == 201:
                return reply.body
            assert_problem(reply, 409, "in-progress")
            assert reply.headers["Retry-After"] == "1"

    bodies = await asyncio.gather(*(create() for _ in range(20)))

    assert len(set(bodies)) == 1
    assert await count_records(client) == 1


async def test_corrected_request_can_reuse_its_key(client: Client) -> None:
    assert_problem(await client.post("/guid", {"user": ""}, headers=KEY), 400, "invalid-request")
    failed = await client.post("/guid", {"user": USER}, headers=KEY | {"If-Match": "*"})
    assert_problem(failed, 412, "precondition-failed")

    assert (await client.post("/guid", {"user": USER}, headers=KEY)).status == 201


PATHS = {
    "createGuid": ("POST", "/guid", {"user": USER}),
    "drawGuid": ("PUT", "/guid", {"user": USER}),
    "doBatch": ("POST", "/guid:batch", {"operations": [{"guid": GUID, "user": USER}]}),
    "createRenewal": ("POST", f"/guid/{GUID}/renewal", {"ttl": 10_000}),
}
"""A valid request for each operation that accepts an idempotency key."""
JSON = {"Content-Type": "application/json"}
REJECTIONS: dict[str, tuple[int, dict[str, str], bytes | None]] = {
    "type": (415, {"Content-Type": "text/plain"}, None),
    "no_type": (415, {"Content-Type": ""}, None),
    "compressed": (415, JSON | {"Content-Encoding": "gzip"}, None),
    "too_large": (413, JSON, b" " * (BATCH_BYTES + 1)),
    "not_json": (400, JSON, b"{"),
    "empty": (400, JSON, b""),
    "condition": (412, JSON | {"If-Match": '"1"'}, None),
    "invalid_condition": (400, JSON | {"If-Match": '"'}, None),
}
"""The status, and the headers and the body that cause it; None is the valid body."""


WITHOUT_CONDITIONS = {("doBatch", "condition"), ("doBatch", "invalid_condition")}
"""A batch has its conditions in its operations."""


def test_every_operation_that_accepts_a_key_has_an_example() -> None:
    operations = [operation for item in resolved(json.loads(RENDERED))["paths"].values() for operation in item.values()]
    with_key = {
        operation["operationId"]
        for operation in operations
        if any(parameter["name"] == IDEMPOTENCY_KEY.name for parameter in operation.get("parameters", ()))
    }
    assert with_key == PATHS.keys()


@pytest.mark.parametrize("combination", ["sqlite+memory"], indirect=True)  # rejected before the store is asked
@pytest.mark.parametrize(
    ("operation", "reason"),
    [pair for pair in itertools.product(PATHS, REJECTIONS) if pair not in WITHOUT_CONDITIONS],
)
async def test_rejected_request_leaves_its_key_free(client: Client, operation: str, reason: str) -> None:
    (method, path, valid), (status, headers, body) = PATHS[operation], REJECTIONS[reason]
    await client.put(f"/guid/{GUID}", {"user": USER, "ttl": 100})
    rejected = await client.ask(
        method, path, body=json.dumps(valid).encode() if body is None else body, headers=KEY | headers
    )
    assert rejected.status == status

    corrected = await client.ask(method, path, json=valid, headers=KEY)
    assert corrected.status in {200, 201}
    assert "Idempotent-Replayed" not in corrected.headers


@pytest.mark.parametrize("operation", PATHS)
async def test_body_is_checked_before_its_key(client: Client, operation: str) -> None:
    """The response is not replayed for a body that is not accepted."""
    method, path, valid = PATHS[operation]
    await client.put(f"/guid/{GUID}", {"user": USER, "ttl": 100})
    assert (await client.ask(method, path, json=valid, headers=KEY)).status in {200, 201}

    headers = KEY | {"Content-Type": "text/plain"}
    rejected = await client.ask(method, path, body=json.dumps(valid).encode(), headers=headers)
    assert_problem(rejected, 415, "unsupported-media-type")


@pytest.mark.parametrize(("bare", "quoted"), [("abc", '"abc"'), ("a\\b", r'"a\\b"'), (r"a\\b", r'"a\\\\b"')])
async def test_key_can_be_quoted(client: Client, bare: str, quoted: str) -> None:
    first = await client.post("/guid", {"user": USER}, headers={"Idempotency-Key": bare})
    retry = await client.post("/guid", {"user": USER}, headers={"Idempotency-Key": quoted})

    assert first.body == retry.body


async def test_escaped_key_differs_from_the_bare_key_it_looks_like(client: Client) -> None:
    bare = await client.post("/guid", {"user": USER}, headers={"Idempotency-Key": r"c\\d"})
    quoted = await client.post("/guid", {"user": USER}, headers={"Idempotency-Key": r'"c\\d"'})

    assert (bare.status, quoted.status) == (201, 201)
    assert bare.body != quoted.body


KEYS = ["a", "~!", "a\\", "x" * 255, '"a"', '"a b"', r'"\""', r'"\\"', '"' + r"\"" * 255 + '"', f'"{"x" * 255}"']
INVALID_KEYS = ["", '""', '"', "a b", "é", "x" * 256, '"a', 'a"b', r'"\a"', r'"\"', f'"{"x" * 256}"', '"é"']


@pytest.mark.parametrize(("keys", "status"), [(KEYS, 201), (INVALID_KEYS, 400)], ids=["keys", "no keys"])
async def test_documented_pattern_matches_accepted_keys(client: Client, keys: list[str], status: int) -> None:
    pattern = IDEMPOTENCY_KEY.schema["pattern"]
    for key in keys:
        reply = await client.put("/guid", {"user": USER}, headers={"Idempotency-Key": key})
        assert (reply.status, reply.headers.get("Idempotent-Replayed")) in {(status, None), (201, "true")}, key
        assert (re.search(pattern, key) is not None) == (status == 201), key


@pytest.mark.parametrize("key", ["", '""', '"', "a b", "é", "x" * 256, '"a'])
async def test_invalid_key_is_rejected_by_header_name(serving: Serving, key: str) -> None:
    async with serving() as client:
        reply = await client.post("/guid", {"user": USER}, headers={"Idempotency-Key": key})
        assert_problem(reply, 400, "invalid-request")
        assert [error["header"] for error in reply.json["errors"]] == ["Idempotency-Key"]
        assert await count_records(client) == 0


async def test_response_without_body_is_replayed_without_body(client: Client) -> None:
    for _ in range(2):
        reply = await client.post("/guid", {"user": USER}, headers=KEY | {"Prefer": "return=minimal"})
        assert (reply.status, reply.body) == (201, b"")
        assert reply.headers["Preference-Applied"] == "return=minimal"
        assert "Content-Type" not in reply.headers
    assert await count_records(client) == 1


async def test_key_outlives_the_process(serving: Serving, combination: dict[str, str]) -> None:
    async with serving(**combination) as client:
        first = await client.post("/guid", {"user": USER}, headers=KEY)
    async with serving(**combination) as client:
        retry = await client.post("/guid", {"user": USER}, headers=KEY)
        assert (retry.body, retry.headers["Idempotent-Replayed"]) == (first.body, "true")


async def test_repeated_batch_replays_the_first_response(client: Client) -> None:
    operations = [
        {"user": USER},
        {"user": USER},
        {"guid": GUID, "user": USER},
        {"op": "delete", "guid": GUID},
        {"op": "no"},
    ]

    first, retry = [await client.post("/guid:batch", {"operations": operations}, headers=KEY) for _ in range(2)]

    assert [result["status"] for result in first.json["results"]] == [201, 201, 201, 204, 400]
    assert (first.body, retry.headers["Idempotent-Replayed"]) == (retry.body, "true")
    assert await count_records(client) == 2


async def test_line_batch_rejects_idempotency_key(client: Client) -> None:
    headers = KEY | {"Content-Type": "application/x-ndjson"}
    assert_problem(await client.post("/guid:batch", body=b'{"user": "a"}\n', headers=headers), 400, "invalid-request")
    assert await count_records(client) == 0


async def test_two_keys_are_rejected(serving: Serving) -> None:
    request = b"POST /guid HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"
    async with serving() as client:
        reply = await raw(client, request + b'Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n{"user": "a"}')
        assert_problem(reply, 400, "invalid-request")


async def test_replay_applies_the_first_preference(client: Client) -> None:
    body = {"operations": [{"user": USER}]}
    await client.post("/guid:batch", body, headers=KEY)
    retry = await client.post("/guid:batch", body, headers=KEY | {"Prefer": "return=minimal"})

    assert retry.headers["Idempotent-Replayed"] == "true"
    assert "Preference-Applied" not in retry.headers
    assert "record" in retry.json["results"][0]


async def test_interrupted_batch_is_not_repeated_over_other_changes(
    serving: Serving, sqlite_url: str, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("request failed")
    changes = {"operations": [{"guid": GUID, "user": "mine"}]}
    creates = {"operations": [{"user": "mine"}, {"op": "get", "guid": GUID}]}
    async with serving() as client:
        await client.post("/guid:batch", changes, headers=KEY)
        first = await client.post("/guid:batch", creates, headers={"Idempotency-Key": "creates"})
        await client.put(f"/guid/{GUID}", {"user": "another's"})
        with closing(sqlite3.connect(path_of_url(sqlite_url))) as file:
            # as after a crash before the responses were stored
            file.execute("UPDATE receipts SET answer = NULL, leased_until = ?", (clock() + 1,))
            file.commit()
        assert_problem(await client.post("/guid:batch", changes, headers=KEY), 409, "in-progress")
        clock.advance(seconds=1)
        assert_problem(await client.post("/guid:batch", changes, headers=KEY), 504, "outcome-unknown")
        retry = await client.post("/guid:batch", creates, headers={"Idempotency-Key": "creates"})
        assert retry.json["results"][0] == first.json["results"][0]
        assert (await client.get(f"/guid/{GUID}")).json["user"] == "another's"
        assert await count_records(client) == 2


@pytest.mark.parametrize("precondition", [{"If-Match": "*"}, {"If-None-Match": "*"}], ids=str)
async def test_preconditions_are_part_of_the_request(client: Client, precondition: dict[str, str]) -> None:
    key = {"Idempotency-Key": "the-same"}
    assert (await client.post("/guid", {"user": USER}, headers=key)).status == 201

    assert_problem(await client.post("/guid", {"user": USER}, headers=key | precondition), 422, "idempotency-mismatch")
