"""Many operations in one request."""

import asyncio
import json
from typing import Any

import pytest

from guidsvc.api.resources.batch import handler as batch
from guidsvc.server.protocol.read_throttle import DISCARD_BYTES
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.assertions import assert_problem
from tests.support.backing_servers import Server
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply, hang_up, raw, read_reply

pytestmark = pytest.mark.each_backend

BATCH = "/guid:batch"
NDJSON = {"Content-Type": "application/x-ndjson"}
HEAD = b"POST /guid:batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"


def guid(number: int) -> str:
    """Name a GUID by its place in the order of keys."""
    return f"{number:032X}"


async def do(client: Client, *operations: object, query: str = "", **headers: str) -> list[Any]:
    """Send operations as one document, and return their results."""
    reply = await client.post(f"{BATCH}{query}", {"operations": operations}, headers=headers)
    assert reply.status == 200, reply
    assert list(reply.json) == ["results"]
    results: list[Any] = reply.json["results"]
    return results


async def send_lines(client: Client, *lines: object, query: str = "") -> list[Any]:
    """Send operations as lines, and return their results."""
    body = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    reply = await client.post(f"{BATCH}{query}", body=body, headers=NDJSON)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/x-ndjson")
    return reply.lines


async def test_batch_answers_each_operation_in_order(client: Client) -> None:
    results = await do(
        client,
        {"op": "put", "guid": guid(1), "user": USER, "expire": "4000000000", "metadata": {"a": 1}},
        {"op": "get", "guid": guid(1)},
        {"guid": guid(1), "user": "another"},
        {"op": "delete", "guid": guid(1)},
        {"op": "get", "guid": guid(1)},
    )

    created = {"guid": guid(1), "expire": "4000000000", "user": USER, "metadata": {"a": 1}}
    tag = results[0]["etag"]
    assert results[0] == {"status": 201, "guid": guid(1), "etag": tag, "record": created}
    assert results[1] == results[0] | {"status": 200}
    assert results[2] == {
        "status": 200, "guid": guid(1), "etag": results[2]["etag"], "record": created | {"user": "another"}
    }  # fmt: skip
    assert results[3] == {"status": 204, "guid": guid(1)}
    assert (results[4]["status"], results[4]["problem"]["code"]) == (404, "not-found")


async def test_result_has_the_etag_of_its_record(client: Client) -> None:
    (result,) = await do(client, {"guid": GUID, "user": USER})

    assert (await client.get(f"/guid/{GUID}")).headers["ETag"] == result["etag"]
    assert (await do(client, {"op": "get", "guid": GUID, "if_none_match": result["etag"]})) == [
        {"status": 304, "guid": GUID, "etag": result["etag"]}
    ]


async def test_put_without_guid_gets_one(client: Client) -> None:
    first, second = await do(client, {"user": USER}, {"user": USER})

    assert first["guid"] != second["guid"]
    for result in (first, second):
        assert (await client.get(f"/guid/{result['guid']}")).json == result["record"]


async def test_failed_operation_does_not_stop_the_others(client: Client, clock: FakeClock) -> None:
    wrong: list[object] = [
        {"op": "fetch", "guid": GUID},
        {"op": "get"},
        {"op": "get", "guid": GUID, "user": USER},
        {"guid": GUID.lower(), "user": USER},
        {"guid": GUID, "user": "", "expire": "x"},
        {"guid": GUID, "user": USER, "if_match": "1"},
        {"guid": GUID, "user": USER, "colour": "red"},
        {"guid": GUID},
        None,
        [],
    ]
    *failed, last = await do(client, *wrong, {"guid": GUID, "user": USER})

    assert {(result["status"], result["problem"]["code"]) for result in failed} == {(400, "invalid-request")}
    pointers = [[error["pointer"] for error in result["problem"]["errors"]] for result in failed]
    assert pointers == [
        ["/op"], [""], [""], ["/guid"], ["/expire", "/user"], ["/if_match"], ["/colour"], ["/user"], [""], [""]
    ]  # fmt: skip
    assert last["status"] == 201


