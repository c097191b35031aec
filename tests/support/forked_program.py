"""`python pdapt.py` as a process of its own, forked from one that has already imported the service.

Starting Python and importing guidsvc costs 0.4 s of CPU, most of what a short test of a command takes. A fork costs a
tenth. The process is a real one: with its own standard streams, folder, environment, signals and exit code.

Which modules a program imports is the subject of `tests/system/test_start_imports.py`, which starts Python itself.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.forkserver import set_forkserver_preload
from pathlib import Path

from guidsvc.cli.commands import COMMANDS
from tests.support import forked_workers

PROGRAM = Path(__file__).parents[2] / "pdapt.py"
_PRELOADED = [
    "guidsvc.bootstrap.run",
    "guidsvc.bootstrap.validation",
    "guidsvc.cache.memory",
    "guidsvc.cache.redis.cache",
    "guidsvc.cli.parsing.program",
    "guidsvc.cli.parsing.usage_errors",
    "guidsvc.cli.setting_warnings",
    "guidsvc.cli.settings_help",
    "guidsvc.cli.start_failure",
    "guidsvc.monitoring.prometheus",
    "guidsvc.process.supervisor",
    "guidsvc.store.mongo.store",
    "guidsvc.store.sqlite.store",
    "uvloop",
    *(place.partition(":")[0] for place in COMMANDS.values()),
    *("anyio.streams.tls", "httpcore2"),  # which httpx2 imports for its first request
    __name__,
]
_fork_server = multiprocessing.get_context("forkserver")


class ForkedProgram:
    """A running `python pdapt.py`; used like a `subprocess.Popen`.

    `program` may be another one, which changes something and then calls `main` of guidsvc. What it imports is imported
    already, so it can replace attributes of modules only.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: Path,
        stderr: Path | None = None,
        program: Path = PROGRAM,
    ) -> None:
        set_forkserver_preload(_PRELOADED)
        for path in filter(None, (stdout, stderr)):
            path.touch()  # so that it can be read at once
        command = [str(program), *arguments]
        self._process = _fork_server.Process(target=_run, args=(command, cwd, dict(env), stdout, stderr))
        self._process.start()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negated signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code. Raise TimeoutExpired after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("pdapt.py", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(command: list[str], folder: Path, environment: dict[str, str], stdout: Path, stderr: Path | None) -> None:
    """Become `python COMMAND`, in the forked process."""
    from guidsvc.cli.main import main

    gc.freeze()  # a collection would copy the memory that is shared with the other processes
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or in the background of a shell, which ignores it
    _redirect(stdout, stderr)
    sys.argv = command
    sys.orig_argv = [sys.executable, *command]
    forked_workers.install(main)
    if command[0] == str(PROGRAM):
        main()
    else:
        runpy.run_path(command[0], run_name="__main__")


def _redirect(stdout: Path, stderr: Path | None) -> None:
    """Replace the standard streams: nothing to read, and two files to write to."""
    _open(Path(os.devnull), os.O_RDONLY, 0)
    _open(stdout, os.O_WRONLY | os.O_APPEND, 1)
    _open(stderr or stdout, os.O_WRONLY | os.O_APPEND, 2)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _open(path: Path, flags: int, descriptor: int) -> None:
    source = os.open(path, flags)
    os.dup2(source, descriptor)
    os.close(source)
