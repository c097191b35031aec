"""CORS: pages of allowed origins may read every refusal, also one before the request is complete."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from guidsvc.http.headers.recognized import MAX_HEADERS
from tests.conftest import ExpectedLogs, FakeClock, Serving
from tests.support.backing_servers import Server
from tests.support.http_client import Client, Reply, hang_up, raw, read_reply
from tests.support.provocations import BODY, OF_FAILING_STORE, PATH, PROVOCATIONS, World
from tests.support.time_limit import within

ORIGIN, OTHER = "https://a.example", "https://evil.example"
ALLOWED = f"{ORIGIN},https://b.example"
LINE = f"Origin: {ORIGIN}\r\n".encode()
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n" + LINE
POST = b"POST /guid HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + LINE
REFUSED_EARLY = {"headers-too-large", "http-version-not-supported"}
"""Problems of requests that the server refuses before a handler has them, and of no others."""
EARLY_REFUSALS = {
    "65 query parameters": (400, GET.replace(b"/livez", b"/livez?" + b"&".join([b"a"] * 65)) + b"\r\n"),
    "a malformed header": (400, GET + b"A: b\r\nX : y\r\n\r\n"),
    "two Hosts": (400, GET + b"Host: b\r\n\r\n"),
    "a Host that is none": (400, GET.replace(b"Host: a", b"Host: a b") + b"\r\n"),
    "an Origin after the fault": (400, GET.replace(LINE, b"Host: b\r\n" + LINE) + b"\r\n"),
    "a malformed chunk": (400, POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
    "chunks that are too small": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;a=" + b"x" * 20_000),
    "a Content-Length beyond all limits": (413, POST + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    "a long header": (431, GET + b"X: " + b"x" * 20_000 + b"\r\n\r\n"),
    "a long target": (431, GET.replace(b"/livez", b"/livez?" + b"x" * 15_500) + b"X: " + b"x" * 2000 + b"\r\n\r\n"),
    "too many headers": (431, GET + b"X: y\r\n" * MAX_HEADERS + b"\r\n"),
    "an unknown transfer coding": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "another version of HTTP": (505, GET.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n"),
}
"""Such requests, and the status of each."""
BODY_PART = b"Content-Length: 60000\r\n\r\n" + b"x" * 59_000
BUDGET = 1024 * 1024


def unreadable(replies: Mapping[str, Reply]) -> list[str]:
    """Return the names of the responses that a page of ORIGIN may not read, or that a cache may show to others."""
    return [
        name
        for name, reply in replies.items()
        if reply.headers.get("Access-Control-Allow-Origin") != ORIGIN
        or "Retry-After" not in reply.headers["Access-Control-Expose-Headers"]
        or reply.headers["Vary"] != "Origin"
    ]


@asynccontextmanager
async def serving_page(serving: Serving, **settings: Any) -> AsyncIterator[Client]:
    """Run a service inside the block; the client sends the Origin of an allowed page with every request."""
    async with serving(cors_origins=ALLOWED, **settings) as client:
        client.headers["Origin"] = ORIGIN
        yield client


@pytest.mark.slow
async def test_page_may_read_every_problem(
    serving: Serving, clock: FakeClock, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("fault of the service", "request failed")
    replies = {}
    for code in PROVOCATIONS.keys() - REFUSED_EARLY:
        store_url = f"sqlite:///{tmp_path / code}"
        serve = partial(serving_page, serving, store_url=store_url)
        replies[code] = await PROVOCATIONS[code](World(serve, clock, store_url))
        assert replies[code].json["code"] == code
    assert unreadable(replies) == []


@pytest.mark.slow
async def test_page_may_read_problems_of_a_failing_store(
    serving: Serving, own_mongo: Server, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("request failed", "store unavailable")
    async with serving_page(serving, store_url=f"mongodb://127.0.0.1:{own_mongo.port}/guidsvc") as client:
        await client.put(PATH, BODY)
        await client.get(PATH)  # the cache knows the record: the read before the write needs no store
        own_mongo.pause()
        replies = [await client.put(PATH, {"user": "another"}), await client.get(f"/guid/{'0' * 32}")]
    assert {reply.json["code"] for reply in replies} == OF_FAILING_STORE
    assert unreadable({reply.json["code"]: reply for reply in replies}) == []


async def test_page_may_read_refusals_before_a_handler(serving: Serving) -> None:
    """Alone, and behind a request that is answered first."""
    async with serving(cors_origins=ALLOWED) as client:
        replies = {name: await raw(client, request) for name, (_, request) in EARLY_REFUSALS.items()}
        behind_another = {name: await second_reply(client, request) for name, (_, request) in EARLY_REFUSALS.items()}

    expected = {name: status for name, (status, _) in EARLY_REFUSALS.items()}
    for each in (replies, behind_another):
        assert {name: reply.status for name, reply in each.items()} == expected
        assert unreadable(each) == []
    assert {reply.json["code"] for reply in replies.values()} >= REFUSED_EARLY


@pytest.mark.parametrize("server", ["tornado"])
async def test_page_may_read_refusals_of_tornado(serving: Serving) -> None:
    """Each 400 after its Origin was read; Tornado closes the connection without a response in the other cases."""
    names = (
        "65 query parameters",
        "two Hosts",
        "an Origin after the fault",
        "a malformed chunk",
        "an unknown transfer coding",
    )
    async with serving(cors_origins=ALLOWED) as client:
        for name in names:
            request = EARLY_REFUSALS[name][1]
            assert await head_of_refusal(client, request) == {"origin": ORIGIN, "vary": "Origin"}, name
            for other in (f"Origin: {OTHER}\r\n".encode(), b""):
                assert await head_of_refusal(client, request.replace(LINE, other)) == {"origin": None, "vary": "Origin"}
    async with serving() as client:
        assert await head_of_refusal(client, EARLY_REFUSALS["two Hosts"][1]) == {"origin": None, "vary": None}


@pytest.mark.both_servers
async def test_preflight_of_a_refused_query_succeeds(serving: Serving) -> None:
    """Else the page would not send the request, and not see why it is refused."""
    headers = b"Access-Control-Request-Method: PUT\r\n\r\n"
    async with serving(cors_origins=ALLOWED) as client:
        for query in (b"&".join([b"a"] * 65), b"unknown=1", b"%ff"):
            reply = await raw(
                client, b"OPTIONS /guid/%b?%b HTTP/1.1\r\nHost: a\r\n" % (b"A" * 32, query) + LINE + headers
            )
            assert (reply.status, reply.headers.get("Access-Control-Allow-Origin")) == (204, ORIGIN)
            assert "PUT" in reply.headers["Access-Control-Allow-Methods"]


async def test_page_may_read_refusal_for_the_incoming_budget(serving: Serving) -> None:
    async with serving(cors_origins=ALLOWED, max_incoming_bytes=BUDGET) as client, AsyncExitStack() as stack:
        connections = [await asyncio.open_connection("127.0.0.1", client.port) for _ in range(3 * BUDGET // 60_000)]
        for _, writer in connections:
            stack.push_async_callback(hang_up, writer)
            writer.write(POST + BODY_PART[:-59_000])
        assert (await client.get("/livez")).status == 200  # the heads have been read meanwhile
        for _, writer in connections:
            writer.write(BODY_PART[-59_000:])
        reply = await asyncio.wait_for(read_reply(connections[-1][0], "POST"), 30)
    assert (reply.status, unreadable({"over the budget": reply})) == (503, [])


async def test_page_may_read_that_the_service_is_not_ready(serving: Serving) -> None:
    """In a shutdown, on a connection that was opened before."""
    async with AsyncExitStack() as service:
        client = await service.enter_async_context(serving(cors_origins=ALLOWED, grace=20))
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        shutdown = asyncio.create_task(service.aclose())
        while (reply := await ask_if_ready(reader, writer)).status == 200:
            pass
        await hang_up(writer)
        await shutdown
    assert (reply.status, unreadable({"not ready": reply})) == (503, [])


async def test_other_origins_may_read_no_refusal(serving: Serving) -> None:
    async with serving(cors_origins=ALLOWED) as client:
        for name, (status, request) in EARLY_REFUSALS.items():
            for other in (f"Origin: {OTHER}\r\n".encode(), b""):
                reply = await raw(client, request.replace(LINE, other))
                assert (reply.status, reply.headers.get("Access-Control-Allow-Origin")) == (status, None), name
                assert reply.headers["Vary"] == "Origin"
        reply = await raw(client, EARLY_REFUSALS["65 query parameters"][1].replace(LINE, LINE * 2))
        assert (reply.status, reply.headers.get("Access-Control-Allow-Origin")) == (400, None)
    async with serving() as client:
        reply = await raw(client, EARLY_REFUSALS["two Hosts"][1])
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert "Vary" not in reply.headers


async def second_reply(client: Client, request: bytes) -> Reply:
    """Send two requests at once; return the response to the second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /guid HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + request)
    async with within(30, "two responses"):
        first, second = await read_reply(reader, "POST"), await read_reply(reader, "GET")
    assert first.status == 415
    await hang_up(writer)
    return second


async def head_of_refusal(client: Client, request: bytes) -> dict[str, str | None]:
    """Send a request that is refused with a 400 of Tornado; return who may read it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(request)
    async with within(30, "a response"):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    await hang_up(writer)
    start, _, fields = head.partition("\r\n")
    assert start == "HTTP/1.1 400 Bad Request"
    headers = HTTPHeaders.parse(fields)
    return {"origin": headers.get("Access-Control-Allow-Origin"), "vary": headers.get("Vary")}


async def ask_if_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Reply:
    writer.write(GET.replace(b"/livez", b"/readyz") + b"\r\n")
    async with within(30, "a response"):
        return await read_reply(reader, "GET")
