"""The supervisor of the workers: starts them, restarts dead ones, replaces them on SIGHUP, and shuts them down.

It owns the listening sockets, a separate set for each slot, and serves nothing itself. A worker inherits the sockets of
its slot, so a client that connects while the slot has no worker waits for the next one. If that cannot be started, the
supervisor closes the slot's sockets, and the system distributes connections to the other slots only. The next worker
that starts listens again. The supervisor does not know the application.

    SIGTERM, SIGINT   every worker finishes its requests within the grace period; a second signal kills the workers
    SIGHUP            workers are replaced one by one: the new one serves before the old one is terminated (`reload`)
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from socket import socket

import structlog
from prometheus_client.multiprocess import mark_process_dead

from guidsvc.errors import SettingsChanged, StartError, StoreInUse
from guidsvc.monitoring import metric_files
from guidsvc.monitoring.logs import standard_streams
from guidsvc.monitoring.metric_files import SharedFolder
from guidsvc.monitoring.supervisor_metrics import WorkerDeaths
from guidsvc.process.reload import Reload
from guidsvc.process.service_manager import ServiceManager
from guidsvc.process.slot import Slot
from guidsvc.process.worker import Worker, start
from guidsvc.process.worker_channel import METRICS_VARIABLE, OTHER_SETTINGS, Siblings
from guidsvc.runtime.background import running_in_background

RENEW_SECONDS = 10.0
"""Interval between checks of the metrics folder, in seconds."""

_log = structlog.get_logger(__name__)


def supervise(slots: list[list[socket]], grace: float, serving: Callable[[], None], manager: ServiceManager) -> None:
    """Run a worker on the sockets of each slot until a signal. Raise StartError if they cannot be started.

    `grace` is in seconds. `serving` is called once all workers serve.
    """
    with metric_files.supervised_folder() as metrics:
        second_signal = asyncio.run(Supervisor(slots, grace, metrics, manager).run(serving))
    if second_signal is not None:
        standard_streams.drain()
        signal.raise_signal(second_signal)  # the handlers are gone, so the default action ends this process


class Supervisor:
    """The supervisor. Workers store their metrics in the folder `metrics`, and serve even without it."""

    def __init__(self, slots: list[list[socket]], grace: float, metrics: SharedFolder, manager: ServiceManager) -> None:
        self._slots = [Slot(number, listeners) for number, listeners in enumerate(slots, 1)]
        self._grace = grace
        self._metrics = metrics
        self._manager = manager
        self._has_metrics = True
        self._deaths = WorkerDeaths()
        self._workers: set[Worker] = set()  # those that have not ended
        self.settings = ""
        """The fingerprint of the settings of the workers; empty until the first one of a start or a reload serves."""
        self._store = ""
        """The fingerprint of the store that workers have used last; empty until one serves."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        self._second_signal: signal.Signals | None = None
        self._failure: BaseException | None = None

    async def run(self, serving: Callable[[], None]) -> signal.Signals | None:
        """Supervise the workers until a signal, then shut them down. Return the second signal, or None."""
        with self._signals():
            self._spawn(self._serve(serving))
            async with running_in_background(self._renew_metrics_periodically):
                await self._stop.wait()
            self._manager.stopping()
            if self._failure is None:
                _log.info("stopping", workers=len(self._workers))
            await self._end()
        if self._failure is not None:
            raise self._failure
        return self._second_signal

    # Starting and replacing

    async def _serve(self, serving: Callable[[], None]) -> None:
        """Start all workers, then replace them on each SIGHUP.

        The first worker starts alone, so that a configuration error is reported only once.
        """
        first, *others = self._slots
        await self._fill(first)
        await asyncio.gather(*(self._fill_beside_first(slot) for slot in others))
        serving()
        self._manager.ready()
        while True:
            await self._renew.wait()
            self._renew.clear()
            self._manager.reloading()
            await Reload(self._slots, self).run()
            self._manager.ready()

    async def _fill(self, slot: Slot) -> None:
        async with slot.changing:
            slot.worker = await self._start_worker(slot)

    async def _fill_beside_first(self, slot: Slot) -> None:
        """Fill a slot. If the first worker holds the store for itself, as on a full disk, retry in the background."""
        try:
            await self._fill(slot)
        except StoreInUse as error:
            self._spawn(self._retry(slot, self._note_failed_start(slot, error)))

    async def _retry(self, slot: Slot, delay: float) -> None:
        async with slot.changing:
            await self._restart(slot, delay)

    async def _start_worker(self, slot: Slot) -> Worker:
        """Start a worker, and return it once it serves."""
        self._renew_metrics()
        slot.bind_again()
        environment = os.environ | {METRICS_VARIABLE: str(self._metrics.path)}
        worker = await start(
            slot.number,
            slot.listeners,
            environment,
            watchdog_seconds=self._manager.watchdog_seconds,
            siblings=self._siblings(),
        )
        self._workers.add(worker)
        self._spawn(self._watch(slot, worker))
        await worker.ready()
        await self._agree(worker)
        self._spawn(worker.kill_if_hung())
        slot.closed = []
        return worker

    def _siblings(self, newest: Worker | None = None) -> Siblings:
        """Describe the workers other than the newest. If none serves, any settings will do."""
        are_serving = any(each.served_seconds for each in self._workers if each is not newest)
        return Siblings(self.settings if are_serving else "", self._store, are_serving)

    async def _agree(self, worker: Worker) -> None:
        """Note the settings of a worker that serves now. If they are not in force, kill it and raise SettingsChanged.

        Several workers may have begun to start while none served, and the settings may have been edited meanwhile.
        """
        if self._siblings(worker).settings not in {"", worker.settings}:
            await worker.kill()
            raise SettingsChanged(OTHER_SETTINGS)
        self.settings, self._store = worker.settings, worker.store

    async def _watch(self, slot: Slot, worker: Worker) -> None:
        """Wait until a worker has ended, and restart it if its slot still uses it."""
        ended = await worker.wait()
        served = worker.served_seconds
        self._workers.discard(worker)
        self._spawn(self._merge_metrics(worker.pid))
        async with slot.changing:  # held by a starter until the new worker is in the slot
            if slot.worker is worker:
                await self._recover(slot, worker, ended, served)

    async def _merge_metrics(self, pid: int) -> None:
        """Merge the metrics of a dead worker into those of earlier ones. A failure must not stop the service."""
        try:
            mark_process_dead(pid, str(self._metrics.path))  # type: ignore[no-untyped-call]
            await asyncio.to_thread(metric_files.bury, self._metrics.path, pid)
        except Exception as error:  # noqa: BLE001  # the files may hold anything; metrics must not stop the service
            _log.warning("metrics of an exited worker lost", pid=pid, error=str(error))

    async def _renew_metrics_periodically(self) -> None:
        """Recreate the metrics folder periodically, in case it was removed."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            self._renew_metrics()

    def _renew_metrics(self) -> None:
        """Create the metrics folder if it is missing, and write the supervisor's own metrics into it."""
        try:
            self._metrics.renew()
            self._deaths.write(self._metrics.path)
        except OSError as error:
            if self._has_metrics:
                _log.warning("metrics folder cannot be written, metrics are missing", error=str(error))
            self._has_metrics = False
        else:
            self._has_metrics = True

    async def _recover(self, slot: Slot, dead: Worker, ended: dict[str, object], served: float) -> None:
        """Log the death of a worker, and start another one."""
        self._count_death()
        delay = slot.backoff.after(served)
        fields = {"worker": slot.number, "restart_in_seconds": delay}
        _log.error("worker exited, restarting it", pid=dead.pid, uptime_seconds=round(served, 3), **ended, **fields)
        await self._restart(slot, delay)

    async def _restart(self, slot: Slot, delay: float) -> None:
        """Start workers, with backoff, until one serves."""
        former = slot.worker
        while slot.worker is former:
            await asyncio.sleep(delay)
            try:
                async with slot.attempting:
                    slot.worker = await self._start_worker(slot)
            except StartError as error:
                delay = self._note_failed_start(slot, error)
            else:
                _log.info("worker restarted", worker=slot.number, pid=slot.worker.pid)

    def _note_failed_start(self, slot: Slot, error: StartError) -> float:
        """Log that a worker cannot be started, leave new connections to the others, and return the delay of a retry."""
        self._count_death()
        delay = slot.backoff.after(0)
        slot.stop_listening(self._slots)
        _log.error("worker cannot be started", error=str(error), worker=slot.number, restart_in_seconds=delay)
        return delay

    def _count_death(self) -> None:
        self._deaths.count += 1
        self._renew_metrics()

    async def forget_settings(self) -> str:
        """Let the next worker have any settings; return the former ones (`reload.Starter`).

        Wait until no attempt to restart a worker is in progress: such a worker may have read the former settings, which
        the first new worker would differ from. The reload replaces it, too.
        """
        async with AsyncExitStack() as stack:
            for slot in self._slots:
                await stack.enter_async_context(slot.attempting)
            former, self.settings = self.settings, ""
        return former

    async def replace(self, slot: Slot) -> None:
        """Start a worker in a slot, and then end the former one. Raise StartError if it cannot serve."""
        async with slot.changing:
            old, slot.worker = slot.worker, await self._start_worker(slot)
        if old is not None:
            await self.retire(old)

    async def retire(self, worker: Worker) -> None:
        """End a worker within the grace period."""
        await worker.retire(self._grace)

    # Shutdown

    async def _end(self) -> None:
        """Shut down the workers, and cancel the tasks of the supervisor."""
        for slot in self._slots:
            slot.worker = None  # so that no worker is restarted
            for each in slot.listeners:
                each.close()  # workers close them too, so no client waits in an unserved backlog
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(worker.retire(self._grace) for worker in self._workers))
        for worker in self._workers:
            await worker.wait()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        """Shut down gracefully on the first signal; kill the workers on the second."""
        if self._stop.is_set():
            self._second_signal = number
            for worker in self._workers:
                self._spawn(worker.kill())
        self._stop.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run a coroutine as a task. If it fails, stop the supervisor: it is a bug, or a failed start."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self._stop.set()
