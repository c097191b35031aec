"""Security headers are part of every response, whichever part of the service renders it."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from guidsvc.api.fast_path.load_shedding import LoadShedder
from tests.conftest import ExpectedLogs, Serving
from tests.support.api_context import request_pipeline
from tests.support.certificates import Certificate
from tests.support.factories import GUID, USER
from tests.support.http_client import Client, Reply, hang_up, read_reply

pytestmark = pytest.mark.both_servers

AT, UNKNOWN, STRICT = f"/guid/{GUID}", f"/guid/{'F' * 32}", "Strict-Transport-Security"
LASTING = ("/openapi.json", "/docs", "/docs/page.css", "/problems", "/problems/expired")


class Request(NamedTuple):
    """A request, and the expected status."""

    status: int
    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None


REQUESTS = [
    Request(200, "PUT", AT, body=b'{"user": "x"}'),
    *[Request(200, "GET", AT)] * 3,  # from the cache, and remembered
    Request(200, "GET", AT, {"X-Request-Id": "mine"}),
    Request(200, "HEAD", AT),
    Request(200, "GET", f"{AT}?view=full"),
    Request(304, "GET", AT, {"If-None-Match": "*"}),
    Request(412, "PUT", AT, {"If-None-Match": "*"}, b"{}"),
    Request(204, "PUT", AT, {"Prefer": "return=minimal"}, b'{"user": "y"}'),
    Request(204, "OPTIONS", AT),
    Request(405, "POST", AT),
    *[Request(404, "GET", UNKNOWN)] * 2,
    Request(404, "GET", "/nothing"),
    Request(400, "GET", "/guid/x"),
    Request(415, "PUT", AT, {"Content-Type": "text/plain"}, b"{}"),
    Request(200, "GET", "/guid"),
    Request(200, "GET", "/guid", {"Accept": "application/x-ndjson"}),
    Request(201, "POST", "/guid", {"Content-Type": "application/json"}, b'{"user": "x"}'),
    Request(200, "POST", "/guid:batch", {"Content-Type": "application/x-ndjson"}, b'{"user": "x"}\n'),
    *[Request(200, "GET", path) for path in ("/", "/livez", "/readyz", "/version", "/metrics", *LASTING)],
    *[Request(304, "GET", path, {"If-None-Match": "*"}) for path in LASTING],
    Request(204, "DELETE", AT),
]


async def replies(client: Client, headers: Mapping[str, str] | None = None) -> list[tuple[Request, Reply]]:
    """Send all requests, with these additional headers; return the responses."""
    await client.put(AT, {"user": USER})
    pairs = []
    for request in REQUESTS:
        all_headers = dict(request.headers) | dict(headers or {})
        reply = await client.ask(request.method, request.path, headers=all_headers, body=request.body)
        assert reply.status == request.status, request
        pairs.append((request, reply))
    return pairs


async def test_replies_forbid_sniffing_and_hide_the_version(serving: Serving) -> None:
    async with serving() as client:
        for request, reply in await replies(client):
            assert reply.headers.get_list("X-Content-Type-Options") == ["nosniff"], request
            assert reply.headers.get_list("X-Frame-Options") == ["DENY"], request
            assert reply.headers.get_list("Cross-Origin-Resource-Policy") == ["same-origin"], request
            assert reply.headers.get_list("Server") == ["guidsvc"], request
            assert STRICT not in reply.headers, request


async def test_only_public_replies_are_publicly_cacheable(serving: Serving) -> None:
    async with serving() as client:
        for request, reply in await replies(client):
            cache_control = reply.headers["Cache-Control"]
            if request.path in LASTING:
                assert cache_control in {"no-cache", "public, max-age=86400"}, request
            else:
                assert cache_control in {"no-store", "private, no-cache"}, request


async def test_every_page_forbids_loading_and_framing(serving: Serving) -> None:
    async with serving() as client:
        pages = [reply for _, reply in await replies(client, {"Accept": "text/html"}) if b"<html" in reply.body]
        get_requests = [request for request in REQUESTS if request.method == "GET" and request.status != 304]
        data_paths = {"/livez", "/readyz", "/version", "/metrics", "/openapi.json", "/docs/page.css", "/keys/self"}
        assert len(pages) == len([request for request in get_requests if request.path not in data_paths])
        for page in pages:
            assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(
                page.headers["Content-Security-Policy"].split("; ")
            )
            assert page.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("proxies", "scheme", "strict"),
    [("127.0.0.1", "https", True), ("127.0.0.1", "http", False), ("10.0.0.1", "https", False), ("", "https", False)],
)
async def test_hsts_is_sent_to_tls_clients_of_a_trusted_proxy(
    serving: Serving, proxies: str, scheme: str, *, strict: bool
) -> None:
    async with serving(trusted_proxies=proxies) as client:
        for request, reply in await replies(client, {"X-Forwarded-Proto": scheme}):
            assert reply.headers.get_list(STRICT) == ["max-age=31536000"] * strict, request


async def test_every_tls_reply_has_hsts(serving: Serving, certificate: Certificate, server: str) -> None:
    async with serving(**certificate.settings) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port, ssl=certificate.trusting())
        for request in [Request(201, "PUT", AT, body=b'{"user": "y"}'), *REQUESTS]:
            headers = {"Host": "a"} | dict(request.headers)
            headers |= {} if request.body is None else {"Content-Length": str(len(request.body))}
            lines = [
                f"{request.method} {request.path} HTTP/1.1",
                *(f"{name}: {value}" for name, value in headers.items()),
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + (request.body or b""))
            reply = await read_reply(reader, request.method)
            assert reply.status == request.status, request
            assert reply.headers.get_list(STRICT) == ["max-age=31536000"], request
        if server == "httptools":  # Tornado's sends only the status 400
            writer.write(b"nonsense\r\n\r\n")
            reply = await read_reply(reader, "GET")
            assert (reply.status, reply.headers[STRICT]) == (400, "max-age=31536000")
            assert reply.headers["X-Frame-Options"] == "DENY"
        await hang_up(writer)


@pytest.mark.parametrize("server", ["httptools"])
async def test_tls_connection_over_the_limit_gets_hsts_too(
    serving: Serving, certificate: Certificate, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("too many connections")
    async with serving(max_connections=1, **certificate.settings) as client:
        context = certificate.trusting()
        _, first = await asyncio.open_connection("127.0.0.1", client.port, ssl=context)
        reader, second = await asyncio.open_connection("127.0.0.1", client.port, ssl=context)
        reply = await read_reply(reader, "GET")
        assert (reply.status, reply.headers[STRICT]) == (503, "max-age=31536000")
        for writer in (first, second):
            await hang_up(writer)


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("request_id", [None, "mine"])
async def test_rejection_at_capacity_has_the_security_headers(
    request_id: str | None, expected_logs: ExpectedLogs, *, secure: bool
) -> None:
    expected_logs.add("overload")
    load_shedder, headers = LoadShedder(request_pipeline()), {} if request_id is None else {"X-Request-Id": request_id}
    for _ in range(2):
        head = load_shedder.reject("GET", AT, headers, "127.0.0.1", secure=secure).partition(b"\r\n\r\n")[0]
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in head
        assert b"\r\nX-Frame-Options: DENY\r\n" in head
        assert b"\r\nCross-Origin-Resource-Policy: same-origin\r\n" in head
        assert (b"\r\nStrict-Transport-Security: max-age=31536000\r\n" in head) is secure
