"""Line batches: their end when the client disconnects, and their share of a turn of the event loop."""

import asyncio
import gc
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from guidsvc.api.resources.batch import handler, line_batch
from guidsvc.api.resources.batch.executor import GROUP, BatchExecutor, Result
from guidsvc.api.resources.batch.handler import BatchHandler
from guidsvc.api.resources.batch.line_batch import MAX_UNREADABLE, READ_AT_ONCE, LineBatch
from guidsvc.api.resources.batch.operations import read_line
from guidsvc.errors import DeadlineExceeded, Overloaded
from guidsvc.http.ndjson import Line, NdjsonSplitter
from guidsvc.runtime.admission import Slot
from guidsvc.runtime.fairness.decoding_turns import READERS
from guidsvc.server.protocol import base_connection, read_throttle
from guidsvc.server.protocol.connection import Connection
from guidsvc.server.protocol.read_throttle import DISCARD_BYTES
from tests.conftest import ExpectedLogs, Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up, read_reply, reset
from tests.support.turn_counter import TurnCounter

pytestmark = pytest.mark.both_servers

MIB = 1024 * 1024
BATCH = "/guid:batch"
NDJSON = {"Content-Type": "application/x-ndjson"}
GET = json.dumps({"op": "get", "guid": GUID}).encode() + b"\n"
HEAD = (
    b"POST /guid:batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_results_of_executed_lines_are_sent_under_overload(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 would claim that nothing was changed."""
    is_full, perform, slot = False, BatchExecutor.perform, BatchHandler.slot

    async def perform_and_fill(executor: BatchExecutor, operations: Any, draws: Any = None) -> list[Result]:
        nonlocal is_full
        results = await perform(executor, operations, draws)
        is_full = True
        return results

    def slot_unless_full(handler: BatchHandler, *, patient: bool = False) -> Slot:
        if is_full:
            raise Overloaded("every slot is taken")
        return slot(handler, patient=patient)

    monkeypatch.setattr(BatchExecutor, "perform", perform_and_fill)
    monkeypatch.setattr(BatchHandler, "slot", slot_unless_full)
    async with serving() as client:
        reply = await client.post(BATCH, body=b'{"user":"a"}\n' * 3, headers=NDJSON)
        assert [result["status"] for result in reply.lines] == [201] * 3


async def test_group_that_is_cut_off_while_it_is_read_is_named(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """The client can continue with the first line of the group: none is lost."""
    expected_logs.add("operation failed")
    reads, read = 0, LineBatch._read

    async def read_until_deadline(batch: LineBatch, group: list[Line]) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise DeadlineExceeded("the request took too long")
        return await read(batch, group)

    monkeypatch.setattr(LineBatch, "_read", read_until_deadline)
    async with serving() as client:
        reply = await client.post(BATCH, body=b'{"user":"a"}\n' * (3 * GROUP), headers=NDJSON)
        *results, error = reply.lines
        assert [result["status"] for result in results] == [201] * GROUP
        assert error["problem"]["line"] == GROUP + 1


def all_of(kind: type[Any]) -> list[Any]:
    """Return all objects of a class in this process."""
    return [candidate for candidate in gc.get_objects() if type(candidate) is kind]


@pytest.mark.slow
@pytest.mark.parametrize("server", ["httptools"])
@pytest.mark.parametrize("leave", [hang_up, reset])
async def test_disconnected_client_starts_no_more_received_lines(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, leave: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> None:
    """The client sends until reading is paused, so the end of the connection comes after many lines."""
    gc.collect()  # batches of earlier tests
    go, perform = asyncio.Event(), BatchExecutor.perform
    started = finished = 0

    async def blocked_perform(executor: BatchExecutor, operations: Any, draws: Any = None) -> list[Result]:
        nonlocal started, finished
        started += 1
        try:
            await go.wait()
            return await perform(executor, operations, draws)
        finally:
            finished += 1

    monkeypatch.setattr(BatchExecutor, "perform", blocked_perform)
    async with serving() as client, asyncio.timeout(30):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(HEAD)
        while not any(item._is_reading_paused for item in all_of(Connection)):
            writer.write(chunk(GET * GROUP))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(chunk(GET * GROUP))
        await leave(writer)
        while not all(item.is_abandoned for item in all_of(LineBatch)):
            await asyncio.sleep(0.01)
        go.set()
        while not finished:
            await asyncio.sleep(0.01)
        for _ in range(20):  # time in which another group would start
            assert (await client.get("/livez")).status == 200
    assert started == 1


@pytest.mark.parametrize("server", ["httptools"])
async def test_half_closed_client_gets_its_response(serving: Serving) -> None:
    """Even if the client closes its side while more is received than is read."""
    count = 60 * GROUP
    async with serving() as client, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1 << 26)
        writer.write(HEAD + chunk(GET * count) + b"0\r\n\r\n")
        writer.write_eof()
        reply = await read_reply(reader, "POST")
        assert [result["status"] for result in reply.lines] == [404] * count
        await hang_up(writer)


async def test_few_lines_are_read_per_loop_turn(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, because all other requests wait for the end of a turn."""
    counter = TurnCounter()
    monkeypatch.setattr(line_batch, "read_line", counter.counted(read_line))
    monkeypatch.setattr(handler, "GROUP_WAIT_SECONDS", 300)
    patient = {"queue_timeout": 300, "request_timeout": 300}  # a busy machine must not look like an overload
    async with serving(**patient) as client, counter.following_turns():
        batches = [client.post(BATCH, body=GET * 2 * GROUP, headers=NDJSON) for _ in range(24)]
        replies = await asyncio.gather(*batches)
    assert {reply.status for reply in replies} == {200}
    assert READ_AT_ONCE <= counter.most <= READERS * READ_AT_ONCE


# Lines that are not operations


async def test_batch_ends_after_a_thousand_invalid_lines(client: Client) -> None:
    invalid = [b"x\n", b'{"user": ""}\n', b"[]\n", b'{"op": "get"}\n'] * (MAX_UNREADABLE // 4)
    body = GET * 3 + b"".join(invalid) + b'{"user": "never done"}\n' + b"x\n" * 100_000
    reply = await client.post(BATCH, body=body, headers=NDJSON)
    *results, error = reply.lines
    assert [result["status"] for result in results] == [404] * 3 + [400] * MAX_UNREADABLE
    assert (error["status"], error["problem"]["code"], error["problem"]["line"]) == (400, "invalid-request", 1004)
    assert "another batch" in error["problem"]["errors"][0]["detail"]
    assert (await client.get("/guid?user=never%20done")).json["items"] == []


async def test_thousandth_invalid_line_can_be_the_last_of_a_batch(client: Client) -> None:
    reply = await client.post(BATCH, body=b"x\n" * MAX_UNREADABLE + b"\n\n", headers=NDJSON)
    assert [result.get("line") or result["problem"]["line"] for result in reply.lines] == [
        *range(1, MAX_UNREADABLE + 1)
    ]


async def test_failed_operations_end_no_batch(client: Client) -> None:
    await client.put(f"/guid/{GUID}", {"user": USER})
    conflict = json.dumps({"guid": GUID, "user": USER, "if_none_match": "*"}).encode() + b"\n"
    absent = json.dumps({"op": "get", "guid": "E" * 32}).encode() + b"\n"
    reply = await client.post(BATCH, body=(conflict + absent) * MAX_UNREADABLE, headers=NDJSON)
    assert [result["status"] for result in reply.lines] == [412, 404] * MAX_UNREADABLE


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \t\n"])
def test_blank_line_costs_no_step(blank: bytes) -> None:
    """64 KiB of blank lines are counted without a step of Python for each."""
    lines, steps = NdjsonSplitter(65_536), 0

    def step(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal steps
        steps += 1
        return step

    tracer = sys.gettrace()
    sys.settrace(step)
    try:
        split = list(lines.feed(blank * 20_000 + b"a\n"))
    finally:
        sys.settrace(tracer)
    assert split == [Line(20_001, b"a")]
    assert steps < 200


async def test_early_response_reaches_client_that_sends_all_first(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection has room neither for all results, nor for all that the client sends after the end."""
    for module in (read_throttle, base_connection):  # the rest would take half a minute
        monkeypatch.setattr(module, "DISCARD_BYTES_PER_SECOND", 16 * MIB)
    async with serving(temp_bytes_per_batch=12 * MIB, batch_timeout=240) as client:
        await client.put(f"/guid/{GUID}", {"user": USER, "metadata": {"a": "x" * 15_000}})
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=65_536)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        writer.write(HEAD + chunk(GET * 1_000))
        for _ in range(3 * DISCARD_BYTES // MIB):
            writer.write(chunk(GET * (MIB // len(GET))))
            await asyncio.wait_for(writer.drain(), 240)
        *results, last = (await asyncio.wait_for(read_reply(reader, "POST"), 240)).lines
        await hang_up(writer)
        assert {result["status"] for result in results} == {200, 413}
        assert (last["problem"]["code"], last["problem"]["line"]) == ("too-large", len(results) + 1)
