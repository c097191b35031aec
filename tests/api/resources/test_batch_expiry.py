"""Records that expire between their `get` in a batch and its response: none is served as valid."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from guidsvc.api.resources.batch import line_batch
from guidsvc.api.resources.batch.executor import GROUP, BatchExecutor
from guidsvc.api.resources.batch.line_batch import WHOLE_PROBLEMS, LineBatch
from guidsvc.api.resources.batch.served_record import ServedRecord, replace_served
from guidsvc.runtime.background import running_in_background
from guidsvc.services.receipts.lease import LeasedReceipt
from tests.conftest import FakeClock, Serving
from tests.support.http_client import Client, Reply, chunk, hang_up, read_reply

pytestmark = pytest.mark.both_servers

BATCH = "/guid:batch"
SOON, LATER = "A" * 32, "B" * 32
MANY = 10 * GROUP


async def store(client: Client, clock: FakeClock) -> tuple[str, int]:
    """Store two records; return the ETag and the expiry of the one that expires soon."""
    expire = clock.seconds + 100
    soon = await client.put(f"/guid/{SOON}", {"user": "soon", "expire": expire, "metadata": {"x": "x" * 2_000}})
    await client.put(f"/guid/{LATER}", {"user": "later", "expire": expire + 1_000})
    return soon.headers["ETag"], expire


async def executed(client: Client) -> None:
    """Wait until the marker that follows the reads is stored."""
    async with asyncio.timeout(60):
        while not (await client.get("/guid?user=marker")).json["items"]:
            await asyncio.sleep(0.01)


async def answer_after_expiry(
    client: Client, clock: FakeClock, operations: list[dict[str, Any]], headers: str = ""
) -> Reply:
    """Send lines, and the end of the body once they are executed and the record has expired."""
    lines = [*operations, *[{"user": "marker"}] * (GROUP - len(operations) % GROUP)]
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1 << 26)
    writer.write(
        f"POST {BATCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n{headers}"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
        + chunk(b"\n".join(json.dumps(line).encode() for line in lines) + b"\n")
    )
    await executed(client)
    clock.advance(seconds=100)
    writer.write(b"0\r\n\r\n")
    try:
        return await asyncio.wait_for(read_reply(reader, "POST"), 60)
    finally:
        await hang_up(writer)


@pytest.mark.parametrize(
    ("members", "headers"),
    [({}, ""), ({}, "Prefer: return=minimal\r\n"), ({"if_none_match": "*"}, "")],
    ids=["record", "minimal", "not modified"],
)
async def test_expired_record_is_replaced_in_the_results_of_lines(
    serving: Serving, clock: FakeClock, members: dict[str, str], headers: str
) -> None:
    """By the result of a read at that time; others stay in their places."""
    async with serving() as client:
        _, expire = await store(client, clock)
        get_soon, get_later = ({"op": "get", "guid": guid} | members for guid in (SOON, LATER))
        put = {"guid": SOON, "metadata": {}}
        reply = await answer_after_expiry(client, clock, [get_soon, get_later, put, get_soon], headers)
        results = reply.lines
        is_read = 304 if members else 200
        assert [result["status"] for result in results] == [410, is_read, 200, 410] + [201] * (GROUP - 4)
        single = (await client.get(f"/guid/{SOON}")).json
        for index in (0, 3):
            problem = results[index]["problem"]
            assert (problem["code"], problem["expired_at"], problem["line"]) == ("expired", str(expire), index + 1)
            assert problem["detail"] == single["detail"]
        assert results[1]["guid"] == LATER
        assert b"\x1f" not in reply.body


async def test_demand_is_judged_again_when_lines_are_sent(serving: Serving, clock: FakeClock) -> None:
    """A read with `valid_for` reflects its own time: the remaining life is at least what it demands."""
    async with serving() as client:
        _, expire = await store(client, clock)
        demands = [(LATER, 1_000), (LATER, 1_001), (SOON, 50), (LATER, 1_100)]
        reads = [{"op": "get", "guid": guid, "valid_for": seconds} for guid, seconds in demands]
        results = (await answer_after_expiry(client, clock, [*reads, {"op": "get", "guid": LATER}])).lines
        assert [result["status"] for result in results[:5]] == [200, 409, 410, 409, 200]
        single = (await client.get(f"/guid/{LATER}?valid_for=1001")).json
        problem = results[1]["problem"]
        assert (problem["line"], problem["left"], problem["expire"]) == (2, "1000", str(expire + 1_000))
        assert {name: problem[name] for name in ("code", "detail", "valid_for")}.items() <= single.items()


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1 << 10], ids=["in memory", "in a file"])
async def test_expired_records_are_replaced_in_many_results(
    serving: Serving, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    """More than are read from the spool at a time; the first hundred problems are complete."""
    monkeypatch.setattr(line_batch, "MEMORY_BYTES", memory_bytes)
    async with serving() as client:
        await store(client, clock)
        operations = [{"op": "get", "guid": (SOON, LATER)[number % 2]} for number in range(MANY)]
        results = (await answer_after_expiry(client, clock, operations)).lines
        assert [result["status"] for result in results] == [410, 200] * (MANY // 2) + [201] * GROUP
        expired = results[0:MANY:2]
        assert [result.get("problem", result)["line"] for result in expired] == list(range(1, MANY, 2))
        assert sum("problem" in result for result in expired) == WHOLE_PROBLEMS
        assert [result["record"]["user"] for result in results[1:MANY:2]] == ["later"] * (MANY // 2)


async def test_records_that_are_still_live_are_sent_as_they_were_read(serving: Serving, clock: FakeClock) -> None:
    async with serving() as client:
        await store(client, clock)
        operations = [{"op": "get", "guid": LATER}] * MANY
        reply = await answer_after_expiry(client, clock, operations)
        record = (await client.get(f"/guid/{LATER}")).json
        assert [result["record"] for result in reply.lines[:MANY]] == [record] * MANY
        assert b"\x1f" not in reply.body


@pytest.mark.parametrize("headers", [{}, {"Prefer": "return=minimal"}], ids=str)
async def test_expired_record_is_replaced_in_the_results_of_a_document(
    serving: Serving, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """It expires while later operations run; a replay repeats the stored response."""
    perform, groups = BatchExecutor.perform, 0

    async def slow(executor: BatchExecutor, *group: Any) -> Any:
        nonlocal groups
        groups += 1
        if groups == 2:
            clock.advance(seconds=100)
        return await perform(executor, *group)

    monkeypatch.setattr(BatchExecutor, "perform", slow)
    async with serving() as client:
        await store(client, clock)
        reads: list[dict[str, Any]] = [{"op": "get", "guid": guid} for guid in (SOON, LATER)]
        reads += [reads[1] | {"valid_for": seconds} for seconds in (1_000, 1_001)]
        document = {"operations": [*reads, *[{"user": "marker"}] * GROUP]}
        options = {"headers": headers | {"Idempotency-Key": "k"}}
        first = await client.post(BATCH, document, **options)
        results = first.json["results"]
        assert [result["status"] for result in results] == [410, 200, 200, 409] + [201] * GROUP
        assert results[0]["problem"]["code"] == "expired"
        assert (results[3]["problem"]["code"], results[3]["problem"]["left"]) == ("expires-too-soon", "1000")
        clock.advance(seconds=2_000)
        assert (await client.post(BATCH, document, **options)).body == first.body


@pytest.mark.parametrize("headers", [{}, {"Prefer": "return=minimal"}], ids=str)
async def test_record_expired_while_receipt_is_stored_is_replaced(
    serving: Serving, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """In the first response. Its replays repeat the stored response."""
    complete = LeasedReceipt.complete

    async def slow(*arguments: Any, **options: Any) -> int | None:
        size = await complete(*arguments, **options)
        clock.advance(seconds=100)
        return size

    monkeypatch.setattr(LeasedReceipt, "complete", slow)
    async with serving() as client:
        await store(client, clock)
        reads = [{"op": "get", "guid": guid} for guid in (SOON, LATER)]
        document = {"operations": [*reads, {"user": "marker"}]}
        options = {"headers": headers | {"Idempotency-Key": "k"}}
        first, replay = [(await client.post(BATCH, document, **options)).json["results"] for _ in range(2)]
        assert [result["status"] for result in first] == [410, 200, 201]
        assert first[0]["problem"]["code"] == "expired"
        assert [result["status"] for result in replay] == [200, 200, 201]
        assert replay[1:] == first[1:]


def test_metadata_that_looks_like_results_costs_no_more() -> None:
    """It was searched once for each result that it looks like, each time to the end of the line."""
    head = b'{"status":200,"guid":"%b"' % SOON.encode()
    metadata = [head + b"}" for _ in range(1_000)], [b"-" * len(head + b"}") for _ in range(1_000)]
    lines = [head + b',"metadata":[%b]}\n' % b",".join(each) for each in metadata]
    expired = ServedRecord(SOON, 1, 2, 0)
    marked = head + b"}" + expired.mark(7) + b"\n"
    seconds = []
    for text in lines:
        start = time.process_time()
        assert replace_served(text * 3 + marked + text, lambda *_: b"replaced") == text * 3 + b"replaced\n" + text
        seconds.append(time.process_time() - start)

    assert seconds[0] < 20 * seconds[1] + 0.01, "in linear time"


async def test_others_run_between_the_parts_of_results(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the client reads."""
    turns: list[int] = []
    count = 0

    async def take_turns() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    async def results(_: LineBatch) -> AsyncGenerator[bytes]:
        for _each in range(5):
            turns.append(count)
            yield b"{}\n"

    monkeypatch.setattr(LineBatch, "results", results)
    async with serving() as client, running_in_background(take_turns):
        await client.ask("POST", BATCH, headers={"Content-Type": "application/x-ndjson"}, body=b'{"user":"a"}\n')

    assert len(turns) == len(set(turns)) == 5
