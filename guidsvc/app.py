"""The one place where things are opened, wired, served, drained and closed."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from socket import socket
from typing import Protocol

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

import guidsvc
from guidsvc import logs, rules
from guidsvc.cache import is_private, open_cache
from guidsvc.config import Settings
from guidsvc.errors import StartError
from guidsvc.idempotency import Idempotency
from guidsvc.rules import Clock, Terms
from guidsvc.service import GuidService
from guidsvc.store import open_store
from guidsvc.web.app import make_app
from guidsvc.web.draining import UnderWay
from guidsvc.web.health import Probes
from guidsvc.web.server import serving_on
from guidsvc.web.short import ShortWay

IDLE_SECONDS = 75
"""A kept-alive connection on which nothing is asked for so long is closed."""
BODY_SECONDS = 30
"""A body that has not come whole within this time is given up."""

BACKLOG = 4096
"""So many connections may wait to be accepted, as far as the system lets them (net.core.somaxconn)."""

MAKERS = {"4": rules.guid_v4, "7": rules.guid_v7}
"""What makes a GUID, by the version of UUID that the settings name."""

_log = structlog.get_logger(__name__)


def system_clock() -> int:
    """Return the time of this host, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, on uvloop where that is installed."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve as the settings say, and end cleanly on a signal; StartError if it cannot be started."""
    stop = _on_signals()
    async with serving(settings) as port:
        print(banner(settings, port), flush=True)
        await stop.wait()
        _log.info("stopping")


@asynccontextmanager
async def serving(settings: Settings, *, clock: Clock = system_clock) -> AsyncIterator[int]:
    """Open what the settings ask for and serve, inside; yields the port. At the end requests under way finish."""
    async with (
        open_store(settings.store_url, clock=clock, exclusive=is_private(settings.cache_url)) as store,
        open_cache(settings.cache_url, store, clock=clock, size=settings.cache_size) as cache,
    ):
        terms = Terms(lifetime=settings.lifetime, retention=settings.retention)
        make, strict = MAKERS[settings.guid_version], settings.require_preconditions
        service = GuidService(cache, clock=clock, draw=rules.drawing(make), terms=terms, strict=strict)
        idempotency = Idempotency(store, clock=clock, seeded=partial(rules.seeded, make))
        probes = Probes(store=cache.ping, cache=cache.check)
        log = logs.access_log(settings.log_level, settings.log_format) if settings.access_log else None
        app = make_app(service, idempotency, probes, log=log)
        short = ShortWay(service, app.settings["under_way"], log)
        sockets = _bind(settings)
        port: int = sockets[0].getsockname()[1]
        async with _serving(app, sockets, settings, short) as server:
            try:
                yield port
            finally:
                await _drain(server, app.settings["under_way"], settings.grace)


class _Stoppable(Protocol):
    def stop(self) -> None: ...


@asynccontextmanager
async def _serving(
    app: Application, sockets: list[socket], settings: Settings, short: ShortWay
) -> AsyncIterator[_Stoppable]:
    """Serve with the connection layer of our own, or with Tornado's."""
    if settings.server == "httptools":
        async with serving_on(sockets, app, short=short) as ours:
            yield ours
        return
    # The handlers judge the size of a body: Tornado would hang up without a word.
    server = HTTPServer(app, max_body_size=2**60, idle_connection_timeout=IDLE_SECONDS, body_timeout=BODY_SECONDS)
    server.add_sockets(sockets)
    try:
        yield server
    finally:
        await server.close_all_connections()


async def _drain(server: _Stoppable, under_way: UnderWay, grace: float) -> None:
    server.stop()
    if not await under_way.drain(grace):
        _log.warning("stopped with requests under way", under_way=len(under_way), grace=grace)


def _bind(settings: Settings) -> list[socket]:
    try:
        return bind_sockets(settings.port, settings.host, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(f"host, port: cannot listen on {settings.host}:{settings.port}: {reason}") from error


def _on_signals() -> asyncio.Event:
    """Return an event that the first SIGINT or SIGTERM sets; a second one ends the process there and then."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, told)
    except NotImplementedError:
        pass  # on Windows: there Ctrl-C cancels `serve`, which closes everything as well
    return stop


def banner(settings: Settings, port: int) -> str:
    """Return what the start prints: where it listens, where it keeps what, and one line to try."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    host = everywhere.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    at = f"http://{host}:{port}"
    return "\n".join(
        [
            f"guidsvc {guidsvc.__version__} at {at}",
            f"  records  {without_password(settings.store_url)}",
            f"  cache    {without_password(settings.cache_url)}",
            f"""  try      curl -X PUT -d '{{"user": "Cylance, Inc."}}' {at}/guid""",
        ]
    )


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    without = re.sub(r"://([^:/@]*):[^/]*@", r"://\1:***@", url)
    return re.sub(r"(?i)([?&][^&=]*(?:password|secret|token)[^&=]*)=[^&]*", r"\1=***", without)
