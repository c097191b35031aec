"""The headers of a request that are kept, and limits of its head."""

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from httptools import HttpRequestParser
from tornado.httputil import HTTPHeaders

import guidsvc
from guidsvc.api.contract import headers as documented
from guidsvc.api.contract.headers import Header
from guidsvc.api.fast_path import eligibility
from guidsvc.http.headers.recognized import MAX_HEADERS, READ
from guidsvc.server.protocol import request as request_module
from guidsvc.server.protocol.parser import RequestParser
from guidsvc.server.protocol.request import RawHeaders, RawRequest, RejectedRequest
from tests.conftest import Serving
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, hang_up

pytestmark = pytest.mark.both_servers

PACKAGE = Path(guidsvc.__file__).parent
FILES = [path for folder in ("api", "http", "server") for path in (PACKAGE / folder).rglob("*.py")]
MAPPINGS = {"headers", "given", "kept", "_kept"}
"""Names of variables in the package that hold request headers."""


class RecordingCallbacks:
    """Parser callbacks that record request heads and errors."""

    def __init__(self) -> None:
        self.heads: list[RawHeaders] = []
        self.errors: list[Exception] = []

    def on_request_head(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser
    ) -> RawRequest | None:
        self.heads.append(headers)
        return None

    def has_room(self) -> bool:
        return True

    def resume_parsing_soon(self) -> None: ...

    def on_body(self, message: RawRequest) -> None: ...

    on_message_complete = on_body

    def on_protocol_error(self, rejected: RejectedRequest, broken: RawRequest | None) -> None:
        self.errors.append(rejected.error)


async def status(client: Client, **headers: str) -> int:
    return (await client.get("/livez", headers=headers)).status


async def status_of(client: Client, request: bytes) -> int:
    """Send raw bytes on a new connection; return the status of the response, which may have no body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(request)
    line = await asyncio.wait_for(reader.readline(), 30)
    await hang_up(writer)
    return int(line.split()[1])


@pytest.mark.parametrize(("setting", "limit"), [({}, 16 * 1024), ({"max_head_bytes": 64 * 1024}, 64 * 1024)])
async def test_request_head_is_limited_by_the_setting(
    serving: Serving, server: str, setting: dict[str, int], limit: int
) -> None:
    async with serving(**setting) as client:
        for name in ("X-Long", "X-Request-Id", "Prefer"):
            assert await status(client, **{name: "x" * (limit - 200)}) == 200
            if server == "httptools":  # Tornado's closes the connection without a response
                assert await status(client, **{name: "x" * limit}) == 431
        if server == "httptools":
            assert (await client.get(f"/guid/{GUID}?{'x' * limit}")).status == 431
            reply = await client.get("/livez", headers={"X-Long": "x" * limit})
            assert (reply.json["code"], reply.headers["Connection"]) == ("headers-too-large", "close")


@pytest.mark.parametrize("name", ["x", "prefer", "ab"])
async def test_request_has_at_most_100_headers(serving: Serving, server: str, name: str) -> None:
    """Known to the service or not. The client itself adds two."""
    async with serving() as client:
        for count, expected in ((MAX_HEADERS - 2, 200), (MAX_HEADERS, 431 if server == "httptools" else 400)):
            lines = b"".join(b"%b: y\r\n" % name.encode() for _ in range(count))
            request = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n" + lines + b"\r\n"
            assert await status_of(client, request) == expected


def test_incomplete_head_is_rejected_at_the_101st_header() -> None:
    """The headers received so far are dropped at once."""
    callbacks = RecordingCallbacks()
    parser = RequestParser(callbacks, 64 * 1024)
    parser.feed(b"GET /livez HTTP/1.1\r\n" + b"Prefer: y\r\n" * 5000)
    assert [type(error).__name__ for error in callbacks.errors] == ["HeadersTooLarge"]
    assert parser.is_finished
    assert parser.buffered_bytes == 0


def test_unused_headers_are_dropped() -> None:
    known = [(name.title(), b"1") for name in sorted(READ - {b"transfer-encoding", b"host"})]
    unknown = [(b"User-Agent", b"x"), (b"COOKIE", b"a=b"), (b"X-Custom", b"y"), (b"Accept-Language", b"en")]
    request = RawRequest(b"GET", b"/", "HTTP/1.1", [*unknown[:2], (b"HOST", b"a"), *known, *unknown[2:]], last=False)
    assert request.headers == [(b"HOST", b"a"), *known]
    assert len(request.fields()) == len(known) + 1


# The table matches the code


def names_read(tree: ast.AST) -> Iterator[str]:
    """Yield the names of request headers that a module looks up, by literals or by constants of `headers`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr="get" | "get_list"), args=[name, *_]) if (
                _is_header_mapping(value)
            ):
                yield from _name(name)
            case ast.Subscript(value=value, slice=name, ctx=ast.Load()) if _is_header_mapping(value):
                yield from _name(name)
            case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[value]) if _is_header_mapping(value):
                yield from _name(name)


