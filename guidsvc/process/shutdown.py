"""What ends a process, and how: signals, the death of its supervisor; and that requests under way finish first."""

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
    """A server that can be ended."""

    def connections(self) -> int:
        """Count those that are open."""

    def stop(self) -> None:
        """Accept no more connections."""

    async def drain_connections(self) -> None:
        """Return when those who are connected have had the time to ask again, and be told that they are hung up on."""


async def drain(server: StoppableServer, under_way: InFlightRequests, grace: float) -> None:
    """Return when no request is left to be answered, or after the grace."""
    under_way.draining = True
    server.stop()
    try:
        async with asyncio.timeout(grace):
            await server.drain_connections()
            await under_way.ended()
    except TimeoutError:
        if len(under_way):
            _log.warning("stopped with requests under way", under_way=len(under_way), grace=grace)
    under_way.closed = True


def install_signals(on_reload: Callable[[], None] | None) -> asyncio.Event:
    """Return an event that the first signal sets; a second one ends the process there and then.

    SIGHUP calls `on_reload`, and ends nothing. Without one it is a signal like the others: a process that loses its
    terminal ends, unless it runs under nohup, which ignores the signal.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if on_reload is None and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def told() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    try:
        for number in numbers:
            loop.add_signal_handler(number, told)
        if on_reload is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, on_reload)
    except NotImplementedError:
        pass  # on Windows: there Ctrl-C cancels `serve`, which closes everything as well
    return stop


def install_worker_signals(post: WorkerChannel, grace: float) -> asyncio.Event:
    """Return an event that a signal sets, or the death of the supervisor; it is for that one to lose patience."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def lost() -> None:
        with suppress(RuntimeError):  # the loop is over already
            loop.call_soon_threadsafe(stop.set)

    post.watch_supervisor(lost, grace + MARGIN_SECONDS)
    return stop