async def test_expired_record_is_reported_and_can_be_deleted(client: Client) -> None:
    results = await do(
        client, {"guid": GUID, "user": USER, "expire": 0}, {"op": "get", "guid": GUID}, {"op": "delete", "guid": GUID}
    )

    assert [result["status"] for result in results] == [201, 410, 204]
    assert results[1]["problem"]["expired_at"] == "0"


async def test_preconditions_apply_to_each_operation(client: Client) -> None:
    first, second, third = await do(
        client,
        {"guid": GUID, "user": "a", "if_none_match": "*"},
        {"guid": GUID, "user": "b", "if_none_match": "*"},
        {"op": "delete", "guid": GUID, "if_match": '"1"'},
    )

    for failed in (second, third):
        assert (failed["status"], failed["etag"], failed["problem"]["record"]) == (412, first["etag"], first["record"])
    changed, deleted = await do(
        client,
        {"guid": GUID, "user": "c", "if_match": f'"0", {first["etag"]}'},
        {"op": "delete", "guid": GUID, "if_match": "*"},
    )
    assert (changed["status"], deleted["status"]) == (200, 204)


async def test_preconditions_can_be_required_of_each_operation(serving: Serving) -> None:
    async with serving(require_preconditions=True) as client:
        results = await do(client, {"guid": GUID, "user": "a"}, {"guid": GUID, "user": "b"})
        assert [result["status"] for result in results] == [201, 428]


async def test_dry_run_predicts_results_and_changes_nothing(client: Client) -> None:
    created = await client.put(f"/guid/{guid(1)}", {"user": USER})
    operations = [
        {"guid": guid(1), "user": "another", "if_match": created.headers["ETag"]},
        {"op": "get", "guid": guid(1)},
        {"op": "delete", "guid": guid(1)},
        {"op": "get", "guid": guid(1)},
        {"guid": guid(2), "user": USER},
        {"guid": guid(2), "user": USER, "if_none_match": "*"},
        {"guid": guid(3), "user": " "},
        {"user": USER},
    ]
    for send in (do, send_lines):
        results = await send(client, *operations, query="?validate_only=true")
        assert [result["status"] for result in results] == [200, 200, 204, 404, 201, 412, 400, 201]
        assert results[1]["record"]["user"] == "another"
    assert (await client.get("/guid?state=all")).json["items"] == [created.json]
    assert (await client.get(f"/guid/{guid(1)}")).headers["ETag"] == created.headers["ETag"]
    assert [result["status"] for result in await do(client, *operations, query="?validate_only=false")][:2] == [
        200,
        200,
    ]


async def test_batch_view_is_full_or_without_records(client: Client) -> None:
    (full,) = await do(client, {"guid": GUID, "user": USER}, query="?view=full")
    assert full["record"]["state"] == "live"
    assert full["record"]["version"] == full["etag"].strip('"')

    reply = await client.post(
        BATCH, {"operations": [{"guid": GUID, "user": "b"}]}, headers={"Prefer": "return=minimal"}
    )
    assert reply.headers["Preference-Applied"] == "return=minimal"
    assert list(reply.json["results"][0]) == ["status", "guid", "etag"]


async def test_empty_document_has_no_results(client: Client) -> None:
    assert await do(client) == []


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ([], "/operations"),
        ({}, "/operations"),
        ({"operations": {}}, "/operations"),
        ({"operations": [], "more": 1}, "/more"),
        ({"operations": [{"op": "get", "guid": GUID}] * 1001}, "/operations"),
    ],
    ids=range(5),
)
async def test_invalid_document_is_rejected_as_a_whole(serving: Serving, document: object, pointer: str) -> None:
    async with serving() as client:
        reply = await client.post(BATCH, document)
        assert_problem(reply, 400, "invalid-request")
        assert [error["pointer"] for error in reply.json["errors"]] == [pointer]


