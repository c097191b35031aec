"""Worker side of the supervisor channel: inherited listening sockets and the status socket.

Over the status socket, a worker reports that it is ready or why it failed, and then, if the supervisor asks for
heartbeats, that its event loop runs. When the socket closes, the supervisor is dead, and the worker ends.
`guidsvc.process.worker` is the supervisor side. Neither knows the application.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from socket import MSG_DONTWAIT, socket
from threading import Thread
from typing import Any

from guidsvc.errors import SettingsChanged, StartError, StoreInUse

VARIABLE = "_GUIDSVC_WORKER"
"""The environment variable that passes the channel to a worker. Only the supervisor may set it; it is not a setting."""

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable of prometheus_client that names the folder in which processes share metrics."""

MARGIN_SECONDS = 4.0
"""Seconds beyond the grace period that a worker may take to close its connections and resources before it is killed."""

OTHER_SETTINGS = (
    "the settings have changed since the other workers started: apply them in all workers with SIGHUP or a restart, or "
    "undo the change"
)

_KINDS: dict[str, type[StartError]] = {each.__name__: each for each in (SettingsChanged, StoreInUse)}
"""The errors that the supervisor distinguishes."""


@dataclass(frozen=True)
class Siblings:
    """What a worker must know of the other workers.

    `settings` is the fingerprint of their settings; empty if any settings will do. `store` is the fingerprint of the
    store that workers have used last; empty if none has served yet. `are_serving` tells whether some serve now.
    """

    settings: str = ""
    store: str = ""
    are_serving: bool = False


@dataclass(frozen=True)
class WorkerChannel:
    """A slot number, from 1; the descriptors of the listening sockets; the descriptor of the status socket.

    `heartbeat_seconds` is the interval between heartbeats; 0 means none. The other fields are those of `Siblings`.
    After an upgrade in place, the supervisor may be an older one: a field that it does not know has a default.
    """

    slot: int
    listeners: tuple[int, ...]
    line: int
    heartbeat_seconds: float = 0.0
    settings: str = ""
    store: str = ""
    are_serving: bool = False

    @classmethod
    def inherited(cls) -> "WorkerChannel | None":
        """Return the channel of this process, or None if no supervisor started it."""
        packed = os.environ.get(VARIABLE)
        if packed is None:
            return None
        channel = cls(**json.loads(packed))  # noqa: TID251  # the text of this program
        os.set_inheritable(channel.line, False)
        return channel

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that pass the channel to the child process."""
        return {VARIABLE: json.dumps(asdict(self))}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Descriptors that the child process must inherit."""
        return (*self.listeners, self.line)

    def require_settings(self, fingerprint: str) -> None:
        """Raise SettingsChanged if the settings of this process are not those of the other workers.

        They come from files that may have been edited since: workers would use different stores, or let others in.
        """
        if self.settings and self.settings != fingerprint:
            raise SettingsChanged(OTHER_SETTINGS)

    def is_store_of_siblings(self, fingerprint: str) -> bool:
        """Return whether other workers serve with the store that has this fingerprint."""
        return self.are_serving and self.was_used(fingerprint)

    def was_used(self, store: str) -> bool:
        """Return whether the store with this fingerprint is the one that workers have used last."""
        return self.store == store

    def report_ready(self, settings: str, store: str) -> None:
        """Report to the supervisor that this process serves, and the fingerprints of its settings and its store."""
        self._send({"ready": True, "settings": settings, "store": store})

    def report_failed(self, why: str, kind: type[StartError]) -> None:
        """Report to the supervisor why this process cannot serve, in the words for its log, and the kind of error."""
        self._send({"failed": why, "kind": kind.__name__})

    def send_heartbeats(self) -> None:
        """Report to the supervisor, now and periodically, that the event loop runs; do nothing if it asks for none."""
        if not self.heartbeat_seconds:
            return
        with suppress(OSError), socket(fileno=os.dup(self.line)) as connection:  # a heartbeat may be missed
            connection.send(b'{"alive": true}\n', MSG_DONTWAIT)  # if the supervisor hangs, the service must not
        asyncio.get_running_loop().call_later(self.heartbeat_seconds, self.send_heartbeats)

    def watch_supervisor(self, on_exit: Callable[[], None], seconds: float) -> None:
        """Call `on_exit` from another thread when the supervisor has died, and exit the process `seconds` later.

        A thread works even if the event loop is stuck, when nothing else would end this process.
        """
        Thread(
            target=self._await_supervisor_exit, args=(on_exit, seconds), name="supervisor-watch", daemon=True
        ).start()

    def _await_supervisor_exit(self, on_exit: Callable[[], None], seconds: float) -> None:
        while True:
            try:
                if not os.read(self.line, 1):
                    break
            except ConnectionError:
                break
        on_exit()
        time.sleep(seconds)
        os._exit(os.EX_SOFTWARE)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            os.write(self.line, json.dumps(message).encode() + b"\n")
        except OSError:  # the supervisor is dead, which `watch_supervisor` detects
            return


def reported_error(status: Mapping[str, str]) -> StartError:
    """Return the error that a worker has reported."""
    return _KINDS.get(status["kind"], StartError)(status["failed"])


def pack(
    slot: int, listeners: list[socket], line: socket, *, heartbeat_seconds: float, siblings: Siblings
) -> WorkerChannel:
    """Return the channel of a worker."""
    descriptors = tuple(each.fileno() for each in listeners)
    return WorkerChannel(slot, descriptors, line.fileno(), heartbeat_seconds, **asdict(siblings))
