"""The post of a worker: what its supervisor has handed it, and the line between the two.

Over the line a worker says that it serves, or why it cannot. When the line breaks its supervisor is dead, and the
worker ends. How a supervisor sees a worker is `guidsvc.process.worker`; neither knows what is served.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from socket import socket
from threading import Thread
from typing import Any

VARIABLE = "_GUIDSVC_WORKER"
"""The environment variable in which a worker finds its post. It is no setting: nobody else is to set it."""

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder where several processes put their metrics together: a name of prometheus_client's."""

MARGIN_SECONDS = 4.0
"""So long beyond the grace may a worker take to hang up and to close what it has opened; then it is killed."""


@dataclass(frozen=True)
class WorkerChannel:
    """A slot, numbered from 1; the descriptors of the sockets that are listened on; that of the line."""

    slot: int
    listeners: tuple[int, ...]
    line: int

    @classmethod
    def inherited(cls) -> "WorkerChannel | None":
        """Return the post of this process, or None if no supervisor has started it."""
        packed = os.environ.get(VARIABLE)
        if packed is None:
            return None
        post = cls(**json.loads(packed))
        os.set_inheritable(post.line, False)
        return post

    @property
    def environment(self) -> dict[str, str]:
        """What tells a process of it."""
        return {VARIABLE: json.dumps(asdict(self))}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What it has to inherit."""
        return (*self.listeners, self.line)

    def report_ready(self) -> None:
        """Tell the supervisor that this process serves."""
        self._tell({"ready": True})

    def report_failed(self, why: str) -> None:
        """Tell the supervisor why this process cannot serve."""
        self._tell({"failed": why})

    def watch_supervisor(self, lost: Callable[[], None], seconds: float) -> None:
        """Have this called when the supervisor is dead, in another thread; end the process so many seconds later.

        A thread does so even where the event loop is stuck: nobody else is left to end this process then.
        """
        Thread(target=self._watch, args=(lost, seconds), name="supervisor-watch", daemon=True).start()

    def _watch(self, lost: Callable[[], None], seconds: float) -> None:
        while True:
            try:
                if not os.read(self.line, 1):
                    break
            except ConnectionError:
                break
        lost()
        time.sleep(seconds)
        os._exit(os.EX_SOFTWARE)

    def _tell(self, what: dict[str, Any]) -> None:
        try:
            os.write(self.line, json.dumps(what).encode() + b"\n")
        except OSError:  # the supervisor is dead, which `watch` finds out
            return


def pack(slot: int, listeners: list[socket], line: socket) -> WorkerChannel:
    """Make the post of a worker."""
    return WorkerChannel(slot, tuple(each.fileno() for each in listeners), line.fileno())