@pytest.mark.parametrize("combination", ["sqlite+memory"], indirect=True)
async def test_document_of_a_thousand_operations_is_executed(client: Client) -> None:
    results = await do(client, *({"guid": guid(number), "user": USER} for number in range(1000)))

    assert [(result["status"], result["guid"]) for result in results] == [(201, guid(number)) for number in range(1000)]


async def test_document_has_size_limit_and_media_type(serving: Serving) -> None:
    async with serving() as client:
        body = b'{"operations": [' + b" " * batch.MAX_BYTES + b"]}"
        headers = {"Content-Type": "application/json"}
        assert_problem(await client.post(BATCH, body=body, headers=headers), 413, "too-large")
        reply = await client.post(BATCH, body=b"{}", headers={"Content-Type": "text/plain"})
        assert_problem(reply, 415, "unsupported-media-type")
        assert reply.headers["Accept"] == "application/json, application/x-ndjson"
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            assert_problem(await client.ask(method, BATCH), 405, "method-not-allowed")


# As lines


async def test_each_line_gets_one_result_line(client: Client) -> None:
    results = await send_lines(
        client, {"guid": guid(1), "user": USER}, {"op": "get", "guid": guid(1)}, {"op": "delete", "guid": guid(1)}
    )

    assert [result["status"] for result in results] == [201, 200, 204]


async def test_bad_line_is_reported_by_number_and_others_are_executed(client: Client) -> None:
    long = b'{"user": "' + b"x" * 70_000 + b'"}'
    results = await send_lines(
        client, {"user": USER}, b"", b"{bad", b"  \r", long, b'{"user": "\xff"}', b"[]", b'{"op":"put"}', {"user": USER}
    )

    assert [result["status"] for result in results] == [201, 400, 413, 400, 400, 400, 201]
    assert [result["problem"]["line"] for result in results[1:-1]] == [3, 5, 6, 7, 8]


async def test_last_line_needs_no_line_end_and_crlf_is_accepted(client: Client) -> None:
    body = b'{"user": "a"}\r\n{"user": "b"}\r\n{"user": "c"}'
    reply = await client.post(BATCH, body=body, headers=NDJSON)

    assert [result["record"]["user"] for result in reply.lines] == ["a", "b", "c"]


async def test_empty_line_batch_has_no_results(client: Client) -> None:
    for body in (b"", b"\n\n"):
        reply = await client.post(BATCH, body=body, headers=NDJSON)
        assert (reply.status, reply.body) == (200, b"")


async def test_line_can_arrive_in_any_number_of_parts(serving: Serving) -> None:
    body = b'{"user": "Z\xc3\xbcrich"}\r\n\r\n{"op": "get", "guid": "0"}\n{"user": "b"}'
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head)
        for byte in body:
            writer.write(b"1\r\n%b\r\n" % bytes([byte]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        reply = await asyncio.wait_for(read_reply(reader, "POST"), 30)
        await hang_up(writer)
    assert [result["status"] for result in reply.lines] == [201, 400, 201]
    assert reply.lines[0]["record"]["user"] == "Zürich"
    assert reply.lines[1]["problem"]["line"] == 3


async def test_streamed_list_can_be_put_back_unchanged(client: Client, clock: FakeClock) -> None:
    await send_lines(
        client,
        *(
            {
                "guid": guid(number),
                "user": f"Zürich {number}",
                "expire": str(clock.seconds + number),
                "metadata": {"n": number},
            }
            for number in range(40)
        ),
    )
    everything = await client.get("/guid?state=all", headers={"Accept": "application/x-ndjson"})
    await send_lines(client, *({"op": "delete", "guid": guid(number)} for number in range(40)))
    assert (await client.get("/guid?state=all")).json["items"] == []

    reply = await client.post(BATCH, body=everything.body, headers=NDJSON)

    assert [result["status"] for result in reply.lines] == [201] * 40
    assert (await client.get("/guid?state=all", headers={"Accept": "application/x-ndjson"})).body == everything.body


async def test_client_can_send_all_lines_before_reading(serving: Serving) -> None:
    lines = 3000
    line = json.dumps({"user": USER, "metadata": {"much": "x" * 2000}}).encode() + b"\n"
    head = HEAD + b"Content-Length: %d\r\n\r\n" % (len(line) * lines)
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1024)
        writer.write(head)
        for _ in range(lines):
            writer.write(line)
            await writer.drain()
        reply: Reply = await asyncio.wait_for(read_reply(reader, "POST"), 30)
        await hang_up(writer)
    assert [result["status"] for result in reply.lines] == [201] * lines


async def test_invalid_request_is_reported_after_all_lines_unexecuted(serving: Serving) -> None:
    async with serving() as client:
        body = b'{"user": "a"}\n' * 2000
        assert_problem(
            await client.post(f"{BATCH}?validate_only=perhaps", body=body, headers=NDJSON), 400, "invalid-request"
        )
        reply = await client.post(BATCH, body=body, headers=NDJSON | {"Content-Encoding": "gzip"})
        assert_problem(reply, 415, "unsupported-media-type")
        assert (await client.get("/guid")).json["items"] == []


async def test_client_that_disconnects_mid_batch_leaves_no_trace(serving: Serving) -> None:
    head = (
        b"POST /guid:batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 999999\r\n\r\n"
    )
    async with serving() as client:
        await client.get("/livez")
        before = asyncio.all_tasks()
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head + b'{"user": "a"}\n' * 600)
        while len((await client.get("/guid?limit=500")).json["items"]) < 500:
            await asyncio.sleep(0)
        begun = asyncio.all_tasks() - before
        writer.transport.abort()
        await asyncio.wait(begun, timeout=30)
        assert all(task.done() for task in begun)