def _is_header_mapping(node: ast.expr) -> bool:
    """Whether an expression is a variable with request headers."""
    match node:
        case ast.Attribute(value=ast.Name(id="response")):
            return False
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in MAPPINGS
    return False


def _name(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(name)):
            yield name.lower()
        case ast.Attribute(value=ast.Name(id=constant), attr="name"):
            header = getattr(documented, constant)
            assert isinstance(header, Header)
            yield header.name.lower()


def test_table_lists_exactly_the_headers_that_the_code_reads() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FILES]
    read_names = {name for tree in trees for name in names_read(tree)}
    fast_path = {
        name.decode()
        for name in {*eligibility._HONOURED, *eligibility.DISQUALIFYING_HEADERS, b"host", b"origin", b"sec-fetch-site"}
    }
    framing = {name.decode() for name in request_module._READING}
    assert read_names | fast_path | framing == {name.decode() for name in READ}
    assert {"prefer", "if-match", "accept", "origin", "idempotency-key", "x-forwarded-for"} <= read_names


def test_header_lookups_use_literals_or_constants() -> None:
    """A header is looked up by a literal or by a constant, so that the test above sees it."""
    for path in FILES:
        for call in re.findall(
            r"request\.headers(?:\.get\(|\.get_list\(|\[)([^)\],]+)", path.read_text(encoding="utf-8")
        ):
            assert re.fullmatch(r'"[A-Za-z-]+"|[A-Z_]+\.name', call), f"{path.name}: {call}"


@pytest.mark.parametrize("server", ["httptools"])
async def test_handlers_read_only_headers_in_the_table(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tornado's own code reads headers too, so every lookup is recorded."""
    lookups: set[str] = set()

    class RecordingHeaders(HTTPHeaders):
        def __getitem__(self, name: str) -> str:
            lookups.add(name.lower())
            return super().__getitem__(name)

        def __contains__(self, name: object) -> bool:
            lookups.add(str(name).lower())
            return super().__contains__(name)

        def get_list(self, name: str) -> list[str]:
            lookups.add(name.lower())
            return super().get_list(name)

    fields = RawRequest.fields
    monkeypatch.setattr(RawRequest, "fields", lambda self: RecordingHeaders(fields(self)))
    async with serving(cors_origins="https://a.example", trusted_proxies="127.0.0.1") as client:
        for path in (
            "/guid",
            f"/guid/{GUID}",
            "/guid:batch",
            "/keys",
            "/docs",
            "/docs/page.css",
            "/metrics",
            "/",
            "/x",
        ):
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
                document = {"user": USER} if method in {"POST", "PUT", "PATCH"} else None
                await client.ask(method, f"{path}", json=document, headers={"Origin": "https://a.example"})
        await client.get("/guid", headers={"Accept": "application/x-ndjson"})
        await client.ask("POST", "/guid:batch", body=b"{}\n", headers={"Content-Type": "application/x-ndjson"})
    assert lookups
    assert lookups <= {name.decode() for name in READ}
