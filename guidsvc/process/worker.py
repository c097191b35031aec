"""Supervisor side of a worker process: start it, wait until it is ready, and end it.

`guidsvc.process.supervisor` decides when. `guidsvc.process.worker_channel` is the worker side.
"""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress

import structlog

from guidsvc.errors import StartError
from guidsvc.process.worker_channel import MARGIN_SECONDS, Siblings, pack, reported_error

MISSED_HEARTBEATS = 4
"""Number of heartbeats that a worker may miss in a row before it is killed."""

START_SECONDS = 60.0
"""A worker that does not serve after this many seconds is killed."""

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_log = structlog.get_logger(__name__)


class Worker:
    """A worker process on a slot, with the interval between its heartbeats; 0 means that it sends none."""

    def __init__(
        self, slot: int, process: asyncio.subprocess.Process, streams: _Streams, heartbeat_seconds: float
    ) -> None:
        self.slot = slot
        self.pid = process.pid
        self._process = process
        self._reader, self._writer = streams
        self._heartbeat_seconds = heartbeat_seconds
        self._is_retiring = False
        self.settings = ""
        """The fingerprint of its settings, once it serves."""
        self.store = ""
        """The fingerprint of its store, once it serves."""
        self._ready_at: float | None = None

    @property
    def served_seconds(self) -> float:
        """Seconds since the worker became ready; 0 before."""
        return 0.0 if self._ready_at is None else asyncio.get_running_loop().time() - self._ready_at

    async def ready(self) -> None:
        """Wait until the worker serves. If it cannot, wait until it has ended and raise StartError."""
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await self._reader.readline()
        except TimeoutError as error:
            await self.kill()
            raise StartError(f"a worker did not start within {START_SECONDS:g} s; its log lines may say why") from error
        if line:
            status = json.loads(line)  # noqa: TID251  # the text of this program
            if "failed" not in status:
                self.settings, self.store = status["settings"], status["store"]
                self._ready_at = asyncio.get_running_loop().time()
                return
        exit_status = await self.wait()
        if line:
            raise reported_error(status)
        raise StartError(f"a worker exited during its start: {_describe_exit(exit_status)}; its log lines may say why")

    async def kill_if_hung(self) -> None:
        """Kill the worker once its event loop hangs. Return when it is killed, has ended or retires.

        A pause of all processes counts as one missed heartbeat, so the worker has time to send the next one.
        """
        missed = 0
        while self._heartbeat_seconds and missed < MISSED_HEARTBEATS:
            try:
                async with asyncio.timeout(self._heartbeat_seconds):
                    if not await self._reader.readline():
                        return
                missed = 0
            except TimeoutError:
                missed += 1
            except ConnectionError:
                return
        if missed and not self._is_retiring:
            _log.error("worker hangs, killing it", worker=self.slot, pid=self.pid)
            await self.kill()

    async def wait(self) -> dict[str, object]:
        """Wait until the worker has ended, and return its `exit_code`, or the `signal` that ended it."""
        code = await self._process.wait()
        self._writer.close()
        return {"exit_code": code} if code >= 0 else {"signal": _signal_name(-code)}

    async def retire(self, grace: float) -> None:
        """Terminate the worker and wait until it has ended. Kill it MARGIN_SECONDS after the grace period."""
        self._is_retiring = True
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace + MARGIN_SECONDS):
                await self._process.wait()
        except TimeoutError:
            _log.error("worker did not stop in time, killing it", worker=self.slot, pid=self.pid, grace=grace)
            await self.kill()

    async def kill(self) -> None:
        """Kill the worker immediately, and wait until it has ended."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


async def start(
    slot: int,
    listeners: list[socket.socket],
    environment: Mapping[str, str],
    *,
    watchdog_seconds: float,
    siblings: Siblings,
) -> Worker:
    """Start this program again, as a worker, with the same arguments. Raise StartError if the system cannot.

    With `watchdog_seconds`, the worker sends heartbeats, and may be silent for about that long.

    The worker runs in a new session, so that only the supervisor receives Ctrl-C; it terminates the workers.
    """
    try:
        own_end, worker_end = socket.socketpair()
        streams = await asyncio.open_connection(sock=own_end)
    except OSError as error:
        raise StartError(f"a worker cannot be started: {error.strerror}") from error
    heartbeat_seconds = watchdog_seconds / MISSED_HEARTBEATS
    with worker_end:
        channel = pack(slot, listeners, worker_end, heartbeat_seconds=heartbeat_seconds, siblings=siblings)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *sys.orig_argv[1:],
                stdin=asyncio.subprocess.DEVNULL,
                env=dict(environment) | channel.environment,
                pass_fds=channel.descriptors,
                start_new_session=True,
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: a thread cannot be started
            streams[1].close()
            raise StartError(f"a worker cannot be started: {getattr(error, 'strerror', None) or error}") from error
    return Worker(slot, process, streams, heartbeat_seconds)


def _signal_name(number: int) -> str:
    return next((each.name for each in signal.Signals if each == number), str(number))


def _describe_exit(exit_status: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in exit_status.items())
