"""The supervisor of several workers: starts them, replaces the dead and, when it is told to, the living, and ends them.

It listens, for each slot on sockets of its own, and serves nothing. A worker inherits the sockets of its slot, so that
whoever connects while there is none waits for the next. Where the next cannot be started, the sockets of the slot are
closed, so that the system deals connections out to the other slots alone; the next worker that serves listens again.
What a worker serves is not known here.

    SIGTERM, SIGINT   every worker ends what it does, within the grace; a second one ends them there and then
    SIGHUP            workers are replaced one by one: a new one serves before the old one is told to end
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import socket

import structlog
from prometheus_client.multiprocess import mark_process_dead

from guidsvc.errors import StartError
from guidsvc.monitoring import metric_files, standard_streams
from guidsvc.monitoring.metric_files import SharedFolder
from guidsvc.process import reuseport as listeners
from guidsvc.process.reuseport import Closed
from guidsvc.process.worker import Worker, start
from guidsvc.process.worker_channel import METRICS_VARIABLE
from guidsvc.runtime.background import running_in_background

RENEW_SECONDS = 10.0
"""How often the folder of metrics is looked after."""

_log = structlog.get_logger(__name__)


@dataclass
class Backoff:
    """How long to wait before a worker is replaced that has died: no time, unless it dies again and again."""

    first: float = 0.25
    most: float = 8.0
    steady: float = 10.0
    """Who has served for so many seconds has not died because of its start."""
    deaths: int = 0
    """In a row, soon after the start."""

    def after(self, served: float) -> float:
        """Return the seconds to wait after a worker that had served for so many."""
        if served >= self.steady:
            self.deaths = 0
            return 0.0
        self.deaths += 1
        return float(min(self.first * 2 ** min(self.deaths - 1, 30), self.most))


@dataclass
class _Slot:
    number: int
    listeners: list[socket]
    """None while they are closed."""
    closed: list[Closed] = field(default_factory=list)
    """What binds them again, until a worker listens."""
    worker: Worker | None = None
    """Who serves, or has."""
    backoff: Backoff = field(default_factory=Backoff)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a new worker is being started."""


def supervise(slots: list[list[socket]], grace: float, serving: Callable[[], None]) -> None:
    """Have a worker serve on the sockets of each slot, until a signal; StartError if they cannot be started.

    `grace` is in seconds; `serving` is called once all serve.
    """
    with metric_files.supervised_folder() as metrics:
        hurried = asyncio.run(Supervisor(slots, grace, metrics).run(serving))
    if hurried is not None:
        standard_streams.drain()
        signal.raise_signal(hurried)  # of which the handlers are gone: it ends this process as it would have then


