"""Graceful shutdown: signals or the death of the supervisor trigger it; requests in flight finish first."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from guidsvc.process.worker_channel import MARGIN_SECONDS, WorkerChannel
from guidsvc.runtime.in_flight import InFlightRequests

_log = structlog.get_logger(__name__)


class StoppableServer(Protocol):
    """A server that can be shut down."""

    def connections(self) -> int:
        """Return the number of open connections."""

    def connections_limit(self) -> int:
        """Return the maximum number of open connections."""

    def stop(self) -> None:
        """Stop accepting connections."""

    async def drain_connections(self) -> None:
        """Wait until each connected client has had time for one more request, to receive `Connection: close`."""


async def drain(server: StoppableServer, in_flight: InFlightRequests, grace: float) -> None:
    """Stop the server, and wait until no request is in flight, for at most `grace` seconds."""
    in_flight.begin_draining(grace)
    server.stop()
    try:
        async with asyncio.timeout(grace):
            await server.drain_connections()
            await in_flight.wait_until_idle()
    except TimeoutError:
        if len(in_flight):
            _log.warning("grace period over, aborting requests", in_flight=len(in_flight), grace_seconds=grace)
    in_flight.close()


def install_signals(on_reload: Callable[[], None] | None) -> asyncio.Event:
    """Return an event that the first SIGINT or SIGTERM sets. A second one ends the process immediately.

    SIGHUP calls `on_reload`. Without a callback, SIGHUP ends the process like the others when the terminal is lost,
    unless the process runs under nohup, which ignores the signal.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if on_reload is None and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def on_signal() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    try:
        for number in numbers:
            loop.add_signal_handler(number, on_signal)
        if on_reload is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, on_reload)
    except NotImplementedError:
        pass  # Windows: Ctrl-C cancels `serve`, which closes everything as well
    return stop


def install_worker_signals(channel: WorkerChannel, grace: float) -> asyncio.Event:
    """Return an event that a signal or the death of the supervisor sets.

    The supervisor kills a worker that does not end in time.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def on_supervisor_exit() -> None:
        with suppress(RuntimeError):  # the loop is already closed
            loop.call_soon_threadsafe(stop.set)

    channel.watch_supervisor(on_supervisor_exit, grace + MARGIN_SECONDS)
    return stop
