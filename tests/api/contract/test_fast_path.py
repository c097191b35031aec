"""The short way answers as the handlers do, byte for byte."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.netutil import bind_sockets

from guidsvc.api.app import make_app
from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.cache import open_cache
from guidsvc.domain import guid_generator
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.diagnostics import DiagnosticHeaders
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring.health import DOWN, READ_ONLY, UP, Health, PartHealth
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.runtime.in_flight import InFlightRequests
from guidsvc.server.server import serving_on
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import Idempotency
from guidsvc.store import open_store
from guidsvc.store.instrumented import InstrumentedDatabase
from guidsvc.store.lease import LeaseClock
from guidsvc.telemetry.metrics import Metrics, RequestMetrics
from tests.conftest import FakeClock
from tests.support.api_context import api_context, request_pipeline
from tests.support.http_client import hang_up

GUIDS = [f"{number:032X}" for number in (1, 0xABC)]
NOTHING, NO_PAGES = DiagnosticHeaders(), Cors()
ODD = [GUIDS[1].lower(), GUIDS[0] + "?view=full", GUIDS[0] + "?x=1", "%41" + "A" * 31, "A" * 31]
FIXED = ["/version", "/livez", "/readyz", "/", "/version?x=1", "/livez/"]
Lines = list[tuple[str, str, int, float, str, str, str | None, Mapping[str, str] | None]]


class Request(NamedTuple):
    """A request, and the seconds that pass before it."""

    wait: int
    method: str
    guid: str
    """The GUID in the path, with any query; or another path, which begins with a slash."""
    headers: tuple[str, ...]
    body: bytes | None

    @property
    def raw(self) -> bytes:
        """What goes over the wire."""
        headers = [*self.headers, *([] if self.body is None else [f"Content-Length: {len(self.body)}"])]
        target = self.guid if self.guid.startswith("/") else f"/guid/{self.guid}"
        lines = [f"{self.method} {target} HTTP/1.1", "Host: a", *headers, "", ""]
        return "\r\n".join(lines).encode("latin-1") + (self.body or b"")


_LAST = '"LAST"'  # the tag that was seen last
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
_WAITS, _PLACES = st.sampled_from([0, 0, 0, 2, 8 * 86_400]), st.sampled_from([*GUIDS * 8, *ODD, *FIXED])
_READS, _WRITES = st.sampled_from(["GET", "GET", "HEAD", "DELETE"]), st.sampled_from(["PUT", "PUT", "PATCH"])
_ALL = st.sampled_from(["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "OPTIONS"])
_REQUESTS = st.lists(
    st.one_of(
        st.builds(Request, _WAITS, _READS, _PLACES, _HEADERS, st.none()),
        st.builds(Request, _WAITS, _WRITES, _PLACES, _HEADERS, _BODIES),
        st.builds(Request, _WAITS, _ALL, _PLACES, _HEADERS, _BODIES),
    ),
    min_size=1,
    max_size=12,
)


class Way:
    """A service, reached over one connection at a time."""

    def __init__(self, port: int, lines: Lines, under_way: InFlightRequests, meters: Metrics) -> None:
        self.under_way = under_way
        self.meters = meters
        self._port = port
        self._lines = lines
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> tuple[bytes, list[tuple[object, ...]]]:
        """Return what a request is answered, but for date, request id and durations; and what the log says of it."""
        self._lines.clear()
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._connection
        writer.write(request.raw)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        body = b"" if request.method == "HEAD" or length is None else await reader.readexactly(int(length[1]))
        if b"\r\nConnection: close" in head:
            await self.aclose()
        name = re.search(rb"\r\nX-Request-Id: (\S+)", head)
        assert name is not None
        own = name[1] == b"mine"
        if head[:12] in {b"HTTP/1.1 404", b"HTTP/1.1 410"}:  # what has expired a handler drops, and asks the store
            head = re.sub(rb"store;dur=[0-9.]+, ", b"", head)
        head = re.sub(rb";dur=[0-9.]+", b";dur=N", re.sub(rb"\r\nDate: [^\r]*", b"", head))
        whole = head + body
        said: list[tuple[object, ...]] = [
            (method, path, status, remote, cache, failure)
            for method, path, status, _, _, remote, cache, failure in self._lines
        ]
        assert all(line[4].encode() == name[1] for line in self._lines)
        return whole if own else whole.replace(name[1], b"ID"), said

    async def aclose(self) -> None:
        """Hang up."""
        if self._connection is not None:
            await hang_up(self._connection[1])
            self._connection = None


@asynccontextmanager
async def service(
    folder: Path,
    clock: FakeClock,
    *,
    short: bool,
    logged: bool = True,
    **members: object,
) -> AsyncIterator[Way]:
    """Serve, inside, with the short way or without. `members` are further members of the context."""
    lines: Lines = []
    meters = Metrics()
    async with (
        open_store(f"sqlite:///{folder / str(short)}", clock=clock, exclusive=True) as store,
        open_cache(
            "memory://",
            InstrumentedDatabase(store, meters.store),
            clock=clock,
            size_bytes=1_000_000,
            meter=meters.cache,
        ) as cache,
    ):
        terms = RetentionPolicy(lifetime=5, retention=7 * 86_400)
        guids = GuidService(
            cache,
            LeaseClock(store.fence),
            clock=clock,
            generator=guid_generator.random_generator(guid_generator.guid_v4),
            policy=terms,
        )
        keys = Idempotency(
            store.receipts,
            LeaseClock(store.fence),
            clock=clock,
            seeded=lambda *_: guid_generator.random_generator(guid_generator.guid_v4),
        )

        def log(*line: object) -> None:
            lines.append(line)  # type: ignore[arg-type]  # a line is what it is given

        context = api_context(
            service=guids,
            idempotency=keys,
            trusted_proxies=TrustedProxies(["127.0.0.1"]),
            access_log=log,
            monitor=ProcessMonitor(meters),
            health=_health(members.pop("state", UP)),
            **members,
        )
        app = make_app(RequestPipeline(context))
        sockets = bind_sockets(0, "127.0.0.1")
        of_fast_path = RequestPipeline(context if logged else replace(context, access_log=None))
        way = FastPathDispatcher(of_fast_path) if short else None
        async with serving_on(sockets, app, ServerHooks(RequestMetrics()), fast_path=way):
            client = Way(sockets[0].getsockname()[1], lines, context.in_flight, meters)
            try:
                yield client
            finally:
                await client.aclose()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("origin", "cors", "public_url", "examples"),
    [
        (NOTHING, NO_PAGES, "", 700),
        (DiagnosticHeaders(cache_status=True), NO_PAGES, "", 200),
        (DiagnosticHeaders(cache_status=True, server_timing=True), NO_PAGES, "", 200),
        (NOTHING, Cors(["https://a.example"]), "", 200),
        (NOTHING, NO_PAGES, "https://registry.example", 200),
    ],
)
def test_fast_path_and_handler_answer_alike(
    tmp_path: Path, origin: DiagnosticHeaders, cors: Cors, public_url: str, examples: int
) -> None:
    clock = FakeClock()
    with asyncio.Runner() as runner:
        stack = runner.run(_enter(AsyncExitStack()))
        configured = partial(service, tmp_path, clock, diagnostics=origin, cors=cors, public_url=public_url)
        both = [configured(short=short) for short in (True, False)]
        ways = [runner.run(stack.enter_async_context(each)) for each in both]

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(_REQUESTS)
        def alike(requests: list[Request]) -> None:
            runner.run(_compare(ways, clock, requests))

        try:
            alike()
        finally:
            runner.run(stack.aclose())


def _health(state: object) -> Health:
    """Return the health of a service whose store is in this state; no time passes since its last probe."""
    health = Health()
    health.store = health.cache = PartHealth(timer=lambda: 0.0)
    health.store.state = str(state)
    return health


async def _enter(stack: AsyncExitStack) -> AsyncExitStack:
    return stack


async def _compare(ways: list[Way], clock: FakeClock, requests: list[Request]) -> None:
    created = Request(0, "PUT", GUIDS[0], (), b'{"user": "a", "metadata": {"a": 1}}')
    begin = [*(Request(0, "DELETE", guid, (), None) for guid in GUIDS), created]
    last = '"0"'
    for request in [*begin, *requests]:
        clock.advance(seconds=request.wait)
        headers = tuple(header.replace(_LAST, last) for header in request.headers)
        short, long = [await way.ask(request._replace(headers=headers)) for way in ways]
        assert short == long, request
        assert ways[0].meters.requests.counts() == ways[1].meters.requests.counts(), request
        found = re.search(rb'\r\nEtag: ("[0-9]+")', short[0])
        last = last if found is None else found[1].decode()


@pytest.mark.parametrize("state", [UP, READ_ONLY, DOWN])
async def test_fast_path_and_handler_answer_fixed_paths_alike(tmp_path: Path, clock: FakeClock, state: str) -> None:
    headers = ["X-Request-Id: mine", "Accept: text/html", "Accept: */*", "X-Forwarded-Proto: https", "Expect: x"]
    async with (
        service(tmp_path, clock, short=True, state=state, cors=Cors(["https://a.example"])) as short,
        service(tmp_path, clock, short=False, state=state, cors=Cors(["https://a.example"])) as long,
    ):
        for path, method, header in product(FIXED, ["GET", "HEAD", "OPTIONS", "POST"], [*headers, "Origin: x"]):
            request = Request(0, method, path, (header,), None)
            assert await short.ask(request) == await long.ask(request), request
        assert short.meters.requests.counts() == long.meters.requests.counts()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("guid", [*GUIDS, "/version", "/readyz"])
@pytest.mark.parametrize("logged", [True, False])
async def test_fast_path_closes_connections_during_shutdown(
    tmp_path: Path, clock: FakeClock, method: str, guid: str, logged: bool
) -> None:
    body = b'{"user": "a"}' if method == "PUT" else None
    async with service(tmp_path, clock, short=True, logged=logged) as way:
        await way.ask(Request(0, "PUT", GUIDS[0], (), b'{"user": "a"}'))
        for draining in (False, False, True):  # the second read is a remembered one
            way.under_way.draining = draining
            reply, _ = await way.ask(Request(0, method, guid, (), body))
            assert (b"\r\nConnection: close" in reply) is draining


def test_remembered_request_heads_are_bounded() -> None:
    service_of_none = cast(GuidService, SimpleNamespace(get_nowait=None))
    way = FastPathDispatcher(request_pipeline(service=service_of_none))
    way._can_remember = True
    for number in range(2000):
        way.remember_request(
            b"GET /guid/" + b"A" * 32 + b" HTTP/1.1\r\nX-%d: %b\r\n\r\n" % (number, b"x" * (number % 1100))
        )

    assert 0 < len(way._request_memo) <= 256
    assert max(map(len, way._request_memo)) <= 1024
