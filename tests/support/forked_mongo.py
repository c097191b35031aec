"""SecantusDB's server as a process of its own, forked by `tests.support.mongo_fork_server`."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


class ForkedMongo:
    """A running server; used like a `subprocess.Popen`. Its exit code is not known."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, stdout: Path) -> None:
        fork_server = _fork_server()
        assert fork_server.stdin is not None
        assert fork_server.stdout is not None
        fork_server.stdin.write(json.dumps([arguments, str(cwd), str(stdout)]) + "\n")
        fork_server.stdin.flush()
        self.pid = int(fork_server.stdout.readline())
        self._descriptor = os.pidfd_open(self.pid)
        weakref.finalize(self, os.close, self._descriptor)
        self._end = select.poll()
        self._end.register(self._descriptor, select.POLLIN)

    def poll(self) -> int | None:
        """Return None while the server runs, else 0."""
        return 0 if self._end.poll(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raise TimeoutExpired after `timeout` seconds."""
        if not self._end.poll(None if timeout is None else timeout * 1000):
            raise subprocess.TimeoutExpired("secantus", timeout or 0.0)
        return 0

    def send_signal(self, number: int) -> None:
        """Send a signal, if the server still runs."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


@cache
def _fork_server() -> "subprocess.Popen[str]":
    """Start the process that forks servers, once; it ends with this process."""
    command = [sys.executable, "-m", "tests.support.mongo_fork_server"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process
