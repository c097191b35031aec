"""A service with its fast path or without it, and what it answers and logs, to compare both."""

import asyncio
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
from guidsvc.domain import guid_generator
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


class Way:
    """A service, reached over one connection at a time."""

    def __init__(self, port: int, lines: Lines, under_way: InFlightRequests, meters: Metrics) -> None:
        self.under_way = under_way
        self.meters = meters
        self.port = port
        self._lines = lines
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> tuple[bytes, list[tuple[object, ...]]]:
        """Return what a request is answered, but for date, request id and durations; and what the log says of it."""
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


class NotedAccessLog(AccessLog):
    """Access lines, each handed over as the tuple of its members, without the ID of its trace."""

    def __init__(self, note: Callable[[Any], object]) -> None:
        super().__init__()
        self._note = note

    def __call__(self, *members: Any) -> None:  # as many as there are
        self._note((*members, None)[:8])


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
        open_store(f"sqlite:///{folder / str(short)}", exclusive=True) as store,
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

        context = api_context(
            service=guids,
            idempotency=keys,
            trusted_proxies=TrustedProxies(["127.0.0.1"]),
            access_log=NotedAccessLog(lines.append),
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


def _health(state: object) -> Health:
    """Return the health of a service whose store is in this state; no time passes since its last probe."""
    health = Health()
    health.store = health.cache = PartHealth(timer=lambda: 0.0)
    health.store.state = str(state)
    return health
