"""The composition root of one process: the API is opened, served, drained, and closed here."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from socket import socket

from guidsvc.api.app import make_app
from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.bootstrap.context import open_context
from guidsvc.bootstrap.server import open_server
from guidsvc.config import Settings
from guidsvc.process.shutdown import StoppableServer, drain
from guidsvc.process.worker_channel import WorkerChannel
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock, system_clock
from guidsvc.runtime.memory import collect_on_growth
from guidsvc.server.sockets import inherit_sockets, open_listeners
from guidsvc.server.tls import Tls, open_tls
from guidsvc.telemetry.metrics import Metrics


@asynccontextmanager
async def serving(
    settings: Settings, *, clock: Clock = system_clock, channel: WorkerChannel | None = None, tls: Tls | None = None
) -> AsyncIterator[int]:
    """Open everything that the settings configure, serve, and yield the port. At the end, drain requests in flight.

    With `channel`, a worker serves on the sockets inherited through this channel. `tls` is passed if already open.
    """
    tls = open_tls(settings.tls_cert, settings.tls_key) if tls is None else tls
    async with open_context(settings, clock=clock, channel=channel) as context:
        pipeline = RequestPipeline(context)
        app, fast_path = make_app(pipeline), FastPathDispatcher(pipeline)
        with _listening(settings, channel) as sockets:
            async with (
                running_in_background(partial(collect_on_growth, context.admission.is_idle)),
                open_server(app, sockets, settings, fast_path, tls) as server,
            ):
                _observe(context.monitor.meters, server, tls)
                try:
                    yield port_of(sockets, settings)
                finally:
                    if context.feed is not None:
                        context.feed.close()
                    await drain(server, context.in_flight, settings.grace)


def _observe(metrics: Metrics, server: StoppableServer, tls: Tls | None) -> None:
    """Let the metrics read the connections and the certificate."""
    metrics.connections, metrics.state.connections_limit = server.connections, server.connections_limit
    if tls is not None:
        metrics.state.certificate_not_after = lambda: tls.not_after


@contextmanager
def _listening(settings: Settings, channel: WorkerChannel | None) -> Iterator[list[socket]]:
    if channel is not None:
        with inherit_sockets(channel.listeners) as sockets:
            yield sockets
    else:
        with open_listeners(settings.host, settings.port, settings.unix_socket) as (sockets,):
            yield sockets


def port_of(sockets: Sequence[socket], settings: Settings) -> int:
    """Return the port that the sockets listen on, or 0 for a Unix socket."""
    return 0 if settings.unix_socket is not None else int(sockets[0].getsockname()[1])
