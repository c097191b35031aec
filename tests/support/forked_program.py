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
from contextlib import ExitStack
from multiprocessing.forkserver import set_forkserver_preload
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Self

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
    "tests.support.forked_flag_parser",
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
        with ExitStack() as opened:
            streams = [_opened(opened, Path(os.devnull), os.O_RDONLY)]
            streams += [
                _opened(opened, path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for path in (stdout, stderr or stdout)
            ]
            self._start([str(program), *arguments], cwd, env, streams)

    @classmethod
    def on_streams(
        cls, arguments: Sequence[str], folder: int, env: Mapping[str, str], streams: Sequence[int | None]
    ) -> Self:
        """Run the program in the folder of a descriptor, with these descriptors as standard streams; None is closed."""
        process = cls.__new__(cls)
        process._start([str(PROGRAM), *arguments], _Inherited(folder), env, streams)
        return process

    def _start(
        self,
        command: Sequence[str],
        folder: "Path | _Inherited",
        env: Mapping[str, str],
        streams: Sequence[int | None],
    ) -> None:
        set_forkserver_preload(_PRELOADED)
        inherited = [None if each is None else _Inherited(each) for each in streams]
        self._process = _fork_server.Process(target=_run, args=(list(command), folder, dict(env), inherited))
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


class _Inherited:
    """A descriptor that is passed to the forked process, where it is a number."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._descriptor),)


def _received(descriptor: Any) -> int:
    return int(descriptor.detach())


def _opened(opened: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags, 0o666)
    opened.callback(os.close, descriptor)
    return descriptor


def _run(command: list[str], folder: Path | int, environment: dict[str, str], streams: list[int | None]) -> None:
    """Become `python COMMAND`, in the forked process."""
    from guidsvc.cli.main import main

    gc.freeze()  # a collection would copy the memory that is shared with the other processes
    os.chdir(folder)
    if isinstance(folder, int):
        os.close(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or in the background of a shell, which ignores it
    _redirect(streams)
    sys.argv = command
    sys.orig_argv = [sys.executable, *command]
    forked_workers.install(main)
    if command[0] == str(PROGRAM):
        main()
    else:
        runpy.run_path(command[0], run_name="__main__")


def _redirect(streams: Sequence[int | None]) -> None:
    """Replace the standard streams, and close the descriptors that were received."""
    for number, descriptor in enumerate(streams):
        if descriptor is None:
            os.close(number)
        else:
            os.dup2(descriptor, number)
            os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False) if streams[0] is not None else None
    sys.stdout = os.fdopen(1, "w", closefd=False) if streams[1] is not None else None
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False) if streams[2] is not None else None
