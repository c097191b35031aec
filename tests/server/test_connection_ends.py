"""The ends of connections: a response says that its connection closes, or the connection serves the next request.

A proxy gives a connection that it believes open to the next request, whose client gets 502 if it closes.
"""

import asyncio
from http.client import CONTINUE
from typing import NamedTuple

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.certificates import Certificate
from tests.support.factories import GUID
from tests.support.http_client import Client, Reply, chunk, hang_up, read_reply
from tests.support.secured_service import SecuredService

pytestmark = pytest.mark.both_servers

SECONDS = 60
"""Time limit of each exchange with the server."""
PROBE = b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Request-Id: probe\r\n\r\n"
PATH = f"/guid/{GUID}"
JSON = "Content-Type: application/json\r\n"
LINES = "Content-Type: application/x-ndjson\r\n"
EXPECT = "Expect: 100-continue\r\n"
BODY = b'{"user": "a"}'
LARGE = b" " * 300_000
NO_OPERATIONS = b"1\n" * 1_500
"""Lines that end a batch."""


class Case(NamedTuple):
    """A request: its request line without the version, its header lines, and its body."""

    start: str
    headers: str = ""
    body: bytes = b""
    is_chunked: bool = False
    version: str = "1.1"

    @property
    def method(self) -> str:
        return self.start.split()[0]

    def head(self) -> bytes:
        """Return the head, with the length of the body."""
        lines = f"{self.start} HTTP/{self.version}\r\nHost: a\r\n{self.headers}"
        if self.is_chunked:
            lines += "Transfer-Encoding: chunked\r\n"
        elif self.body:
            lines += f"Content-Length: {len(self.body)}\r\n"
        return f"{lines}\r\n".encode()

    def encoded_body(self) -> bytes:
        """Return the bytes after the head."""
        return chunk(self.body) + b"0\r\n\r\n" if self.is_chunked else self.body

    def promises_open(self, reply: Reply) -> bool:
        """Whether the client may send another request after this response."""
        options = reply.headers.get("Connection", "").lower()
        return options == "keep-alive" if self.version == "1.0" else options != "close"


KEEP_ALIVE = "Connection: keep-alive\r\n"
CASES = {
    "get": Case(f"GET {PATH}"),
    "get-body": Case(f"GET {PATH}", "", b"{}"),
    "get-large-body": Case(f"GET {PATH}", "", LARGE),
    "head": Case(f"HEAD {PATH}"),
    "head-body": Case(f"HEAD {PATH}", "", b"{}"),
    "list": Case("GET /guid"),
    "put": Case(f"PUT {PATH}", JSON, BODY),
    "put-no-body": Case(f"PUT {PATH}", JSON),
    "put-chunks": Case(f"PUT {PATH}", JSON, BODY, is_chunked=True),
    "put-large": Case(f"PUT {PATH}", JSON, LARGE),
    "put-large-chunks": Case(f"PUT {PATH}", JSON, LARGE, is_chunked=True),
    "put-expect": Case(f"PUT {PATH}", JSON + EXPECT, BODY),
    "put-expect-large": Case(f"PUT {PATH}", JSON + EXPECT, LARGE),
    "put-malformed": Case(f"PUT {PATH}", JSON, b"{"),
    "put-text": Case(f"PUT {PATH}", "Content-Type: text/plain\r\n", BODY),
    "put-view": Case(f"PUT {PATH}?view=full", JSON, BODY),
    "put-close": Case(f"PUT {PATH}", JSON + "Connection: x, close\r\n", BODY),
    "post": Case("POST /guid", JSON, BODY),
    "delete": Case(f"DELETE {PATH}"),
    "delete-body": Case(f"DELETE {PATH}", "", BODY),
    "renewal": Case(f"POST {PATH}/renewal", JSON, b'{"ttl": 60}'),
    "batch": Case("POST /guid:batch", JSON, b'{"operations": []}'),
    "batch-lines": Case("POST /guid:batch", LINES, BODY + b"\n"),
    "batch-lines-chunks": Case("POST /guid:batch", LINES, BODY + b"\n", is_chunked=True),
    "batch-lines-ended": Case("POST /guid:batch", LINES, NO_OPERATIONS),
    "batch-lines-ended-chunks": Case("POST /guid:batch", LINES, NO_OPERATIONS + LARGE, is_chunked=True),
    "batch-lines-query": Case("POST /guid:batch?x=1", LINES, BODY + b"\n"),
    "batch-text": Case("POST /guid:batch", "Content-Type: text/plain\r\n", LARGE),
    "events": Case("GET /events?x=1"),
    "keys": Case("POST /keys", JSON, b"{}"),
    "options": Case(f"OPTIONS {PATH}", "", BODY),
    "unknown-path": Case("POST /nothing", JSON, BODY),
    "unknown-path-large": Case("POST /nothing", JSON, LARGE),
    "unknown-method": Case(f"BREW {PATH}"),
    "unknown-method-body": Case(f"BREW {PATH}", "", BODY),
    "unknown-method-large": Case(f"BREW {PATH}", "", LARGE),
    "not-allowed": Case(f"TRACE {PATH}"),
    "not-allowed-body": Case(f"POST {PATH}", JSON, BODY),
    "not-allowed-chunks": Case("PUT /livez", JSON, BODY, is_chunked=True),
    "query": Case(f"QUERY {PATH}", JSON, BODY),
    "connect": Case("CONNECT a:80"),
    "misdirected": Case("PUT http://c/nothing", JSON, BODY),
    "http-1.2": Case(f"GET {PATH}", version="1.2"),
    "http-1.2-put": Case(f"PUT {PATH}", JSON, BODY, version="1.2"),
    "http-1.0": Case(f"GET {PATH}", version="1.0"),
    "http-1.0-kept": Case(f"GET {PATH}", KEEP_ALIVE, version="1.0"),
    "http-1.0-kept-put": Case(f"PUT {PATH}", KEEP_ALIVE + JSON, BODY, version="1.0"),
    "http-1.0-kept-large": Case(f"PUT {PATH}", KEEP_ALIVE + JSON, LARGE, version="1.0"),
    "http-1.0-kept-no-length": Case(f"PUT {PATH}", KEEP_ALIVE + JSON, version="1.0"),
    "http-1.0-kept-lines": Case("GET /guid", KEEP_ALIVE + "Accept: application/x-ndjson\r\n", version="1.0"),
    "http-1.0-kept-lines-head": Case("HEAD /guid", KEEP_ALIVE + "Accept: application/x-ndjson\r\n", version="1.0"),
}
LATE = {name: CASES[name] for name in ("put-view", "put-expect-large", "batch", "batch-lines", "keys")} | {
    "post-view": Case("POST /guid?view=full", JSON, BODY),
    "put-view-chunks": Case(f"PUT {PATH}?view=full", JSON, BODY, is_chunked=True),
    "put-view-large": Case(f"PUT {PATH}?view=full", JSON, LARGE),
    "put-view-close": Case(f"PUT {PATH}?view=full", JSON + "Connection: close\r\n", BODY),
    "put-view-1.0": Case(f"PUT {PATH}?view=full", KEEP_ALIVE + JSON, BODY, version="1.0"),
    "unknown-method-body": CASES["unknown-method-body"],
    "query": CASES["query"],
}
"""Requests whose response comes before their body."""


