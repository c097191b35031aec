"""What clients send before they are answered takes up a bounded amount of memory, on our own server."""

import asyncio
import gc
import socket
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from guidsvc.runtime.fairness import loop_turns
from guidsvc.server.protocol.connection import MAX_QUEUED
from guidsvc.server.protocol.parser import REQUESTS, SLICE_BYTES
from guidsvc.server.protocol.request import PART, RawHeaders, RawRequest
from tests.conftest import Serving
from tests.support.factories import GUID
from tests.support.http_client import hang_up, read_reply

MIB = 1024 * 1024
BUNDLE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
SMALL = b"GET / HTTP/1.1\r\nHost:x\r\n\r\n"
BODY = b'{"user": "a", "metadata": {"a": "' + b"x" * 15_000 + b'"}}' + b" " * 44_000
HEAD = b"PUT /guid/%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (GUID.encode(), len(BODY))


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


@asynccontextmanager
async def slow_reader(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection whose system takes little of a response that the test does not read."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


def parsed_requests() -> list[RawRequest]:
    """Return the requests that are in memory, parsed, in this process."""
    return [each for each in gc.get_objects() if type(each) is RawRequest]


@pytest.mark.slow
async def test_requests_behind_an_unread_response_stay_bytes(serving: Serving) -> None:
    """And each is answered, in order, when the client reads."""
    count = 5000
    gc.collect()  # requests of earlier tests
    async with serving() as client, slow_reader(client.port) as (reader, writer):
        writer.write(BUNDLE * 6 + SMALL * count)
        most = 0
        for number in range(6 + count):
            if number % 500 == 0 or number < 10:
                most = max(most, len(parsed_requests()))
            reply = await asyncio.wait_for(read_reply(reader, "GET"), 20)
            assert reply.status == 200
            assert (b'"service"' in reply.body or b'"name"' in reply.body) or number < 6
    assert MAX_QUEUED <= most <= MAX_QUEUED + SLICE_BYTES // len(SMALL) + 2


async def test_requests_that_wait_for_their_turn_count(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones end where a slice of the parser ends: nothing but their turn is left to wait for."""
    monkeypatch.setattr(loop_turns, "TURN_SECONDS", 0.0)
    request = b"HEAD /livez HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
    request %= b"x" * (SLICE_BYTES // REQUESTS - len(request % b""))
    assert REQUESTS * len(request) == SLICE_BYTES
    async with serving(max_incoming_bytes=MIB) as client, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connected(client.port)) for _ in range(40)]
        for _, writer in streams:
            writer.write(request * 800)  # 100 KiB
        async with asyncio.timeout(60):
            are_rejected = [await is_rejected(reader, 800) for reader, _ in streams]
    assert 10 < sum(are_rejected) < 40


async def is_rejected(reader: asyncio.StreamReader, count: int) -> bool:
    """Read the responses to HEADs; return True at the first 503, False after `count` others."""
    received = b""
    while received.count(b"HTTP/1.1 200") < count:
        received += await reader.read(65_536)
        if b"HTTP/1.1 503" in received:
            return True
    return False


LINES = (
    b"POST /guid:batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize("why", ["a broken chunk", "too much received"])
async def test_stream_executed_in_part_is_not_called_unchanged(serving: Serving, why: str) -> None:
    """The connection closes without a response: one that says that nothing was changed would be wrong."""
    lines = b"".join(b'{"guid":"%032X","user":"a"}\n' % number for number in range(400))
    async with serving(max_incoming_bytes=MIB) as client, AsyncExitStack() as stack:
        reader, writer = await stack.enter_async_context(connected(client.port))
        writer.write(LINES + b"%x\r\n%b\r\n" % (len(lines), lines))
        async with asyncio.timeout(30):
            while (await client.get(f"/guid/{0:032X}")).status != 200:
                await asyncio.sleep(0.01)
        if why == "too much received":
            for _ in range(40):
                _, other = await stack.enter_async_context(connected(client.port))
                other.write(HEAD + BODY[:-1])
                await other.drain()
            more = b"".join(b'{"guid":"%032X","user":"%b"}\n' % (number, b"b" * 200) for number in range(1000))
            writer.write(b"%x\r\n%b\r\n" % (len(more), more))
        else:
            writer.write(b"no length\r\n")
        try:
            answer = await asyncio.wait_for(reader.read(), 30)
        except ConnectionError:
            answer = b""
        assert answer == b""
        assert (await client.get(f"/guid/{0:032X}")).status == 200


async def test_received_bytes_of_all_clients_have_a_budget(serving: Serving) -> None:
    """Those that hold the most are refused, small requests are served, and what has gone counts no more."""
    async with serving(max_incoming_bytes=MIB) as client, AsyncExitStack() as stack:
        held = [await stack.enter_async_context(connected(client.port)) for _ in range(60)]
        for _, writer in held:
            writer.write(HEAD + BODY[:-1])
        statuses = [(await asyncio.wait_for(read_reply(held[-1][0], "PUT"), 20)).status]
        assert statuses == [503]
        assert (await client.put(f"/guid/{GUID}", {"user": "b"})).status == 201
        async with connected(client.port) as (reader, writer):  # in two parts, but less than an equal share
            writer.write(b"GET /livez HTTP/1.1\r\n")
            await writer.drain()
            assert (await client.get("/livez")).status == 200
            writer.write(b"Host: a\r\n\r\n")
            assert (await read_reply(reader, "GET")).status == 200
        for _, writer in held:
            await hang_up(writer)
        for _ in range(60):  # so that a share is less than a body
            await stack.enter_async_context(connected(client.port))
        async with connected(client.port) as (reader, writer):
            for _ in range(40):  # more than the budget, if what is answered still counted
                writer.write(HEAD + BODY[:100])
                await writer.drain()
                assert (await client.get("/livez")).status == 200
                writer.write(BODY[100:])
                assert (await asyncio.wait_for(read_reply(reader, "PUT"), 20)).status == 200


@pytest.mark.parametrize("kind", ["head", "body", "chunks"])
async def test_rejection_for_the_budget_is_reported(serving: Serving, kind: str) -> None:
    starts = {
        "head": b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 60_000,
        "body": HEAD + BODY[:-1],
        "chunks": HEAD.split(b"Content-")[0] + b"Transfer-Encoding: chunked\r\n\r\n" + b"ea60\r\n" + b"x" * 59_000,
    }
    async with serving(max_incoming_bytes=MIB, max_head_bytes=MIB) as client, AsyncExitStack() as stack:
        held = [await stack.enter_async_context(connected(client.port)) for _ in range(60)]
        for _, writer in held:
            writer.write(starts[kind])
        reply = await asyncio.wait_for(read_reply(held[-1][0], "PUT"), 20)
        assert (reply.status, reply.json["code"], reply.headers["Retry-After"]) == (503, "unavailable", "1")
        assert reply.headers["Connection"] == "close"


def test_request_head_counts_by_its_size() -> None:
    headers = [(b"host", b"a"), (b"if-match", b"x" * 5_000), (b"x-nobody-reads-this", b"y" * 50_000)]
    message = RawRequest(b"GET", b"/" + b"z" * 10_000, "HTTP/1.1", headers, last=False)
    assert 15_000 < message.memory_bytes < 20_000


def received(headers: RawHeaders) -> RawRequest:
    """Return a request whose headers are objects of their own, as the parser makes them."""
    lines = [(bytes(bytearray(name)), bytes(bytearray(value))) for name, value in headers]
    return RawRequest(bytes(bytearray(b"POST")), bytes(bytearray(b"/guid")), "HTTP/1.1", lines, last=False)


@pytest.mark.parametrize("size", [0, 2, 17])
@pytest.mark.parametrize("name", ["expect", "accept", "host", "content-length", "x-nobody-reads-this"])
def test_parsed_requests_take_no_more_than_is_counted(name: str, size: int) -> None:
    """Short lines too: each is a few objects, whatever its size."""
    headers: RawHeaders = [(b"Host", b"ab"), *[(name.encode(), b"1" * size)] * 98]
    received(headers)  # what is made once
    gc.collect()
    tracemalloc.start()
    try:
        requests = [received(headers) for _ in range(200)]
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    counted_bytes = sum(request.memory_bytes for request in requests)
    assert used_bytes < counted_bytes < 2.5 * used_bytes


LINES_98 = b"Expect: ab\r\n" * 98


async def test_short_lines_of_many_heads_have_a_budget(serving: Serving) -> None:
    """The size of a head says little about its memory: each line is a few objects."""
    gc.collect()  # requests of earlier tests
    head = b"POST /guid HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n" + LINES_98[12:] + b"\r\n"
    async with serving(max_incoming_bytes=MIB) as client, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connected(client.port)) for _ in range(300)]
        for _, writer in streams:
            writer.write(head)
        assert (await asyncio.wait_for(read_reply(streams[-1][0], "POST"), 30)).status == 503
        assert sum(message.memory_bytes for message in parsed_requests()) < 3 * MIB
        assert (await client.put(f"/guid/{GUID}", {"user": "b"})).status == 201


@pytest.mark.slow
async def test_requests_behind_another_stay_bytes_over_the_budget(serving: Serving) -> None:
    """And each is answered, as it does not matter to the client."""
    gc.collect()  # requests of earlier tests
    count = 20
    request = b"GET /docs HTTP/1.1\r\nHost: a\r\n" + b"Accept: text/html\r\n" * 30 + b"\r\n"
    async with serving(max_incoming_bytes=MIB) as client, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(slow_reader(client.port)) for _ in range(count)]
        for _, writer in streams:
            writer.write(BUNDLE + request * 16)
        most = 0
        async with asyncio.timeout(60):
            while most <= MIB // 2:
                most = sum(message.memory_bytes for message in parsed_requests())
                assert (await client.get("/livez")).status == 200
        for _ in range(40):
            assert sum(message.memory_bytes for message in parsed_requests()) < 1.3 * MIB  # all would take 2 MiB
            assert (await client.get("/livez")).status == 200
        async with asyncio.timeout(60):
            for _ in range(1 + 16):
                replies = await asyncio.gather(*(read_reply(reader, "GET") for reader, _ in streams))
                assert [reply.status for reply in replies] == [200] * count


def test_small_body_parts_are_joined() -> None:
    """A part of two bytes of its own would take up 43."""
    message = RawRequest(b"PUT", b"/", "HTTP/1.1", [(b"transfer-encoding", b"chunked")], last=False)
    for number in range(PART):
        message.put(b"%02x" % (number % 256))
    assert message.buffered_bytes == message.total_bytes == 2 * PART
    assert len(message.chunks) <= 3
    taken = deque(message.take() for _ in range(len(message.chunks)))
    assert b"".join(taken) == b"".join(b"%02x" % (number % 256) for number in range(PART))
    assert all(type(part) is bytes and len(part) <= PART for part in taken)
    assert message.buffered_bytes == 0