@pytest.mark.slow
async def test_silent_store_is_reported_for_each_operation(
    serving: Serving, own_mongo: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("operation failed", "store unavailable")
    async with serving(store_url=f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc") as client:
        own_mongo.kill()
        results = await do(client, {"op": "get", "guid": GUID}, {"op": "delete", "guid": GUID}, {"op": "nothing"})
        assert [result["status"] for result in results] == [503, 503, 400]


async def test_body_with_many_members_is_rejected_briefly(serving: Serving) -> None:
    many = {f"member {number}": number for number in range(20_000)}
    async with serving() as client:
        (result,) = await do(client, many)
        assert [error["pointer"] for error in result["problem"]["errors"]] == [""]
        reply = await client.post(BATCH, {"operations": []} | many)
        assert_problem(reply, 400, "invalid-request")
        assert len(reply.body) < 10_000
        (result,) = await do(client, {"x" * 100_000: 1})
        assert len(json.dumps(result)) < 1_000


async def test_known_fault_is_reported_before_a_waiting_client_sends(serving: Serving) -> None:
    head = b"POST /guid:batch?x=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    async with serving() as client:
        reply = await raw(client, head + b"Expect: 100-continue\r\nContent-Length: 9000000000\r\n\r\n")
        assert_problem(reply, 400, "invalid-request")


@pytest.mark.parametrize("query", ["", "?x=1"])
async def test_unaccepted_body_is_not_buffered(serving: Serving, query: str) -> None:
    method = "PUT" if not query else "POST"
    head = f"{method} /guid:batch{query} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n".encode()
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
    async with serving() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(DISCARD_BYTES // (1 << 20) + 1):
            writer.write(chunk)
        reply = await asyncio.wait_for(read_reply(reader, method), 30)
        await hang_up(writer)
        assert_problem(reply, 413, "too-large")


async def test_blank_lines_do_not_block_other_requests(serving: Serving) -> None:
    async with serving() as client:
        flood = asyncio.create_task(client.post(BATCH, body=b"\n" * (32 << 20), headers=NDJSON))
        served = 0
        while not flood.done():
            assert (await client.get("/livez")).status == 200
            served += 1
        assert (await flood).status == 200
        assert served > 20, served


@pytest.mark.parametrize("op", [[], {}, None, 1, "merge"])
async def test_unknown_operation_type_fails_alone(client: Client, op: object) -> None:
    results = await do(client, {"op": op, "user": USER}, {"user": USER})

    assert [result["status"] for result in results] == [400, 201]