class Supervisor:
    """Watches over workers; they keep what they measure in the folder `metrics`, and serve without it if need be."""

    def __init__(self, slots: list[list[socket]], grace: float, metrics: SharedFolder) -> None:
        self._slots = [_Slot(number, listeners) for number, listeners in enumerate(slots, 1)]
        self._grace = grace
        self._metrics = metrics
        self._has_metrics = True
        self._workers: set[Worker] = set()  # which have not ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        self._hurried: signal.Signals | None = None
        self._failure: BaseException | None = None

    async def run(self, serving: Callable[[], None]) -> signal.Signals | None:
        """Watch over workers until a signal, and end them; return the second signal, if one came."""
        with self._signals():
            self._do(self._serve(serving))
            async with running_in_background(self._keep_metrics):
                await self._stop.wait()
            if self._failure is None:
                _log.info("stopping", workers=len(self._workers))
            await self._end()
        if self._failure is not None:
            raise self._failure
        return self._hurried

    # Starting and replacing

    async def _serve(self, serving: Callable[[], None]) -> None:
        """Start all, the first one alone: what is wrong with the settings it finds out, and tells once."""
        first, *others = self._slots
        await self._fill(first)
        await asyncio.gather(*(self._fill(slot) for slot in others))
        serving()
        while True:
            await self._renew.wait()
            self._renew.clear()
            await self._replace_all()

    async def _fill(self, slot: _Slot) -> None:
        async with slot.changing:
            slot.worker = await self._started(slot)

    async def _started(self, slot: _Slot) -> Worker:
        """Start a worker, and return it when it serves."""
        self._renew_metrics()
        self._bind_again(slot)
        worker = await start(slot.number, slot.listeners, os.environ | {METRICS_VARIABLE: str(self._metrics.path)})
        self._workers.add(worker)
        self._do(self._watch(slot, worker))
        await worker.ready()
        slot.closed = []
        return worker

    async def _watch(self, slot: _Slot, worker: Worker) -> None:
        """Wait for the end of a worker, and replace it if it was serving."""
        ended = await worker.ended()
        served = worker.served_seconds
        self._workers.discard(worker)
        self._do(self._bury(worker.pid))
        async with slot.changing:  # whoever starts a worker puts it into the slot before it lets go
            if slot.worker is worker:
                await self._recover(slot, worker, ended, served)

    async def _bury(self, pid: int) -> None:
        """Put what a worker has measured with what the other dead have; whatever happens to it, others serve on."""
        try:
            mark_process_dead(pid, str(self._metrics.path))  # type: ignore[no-untyped-call]
            await asyncio.to_thread(metric_files.bury, self._metrics.path, pid)
        except Exception as error:  # noqa: BLE001  # anything may be in the files, and metrics are not worth the service
            _log.warning("metrics of a worker that has ended cannot be kept", pid=pid, error=str(error))

    async def _keep_metrics(self) -> None:
        """Keep the folder of metrics, whoever removes it."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            self._renew_metrics()

    def _renew_metrics(self) -> None:
        try:
            self._metrics.renew()
        except OSError as error:
            if self._has_metrics:
                _log.warning("folder of metrics cannot be made, metrics are missing", error=str(error))
            self._has_metrics = False
        else:
            self._has_metrics = True

    async def _recover(self, slot: _Slot, dead: Worker, ended: dict[str, object], served: float) -> None:
        """Start workers until one serves."""
        delay = slot.backoff.after(served)
        seen = {"worker": slot.number, "again_in": delay}
        _log.error("worker died, is replaced", pid=dead.pid, served=round(served, 3), **ended, **seen)
        while slot.worker is dead:
            await asyncio.sleep(delay)
            try:
                slot.worker = await self._started(slot)
            except StartError as error:
                delay = slot.backoff.after(0)
                self._stop_listening(slot)
                _log.error("worker cannot be started", error=str(error), worker=slot.number, again_in=delay)
            else:
                _log.info("worker replaced", worker=slot.number, pid=slot.worker.pid)

    def _stop_listening(self, slot: _Slot) -> None:
        """Close the sockets of a slot that has no worker, unless no other slot listens: the port would be free.

        Who waits there for a worker is reset. A socket that was bound again and does not listen is closed too.
        """
        if slot.closed or any(other.listeners and not other.closed for other in self._slots if other is not slot):
            closed = listeners.close(slot.listeners)
            if closed:
                slot.listeners, slot.closed = [], closed

    @staticmethod
    def _bind_again(slot: _Slot) -> None:
        """Bind the sockets of a slot that were closed; the worker listens. StartError if that cannot be."""
        if slot.closed and not slot.listeners:
            try:
                slot.listeners = listeners.bind_again(slot.closed)
            except OSError as error:
                raise StartError(f"a worker cannot be started: {error.strerror}") from error

    async def _replace_all(self) -> None:
        """Replace the workers one by one, as long as new ones can be started."""
        _log.info("workers are being replaced", workers=len(self._slots))
        replaced = 0
        for slot in self._slots:
            if slot.changing.locked():
                continue  # its worker has died, and a new one is on its way
            try:
                await self._replace(slot)
            except StartError as error:
                _log.error("workers are kept, a new one cannot be started", error=str(error), worker=slot.number)
                return
            replaced += 1
        if replaced:
            _log.info("workers replaced", workers=replaced)
        else:
            _log.warning("no worker replaced, all are being started", workers=len(self._slots))

    async def _replace(self, slot: _Slot) -> None:
        async with slot.changing:
            old, slot.worker = slot.worker, await self._started(slot)
        if old is not None:
            await old.retire(self._grace)

    # Ending

    async def _end(self) -> None:
        """End the workers, and what is being done here."""
        for slot in self._slots:
            slot.worker = None  # so that nobody is replaced
            for each in slot.listeners:
                each.close()  # workers close them too: nobody is to wait for one that does not come
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(worker.retire(self._grace) for worker in self._workers))
        for worker in self._workers:
            await worker.ended()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._told, number)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _told(self, number: signal.Signals) -> None:
        """End: after what is under way when this is the first signal, there and then when it is the second."""
        if self._stop.is_set():
            self._hurried = number
            for worker in self._workers:
                self._do(worker.kill())
        self._stop.set()

    def _do(self, work: Coroutine[object, object, None]) -> None:
        """Do something beside; if it fails all ends, for that is a fault, or the start that failed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._stop.set()
