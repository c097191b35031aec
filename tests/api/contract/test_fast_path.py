"""The fast path responds like the handlers, byte for byte."""

import asyncio
import re
from contextlib import AsyncExitStack
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.domain.commands.list_parameters import Position, render_cursor
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.diagnostics import DiagnosticHeaders
from guidsvc.monitoring.health import DOWN, READ_ONLY, UP
from guidsvc.services.guid_service import GuidService
from tests.conftest import FakeClock
from tests.support.api_context import request_pipeline
from tests.support.example_count import example_count
from tests.support.fast_path import Request, ServiceClient, service

GUIDS = [f"{number:032X}" for number in (1, 0xABC)]
NOTHING, NO_PAGES = DiagnosticHeaders(), Cors()
ODD = [GUIDS[1].lower(), GUIDS[0] + "?view=full", GUIDS[0] + "?x=1", "%41" + "A" * 31, "A" * 31]
FIXED = ["/version", "/livez", "/readyz", "/", "/version?x=1", "/livez/"]
CURSOR = render_cursor(Position(GUIDS[0]))
LISTS = [
    "/guid",
    "/guid?",
    *(
        f"/guid?{query}"
        for query in (
            "limit=1",
            "limit=0",
            "limit=1&view=full&user=a",
            "limit=1&limit=2",
            "sort=expire&limit=1&x",
            f"cursor={CURSOR}",
            f"cursor={CURSOR}&sort=expire",
            f"cursor={render_cursor(Position(GUIDS[0], 7))}&sort=expire",
            "cursor=x",
            "state=all&view=full",
            "state=expired&expires_before=%2B1h",
            "user=Z%C3%BCrich+x&limit=1",
            "user=%ff",
            "u\u0073er=a&owner=b",
            "expires_after=-1d&limit=1",
            "&".join(["user=a"] * 40),
        )
    ),
]

