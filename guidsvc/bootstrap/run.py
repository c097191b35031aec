"""Run the service: one process, or a supervisor with its workers."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial

import structlog

from guidsvc.bootstrap.app import port_of, serving
from guidsvc.bootstrap.banner import banner, print_banner
from guidsvc.bootstrap.preflight import UNKNOWN, Preflight, inspect
from guidsvc.config import Settings
from guidsvc.errors import StartError, StoreInUse
from guidsvc.process import file_descriptors
from guidsvc.process.service_manager import ServiceManager
from guidsvc.process.shutdown import install_signals, install_worker_signals
from guidsvc.process.worker_channel import WorkerChannel
from guidsvc.runtime.memory import leave_to_system
from guidsvc.server.sockets import open_listeners
from guidsvc.server.tls import Tls, open_tls
from guidsvc.store import location_of

_log = structlog.get_logger(__name__)


def run(settings: Settings, channel: WorkerChannel | None = None, *, spell: Callable[[str], str] = str) -> None:
    """Serve until SIGINT or SIGTERM, in this process or in workers that it supervises.

    `settings` come from `validation.load`. With `channel`, this process is one of the workers. `spell` returns an error
    message with the settings as the user has written them, for the log.
    """
    file_descriptors.raise_limit(settings.max_connections)
    if channel is None:
        file_descriptors.warn_if_few(settings.max_connections)
        preflight = inspect(settings)
    else:
        preflight = UNKNOWN
    manager = ServiceManager() if channel is not None else ServiceManager.from_environment()
    if channel is None and settings.workers > 1:
        _supervise(settings, preflight, manager)
    else:
        with _naming_siblings(settings, channel):
            _run(serve(settings, preflight, manager, channel, spell=spell))


@contextmanager
def _naming_siblings(settings: Settings, channel: WorkerChannel | None) -> Iterator[None]:
    """Replace the remedy of StoreInUse if another worker of this service has the store: nobody must stop that."""
    try:
        yield
    except StoreInUse as error:
        if channel is None or not channel.is_store_of_siblings(settings.store_fingerprint):
            raise
        raise StoreInUse(
            f"a worker of this service holds {location_of(settings.store_url)} alone until it can write to it: "
            "its disk is full or read-only; free some space"
        ) from error


def _supervise(settings: Settings, preflight: Preflight, manager: ServiceManager) -> None:
    from guidsvc.process.supervisor import supervise

    with open_listeners(settings.host, settings.port, settings.unix_socket, slots=settings.workers) as slots:
        text = banner(settings, port_of(slots[0], settings), preflight)
        supervise(slots, settings.grace, lambda: print_banner(text), manager)


def _run(work: Coroutine[object, object, None]) -> None:
    """Run the coroutine, on uvloop if it is installed."""
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)
    leave_to_system()


async def serve(
    settings: Settings,
    preflight: Preflight,
    manager: ServiceManager,
    channel: WorkerChannel | None = None,
    *,
    spell: Callable[[str], str] = str,
) -> None:
    """Serve according to the settings, and shut down cleanly on a signal. Raise StartError if the start fails."""
    tls = open_tls(settings.tls_cert, settings.tls_key)
    stop = (
        install_signals(None if tls is None else partial(_reload, tls, manager, spell))
        if channel is None
        else install_worker_signals(channel, settings.grace)
    )
    async with serving(settings, channel=channel, tls=tls) as port:
        _tune_garbage_collector()
        if channel is None:
            print_banner(banner(settings, port, preflight))
            manager.ready()
        else:
            channel.report_ready(settings.fingerprint, settings.store_fingerprint)
            channel.send_heartbeats()
        await stop.wait()
        manager.stopping()
        _log.info("stopping")


def _reload(tls: Tls, manager: ServiceManager, spell: Callable[[str], str]) -> None:
    manager.reloading()
    try:
        tls.reload()
    except StartError as error:
        _log.error("certificate reload failed, keeping the current one", error=spell(str(error)))
    manager.ready()


def _tune_garbage_collector() -> None:
    """Tune the garbage collector: freeze the start-up objects and raise the thresholds.

    A handler creates some 100 objects, and breaks its reference cycles by itself. The default, a collection per 700
    objects, takes 7 % of the handler's time (`python -m bench`, /version).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
