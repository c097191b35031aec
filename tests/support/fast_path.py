"""A service with or without its fast path, and its responses and access log, to compare both."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tornado.netutil import bind_sockets

from guidsvc.api.app import make_app
from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.api.execution.server_hooks import ServerHooks
from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.cache import open_cache
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring.health import UP, Health, PartHealth
from guidsvc.monitoring.logs.access_log import AccessLog
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
from tests.support.api_context import api_context
from tests.support.http_client import hang_up

Lines = list[tuple[str, str, int, float, str, str, str | None, Mapping[str, str] | None]]


class Request(NamedTuple):
    """A request, and the seconds by which the clock advances before it."""

    wait: int
    method: str
    guid: str
    """The GUID in the path, with any query; or another path, which begins with a slash."""
    headers: tuple[str, ...]
    body: bytes | None

    @property
    def raw(self) -> bytes:
        """The bytes on the wire."""
        headers = [*self.headers, *([] if self.body is None else [f"Content-Length: {len(self.body)}"])]
        target = self.guid if self.guid.startswith("/") else f"/guid/{self.guid}"
        lines = [f"{self.method} {target} HTTP/1.1", "Host: a", *headers, "", ""]
        return "\r\n".join(lines).encode("latin-1") + (self.body or b"")


class ServiceClient:
    """A client of one service, with one connection at a time."""

    def __init__(self, port: int, lines: Lines, in_flight: InFlightRequests, metrics: Metrics) -> None:
        self.in_flight = in_flight
        self.metrics = metrics
        self.port = port
        self._lines = lines
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> tuple[bytes, list[tuple[object, ...]]]:
        """Return the response without date, request id and durations, and the access log lines of the request."""
        self._lines.clear()
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._connection
        writer.write(request.raw)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        body = b"" if request.method == "HEAD" or length is None else await reader.readexactly(int(length[1]))
        if b"\r\nConnection: close" in head:
            await self.aclose()
        request_id = re.search(rb"\r\nX-Request-Id: (\S+)", head)
        assert request_id is not None
        has_own_id = request_id[1] == b"mine"
        if head[:12] in {b"HTTP/1.1 404", b"HTTP/1.1 410"}:  # a handler drops an expired record and reads the store
            head = re.sub(rb"store;dur=[0-9.]+, ", b"", head)
        head = re.sub(rb";dur=[0-9.]+", b";dur=N", re.sub(rb"\r\nDate: [^\r]*", b"", head))
        reply = head + body
        log_lines: list[tuple[object, ...]] = [
            (method, path, status, remote, cache, failure)
            for method, path, status, _, _, remote, cache, failure in self._lines
        ]
        assert all(line[4].encode() == request_id[1] for line in self._lines)
        return reply if has_own_id else reply.replace(request_id[1], b"ID"), log_lines

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await hang_up(self._connection[1])
            self._connection = None


class RecordingAccessLog(AccessLog):
    """An access log that passes the members of each line to a function, without the trace id."""

    def __init__(self, record: Callable[[Any], object]) -> None:
        super().__init__()
        self._record = record

    def __call__(self, *members: Any) -> None:  # the number varies
        self._record((*members, None)[:8])


@asynccontextmanager
async def service(
    folder: Path,
    clock: FakeClock,
    *,
    has_fast_path: bool,
    has_access_log: bool = True,
    **members: object,
) -> AsyncIterator[ServiceClient]:
    """Run a service inside the block, with or without the fast path. `members` are further members of the context."""
    lines: Lines = []
    metrics = Metrics()
    async with (
        open_store(f"sqlite:///{folder / str(has_fast_path)}", exclusive=True) as store,
        open_cache(
            "memory://",
            InstrumentedDatabase(store, metrics.store),
            clock=clock,
            size_bytes=1_000_000,
            meter=metrics.cache,
        ) as cache,
    ):
        numbers = itertools.count(1)
        policy = RetentionPolicy(lifetime=5, retention=7 * 86_400)
        guids = GuidService(
            cache,
            LeaseClock(store.fence),
            clock=clock,
            generator=lambda _: f"AAAA{next(numbers):028X}",
            policy=policy,
        )
        keys = Idempotency(
            store.receipts,
            LeaseClock(store.fence),
            clock=clock,
            seeded=lambda *_: lambda _: f"BBBB{next(numbers):028X}",
        )

        context = api_context(
            service=guids,
            idempotency=keys,
            trusted_proxies=TrustedProxies(["127.0.0.1"]),
            access_log=RecordingAccessLog(lines.append),
            monitor=ProcessMonitor(metrics),
            health=_health(members.pop("state", UP)),
            **members,
        )
        app = make_app(RequestPipeline(context))
        sockets = bind_sockets(0, "127.0.0.1")
        pipeline = RequestPipeline(context if has_access_log else replace(context, access_log=None))
        dispatcher = FastPathDispatcher(pipeline) if has_fast_path else None
        async with serving_on(sockets, app, ServerHooks(RequestMetrics()), fast_path=dispatcher):
            client = ServiceClient(sockets[0].getsockname()[1], lines, context.in_flight, metrics)
            try:
                yield client
            finally:
                await client.aclose()


def _health(state: object) -> Health:
    """Return the health of a service whose store is in this state and has just been probed."""
    health = Health()
    health.store = health.cache = PartHealth(timer=lambda: 0.0)
    health.store.state = str(state)
    return health
