"""Forks SecantusDB's server from a process that has already imported it and opened WiredTiger.

A start of its own takes a second of CPU: the imports, and a loop in which WiredTiger measures the clock, once per
process. `python -m tests.support.mongo_fork_server` reads a line of JSON for each server: its arguments, its folder and
its log. It writes a line with the process id.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from secantus.storage import Storage

from tests.support import mongo_protocol


def main() -> None:
    """Fork a server for each line of standard input; at its end, kill those that still run."""
    os.setpgrp()
    with TemporaryDirectory() as folder:
        Storage(folder).close()
    signal.signal(signal.SIGCHLD, _reap)
    while line := sys.stdin.readline():
        arguments, folder, log = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_server(arguments, Path(folder), Path(log))
        print(pid, flush=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _reap(*_: object) -> None:
    """Remove processes that have ended, so that none remains as a zombie."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become_server(arguments: Sequence[str], folder: Path, log: Path) -> None:
    """Run the server to its end in the forked process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    _redirect(Path(os.devnull), os.O_RDONLY, 0)
    for descriptor in (1, 2):
        _redirect(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, descriptor)
    sys.argv = ["secantus", *arguments]
    mongo_protocol.run()


def _redirect(path: Path, flags: int, descriptor: int) -> None:
    source = os.open(path, flags, 0o600)
    os.dup2(source, descriptor)
    os.close(source)


if __name__ == "__main__":
    main()