async def check_end(client: Client, case: Case, *, is_body_late: bool) -> None:
    """Send a request, its body perhaps after the response, and check the end of its connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port, limit=1 << 22)
    try:
        async with asyncio.timeout(SECONDS):
            writer.write(case.head() if is_body_late else case.head() + case.encoded_body())
            while (reply := await read_reply(reader, case.method)).status == CONTINUE:
                pass
            if case.promises_open(reply):
                if is_body_late and EXPECT not in case.headers:
                    writer.write(case.encoded_body())
                writer.write(PROBE)
                assert (await read_reply(reader, "GET")).headers["X-Request-Id"] == "probe"
            else:
                assert await reader.read() == b"", "a second response"
    finally:
        await hang_up(writer)


async def wrong_ends(client: Client, cases: dict[str, Case], *, is_body_late: bool = False) -> dict[str, str]:
    """Return how the ends of connections were wrong, by the name of the case."""
    found: dict[str, str] = {}
    for name, case in cases.items():
        try:
            await check_end(client, case, is_body_late=is_body_late)
        except (AssertionError, ConnectionError, TimeoutError, asyncio.IncompleteReadError) as error:
            found[name] = repr(error)
    return found


def with_key(cases: dict[str, Case], authorization: str) -> dict[str, Case]:
    return {
        name: case._replace(headers=f"{case.headers}Authorization: {authorization}\r\n") for name, case in cases.items()
    }


async def test_connection_of_rejected_caller_ends_as_said(serving: Serving) -> None:
    async with serving(access="keys", login_limit="") as client:
        assert await wrong_ends(client, CASES) == {}


async def test_connection_of_early_response_ends_as_said(serving: Serving) -> None:
    async with serving(access="keys", login_limit="") as client:
        assert await wrong_ends(client, LATE, is_body_late=True) == {}


async def test_connection_of_served_caller_ends_as_said(serving: Serving) -> None:
    async with serving() as client:
        assert await wrong_ends(client, CASES) == {}


async def test_connection_beyond_the_rate_limit_ends_as_said(
    serving: Serving, sqlite_url: str, clock: FakeClock
) -> None:
    async with serving(access="keys", rate_limit="1/hour") as client:
        caller = await SecuredService(client, sqlite_url, clock).key_client()
        assert (await caller.ask("GET", "/guid")).status == 200
        cases = with_key(CASES, caller.credential.headers["Authorization"])
        assert await wrong_ends(client, cases) == {}


async def test_connection_of_early_response_to_small_body_stays_open(serving: Serving) -> None:
    """Also if the body follows the response: a proxy may send both in parts."""
    async with serving(access="keys", login_limit="") as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        for number in range(3):
            writer.write(CASES["put"].head() + BODY)
            reply = await asyncio.wait_for(read_reply(reader, "PUT"), SECONDS)
            assert (reply.status, reply.headers.get("Connection")) == (401, None), number
        await hang_up(writer)


async def test_nothing_follows_the_last_response(serving: Serving, certificate: Certificate) -> None:
    """With TLS, which has no half-closed connections. Tornado would send its 400 for the rest of the request."""
    tls = certificate.trusting()
    async with serving(access="keys", login_limit="", **certificate.settings) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=tls)
        writer.write(LATE["put-view-chunks"].head())
        async with asyncio.timeout(SECONDS):
            reply = await read_reply(reader, "PUT")
            assert (reply.status, reply.headers["Connection"]) == (401, "close")
            writer.write(b"no chunk\r\n")
            assert await reader.read() == b""
        await hang_up(writer)
