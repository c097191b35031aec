"""The one place where things are opened, wired, served, drained and closed."""

import asyncio
import gc
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
from tornado.web import Application

import guidsvc
from guidsvc import logs, rules
from guidsvc.cache import is_private, open_cache
from guidsvc.config import Settings
from guidsvc.idempotency import Idempotency
from guidsvc.rules import Clock, Terms
from guidsvc.service import GuidService
from guidsvc.store import open_store
from guidsvc.web.app import make_app
from guidsvc.web.draining import UnderWay
from guidsvc.web.forwarded import Forwarded
from guidsvc.web.health import Probes
from guidsvc.web.hosting import Limits
from guidsvc.web.listening import listening, tls_context
from guidsvc.web.server import LAME_SECONDS, RETIRING_TICK_SECONDS, serving_on
from guidsvc.web.short import ShortWay

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
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve as the settings say, and end cleanly on a signal; StartError if it cannot be started."""
    stop = _on_signals()
    async with serving(settings) as port:
        print(banner(settings, port), flush=True)
        _collect_less()
        await stop.wait()
        _log.info("stopping")


def _collect_less() -> None:
    """Look for reference cycles among what requests leave behind, and there only now and then.

    What the start has made stays. A handler makes some 100 objects, and cycles that it cuts by itself: to look after
    every 700 takes 7 % of its time (`python -m bench`, /version).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


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
        proxies = [proxy.strip() for proxy in settings.trusted_proxies.split(",") if proxy.strip()]
        forwarded = Forwarded(proxies)
        app = make_app(service, idempotency, probes, forwarded=forwarded, log=log)
        short = ShortWay(service, app.settings["under_way"], forwarded, log)
        with listening(settings.host, settings.port, settings.unix_socket) as sockets:
            port: int = 0 if settings.unix_socket else sockets[0].getsockname()[1]
            async with _serving(app, sockets, settings, short) as server:
                try:
                    yield port
                finally:
                    await _drain(server, app.settings["under_way"], settings.grace)


class _Stoppable(Protocol):
    def stop(self) -> None:
        """Accept no more connections."""

    async def retire(self) -> None:
        """Return when those who are connected have had the time to ask again, and be told that they are hung up on."""


class _Tornado(HTTPServer):
    """Tornado's own server, which does not tell who is idle: all have the same time at the end."""

    async def retire(self) -> None:
        """Return when nobody is connected, or has been told for LAME_SECONDS."""
        deadline = asyncio.get_running_loop().time() + LAME_SECONDS
        while self._connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # sets no event
            await asyncio.sleep(RETIRING_TICK_SECONDS)


@asynccontextmanager
async def _serving(
    app: Application, sockets: list[socket], settings: Settings, short: ShortWay
) -> AsyncIterator[_Stoppable]:
    """Serve with the connection layer of our own, or with Tornado's."""
    tls = tls_context(settings.tls_cert, settings.tls_key)
    if settings.server == "httptools":
        limits = Limits(
            head_seconds=settings.head_timeout,
            body_seconds=settings.body_timeout,
            idle_seconds=settings.idle_timeout,
            connections=settings.max_connections,
        )
        async with serving_on(sockets, app, limits=limits, short=short, tls=tls) as ours:
            yield ours
        return
    server = _Tornado(
        app,
        ssl_options=tls,
        max_body_size=2**60,  # the handlers judge the size of a body: Tornado would hang up without a word
        idle_connection_timeout=settings.idle_timeout,
        body_timeout=settings.body_timeout,
    )
    server.add_sockets(sockets)
    try:
        yield server
    finally:
        await server.close_all_connections()


async def _drain(server: _Stoppable, under_way: UnderWay, grace: float) -> None:
    """Return when no request is left to be answered, or after the grace."""
    under_way.draining = True
    server.stop()
    try:
        async with asyncio.timeout(grace):
            await server.retire()
            await under_way.ended()
    except TimeoutError:
        if len(under_way):
            _log.warning("stopped with requests under way", under_way=len(under_way), grace=grace)
    under_way.over = True


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
    at = f"{'http' if settings.tls_cert is None else 'https'}://{host}:{port}"
    by = ""
    if settings.unix_socket is not None:
        at, by = f"{at.partition(':')[0]}://localhost", f" --unix-socket {settings.unix_socket}"
    return "\n".join(
        [
            f"guidsvc {guidsvc.__version__} at {settings.unix_socket or at}",
            f"  records  {without_password(settings.store_url)}",
            f"  cache    {without_password(settings.cache_url)}",
            f"""  try      curl{by} -X PUT -d '{{"user": "Cylance, Inc."}}' {at}/guid""",
        ]
    )


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    without = re.sub(r"://([^:/@]*):[^/]*@", r"://\1:***@", url)
    return re.sub(r"(?i)([?&][^&=]*(?:password|secret|token)[^&=]*)=[^&]*", r"\1=***", without)