_LAST = '"LAST"'  # stands for the tag of the previous response
_TAGS = ["*", '"1"', 'W/"1"', f'"1", {_LAST}', _LAST, f"W/{_LAST}", "1", ""]
_HEADERS = st.lists(
    st.one_of(
        st.sampled_from(_TAGS).map("If-Match: {}".format),
        st.sampled_from(_TAGS).map("If-None-Match: {}".format),
        st.sampled_from(["return=minimal", "return=representation, return=minimal", "x"]).map("Prefer: {}".format),
        st.sampled_from(["application/json", "text/plain", "application/json; charset=utf-8"]).map(
            "Content-Type: {}".format
        ),
        st.sampled_from(["mine", "not sane", "é", "x" * 200]).map("X-Request-Id: {}".format),
        st.sampled_from(["keep-alive", "Keep-Alive", "x"]).map("Connection: {}".format),
        st.sampled_from(["*/*", "text/html", "Text/*, */*;q=0.8", "text/plain", "text/html;q=0"]).map(
            "Accept: {}".format
        ),
        st.sampled_from(["user-agent: x", "Content-Encoding: gzip", "Cookie: a=b", "HOST: b"]),
        st.sampled_from(["10.0.0.1", "10.0.0.1, 127.0.0.1", "x, 10.0.0.1", "x"]).map("X-Forwarded-For: {}".format),
        st.sampled_from(["https", "http, HTTPS", "https, http", "x", ""]).map("X-Forwarded-Proto: {}".format),
    ),
    max_size=2,
).map(tuple)
_BODIES = st.sampled_from(
    [
        None,
        b"",
        b"{}",
        b'{"user": "Z\xc3\xbcrich"}',
        b'{"user": "a", "expire": 1795420610}',
        b'{"expire": 0}',
        b'{"user": "a", "metadata": {"a": {"b": 1}}}',
        b'{"metadata": {"a": null, "c": ":"}}',
        b'{"metadata": null}',
        b'{"user": "a", "user": "b"}',
        b'{"user": "a:b", "expire": "x", "colour": 1}',
        b"[1]",
        b'{"user": "\xff"}',
        b'{"user": "%b"}' % (b"x" * 65_523),
        b'{"user": "%b"}' % (b"x" * 65_526),
    ]
)
_DELAYS, _TARGETS = st.sampled_from([0, 0, 0, 2, 8 * 86_400]), st.sampled_from([*GUIDS * 8, *ODD, *FIXED])
_DEMANDS = st.sampled_from(
    [f"{guid}?valid_for={seconds}" for guid in GUIDS for seconds in ("1", "4", "05", "0", "x", "9")]
)
_RENEWALS = st.sampled_from(
    [f"{GUIDS[0]}/renewal"] * 6 + [f"{GUIDS[1]}/renewal", "A/renewal", f"{GUIDS[0]}/renewal?x=1"]
)
_RENEWAL_BODIES = st.sampled_from(
    [
        *[b'{"ttl": 8, "if_below": 3}'] * 6,
        b'{"ttl": 8, "if_below": "1"}',
        b'{"if_below": 9}',
        b'{"ttl": 5}',
        b'{"revive": true}',
        b'{"ttl": 9, "at_least": 20}',
        b'{"ttl": 0, "if_below": 1.5, "x": 1}',
        b"{}",
        b"",
    ]
)
_COLLECTION = st.sampled_from(["/guid"] * 8 + ["/guid?view=full", "/guid/", "/guid?"])
_KEYS = st.sampled_from(["", "", "a", '"a"', "b", "not a key", "", "a\r\nIdempotency-Key: a"])
_JSON_HEADERS = st.one_of(
    st.just(("Content-Type: application/json",)), _HEADERS.map(lambda some: ("Content-Type: application/json", *some))
)
_CREATION_HEADERS = st.builds(
    lambda some, key: (*some, *([f"Idempotency-Key: {key}"] if key else [])), _JSON_HEADERS, _KEYS
)
_CREATION_BODIES = st.one_of(st.just(b'{"user": "a"}'), _BODIES)
_READS, _WRITES = st.sampled_from(["GET", "GET", "HEAD", "DELETE"]), st.sampled_from(["PUT", "PUT", "PATCH"])
_ALL = st.sampled_from(["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS"])
_REQUESTS = st.lists(
    st.one_of(
        st.builds(Request, _DELAYS, _READS, _TARGETS, _HEADERS, st.none()),
        st.builds(Request, _DELAYS, _WRITES, _TARGETS, _HEADERS, _BODIES),
        st.builds(Request, _DELAYS, _ALL, _TARGETS, _HEADERS, _BODIES),
        st.builds(Request, _DELAYS, _READS, _DEMANDS, st.just(()), st.none()),
        st.builds(Request, _DELAYS, _READS, _DEMANDS, _HEADERS, st.none()),
        st.builds(Request, _DELAYS, st.just("POST"), _RENEWALS, _JSON_HEADERS, _RENEWAL_BODIES),
        st.builds(Request, _DELAYS, _ALL, _RENEWALS, _JSON_HEADERS, _RENEWAL_BODIES),
        st.builds(Request, _DELAYS, st.just("POST"), _RENEWALS, _HEADERS, _RENEWAL_BODIES),
        st.builds(Request, _DELAYS, st.just("POST"), _COLLECTION, _CREATION_HEADERS, _CREATION_BODIES),
        st.builds(Request, _DELAYS, _ALL, _COLLECTION, _CREATION_HEADERS, _CREATION_BODIES),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("origin", "cors", "public_url", "max_age", "count"),
    [
        (NOTHING, NO_PAGES, "", 0, 200),
        (DiagnosticHeaders(cache_status=True), NO_PAGES, "", 0, 30),
        (DiagnosticHeaders(cache_status=True, server_timing=True), NO_PAGES, "", 0, 30),
        (NOTHING, Cors(["https://a.example"]), "", 0, 30),
        (NOTHING, NO_PAGES, "https://registry.example", 0, 30),
        (NOTHING, NO_PAGES, "", 4, 30),
        (NOTHING, Cors(["https://a.example"]), "", 4, 30),
    ],
)
def test_fast_path_and_handler_answer_alike(
    tmp_path: Path, origin: DiagnosticHeaders, cors: Cors, public_url: str, max_age: int, count: int
) -> None:
    clock = FakeClock()
    with asyncio.Runner() as runner:
        stack = runner.run(_enter(AsyncExitStack()))
        members: dict[str, Any] = {"diagnostics": origin, "cors": cors, "public_url": public_url, "max_age": max_age}
        configured = partial(service, tmp_path, clock, **members)
        services = [configured(has_fast_path=has_fast_path) for has_fast_path in (True, False)]
        clients = [runner.run(stack.enter_async_context(opened)) for opened in services]

        @settings(
            max_examples=example_count(count, times_in_fuzz=2),
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        @given(_REQUESTS)
        def compare_responses(requests: list[Request]) -> None:
            runner.run(_compare(clients, clock, requests))

        try:
            compare_responses()
        finally:
            runner.run(stack.aclose())


async def _enter(stack: AsyncExitStack) -> AsyncExitStack:
    return stack


async def _compare(clients: list[ServiceClient], clock: FakeClock, requests: list[Request]) -> None:
    created = Request(0, "PUT", GUIDS[0], (), b'{"user": "a", "metadata": {"a": 1}}')
    setup = [*(Request(0, "DELETE", guid, (), None) for guid in GUIDS), created]
    last = '"0"'
    for request in [*setup, *requests]:
        clock.advance(seconds=request.wait)
        headers = tuple(header.replace(_LAST, last) for header in request.headers)
        fast, handled = [await client.ask(request._replace(headers=headers)) for client in clients]
        assert fast == handled, request
        assert clients[0].metrics.requests.counts() == clients[1].metrics.requests.counts(), request
        tag = re.search(rb'\r\nEtag: ("[0-9]+")', fast[0])
        last = last if tag is None else tag[1].decode()


@pytest.mark.parametrize("state", [UP, READ_ONLY, DOWN])
async def test_fast_path_and_handler_answer_fixed_paths_alike(tmp_path: Path, clock: FakeClock, state: str) -> None:
    headers = ["X-Request-Id: mine", "Accept: text/html", "Accept: */*", "X-Forwarded-Proto: https", "Expect: x"]
    async with (
        service(tmp_path, clock, has_fast_path=True, state=state, cors=Cors(["https://a.example"])) as has_fast_path,
        service(tmp_path, clock, has_fast_path=False, state=state, cors=Cors(["https://a.example"])) as long,
    ):
        for path, method, header in product(FIXED, ["GET", "HEAD", "OPTIONS", "POST"], [*headers, "Origin: x"]):
            request = Request(0, method, path, (header,), None)
            assert await has_fast_path.ask(request) == await long.ask(request), request
        assert has_fast_path.metrics.requests.counts() == long.metrics.requests.counts()


_STREAMED = ["Accept: application/x-ndjson", "Accept: application/json;q=0.5, */*"]
_LIST_HEADERS = [
    *_STREAMED,
    *("Prefer: return=total-count", "Accept: application/json", "Accept: */*"),
    *("Accept: text/html", "Origin: x", "X-Forwarded-Proto: https", "A: b"),
]


@pytest.mark.parametrize("origins", [[], ["https://a.example"]])
async def test_fast_path_and_handler_answer_lists_alike(tmp_path: Path, clock: FakeClock, origins: list[str]) -> None:
    members: dict[str, Any] = {
        "cors": Cors(origins),
        "diagnostics": DiagnosticHeaders(cache_status=True, server_timing=True),
    }
    async with (
        service(tmp_path, clock, has_fast_path=True, **members) as has_fast_path,
        service(tmp_path, clock, has_fast_path=False, **members) as long,
    ):
        bodies = [b'{"user": "a", "metadata": {"\xc3\xa4": 1}}', b'{"user": "Z\xc3\xbcrich x"}']
        for guid, body in zip(GUIDS, bodies, strict=True):
            put = Request(0, "PUT", guid, (), body)
            assert await has_fast_path.ask(put) == await long.ask(put)
        for path, method, header in product(LISTS, ["GET", "HEAD"], _LIST_HEADERS):
            if header in _STREAMED and method == "GET":
                continue  # a stream has no length
            request = Request(0, method, path, ("X-Request-Id: mine", header), None)
            assert await has_fast_path.ask(request) == await long.ask(request), request
        assert has_fast_path.metrics.requests.counts() == long.metrics.requests.counts()


_ONCE = [
    *('a"', "a\r\nIdempotency-Key: a", "x" * 256, "\xe9", ""),  # no keys
    *(
        "a",
        '"a"',
        '"b c"',
        "a\r\nIf-None-Match: *",
        "a\r\nIf-Match: *",
        "a\r\nPrefer: return=minimal",
        "d\r\nIf-Match: *",
    ),
]


@pytest.mark.parametrize("origins", [[], ["https://a.example"]])
async def test_fast_path_and_handler_answer_creations_alike(
    tmp_path: Path, clock: FakeClock, origins: list[str]
) -> None:
    """Each creation is sent twice: the second time, its response is replayed, or differs from that of another key."""
    bodies = [b'{"user": "a"}', b'{"user": "b", "metadata": {"\xc3\xa4": 1}}', b"{}"]
    replays = 0
    async with (
        service(tmp_path, clock, has_fast_path=True, cors=Cors(origins)) as has_fast_path,
        service(tmp_path, clock, has_fast_path=False, cors=Cors(origins)) as long,
    ):
        for key, method, body in product([None, *_ONCE], ["POST", "PUT", "PATCH"], bodies):
            headers = ["Content-Type: application/json", *([] if key is None else [f"Idempotency-Key: {key}"])]
            request = Request(0, method, "/guid", tuple(headers), body)
            for _ in range(2):
                fast, handled = await has_fast_path.ask(request), await long.ask(request)
                assert fast == handled, request
                replays += b"\r\nIdempotent-Replayed: true" in fast[0]
        assert has_fast_path.metrics.requests.counts() == long.metrics.requests.counts()
    assert replays >= 4


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("guid", [*GUIDS, "/version", "/readyz", "/guid"])
@pytest.mark.parametrize("has_access_log", [True, False])
async def test_fast_path_closes_connections_during_shutdown(
    tmp_path: Path, clock: FakeClock, method: str, guid: str, has_access_log: bool
) -> None:
    body = b'{"user": "a"}' if method == "PUT" else None
    async with service(tmp_path, clock, has_fast_path=True, has_access_log=has_access_log) as client:
        await client.ask(Request(0, "PUT", GUIDS[0], (), b'{"user": "a"}'))
        for draining in (False, False, True):  # the second read is served from memory
            client.in_flight.draining = draining
            reply, _ = await client.ask(Request(0, method, guid, (), body))
            assert (b"\r\nConnection: close" in reply) is draining


def test_remembered_request_heads_are_bounded() -> None:
    service_without_records = cast(GuidService, SimpleNamespace(get_nowait=None, decoding_turns=None))
    dispatcher = FastPathDispatcher(request_pipeline(service=service_without_records))
    dispatcher._can_remember = True
    for number in range(2000):
        dispatcher.remember_request(
            b"GET /guid/" + b"A" * 32 + b" HTTP/1.1\r\nX-%d: %b\r\n\r\n" % (number, b"x" * (number % 1100))
        )

    assert 0 < len(dispatcher._request_memo) <= 256
    assert max(map(len, dispatcher._request_memo)) <= 1024
