"""The workers of a forked supervisor, forked from it instead of started as `python pdapt.py` again.

A start of Python and its imports cost a worker 0.4 s of CPU, most of what a test with workers takes. Such a worker
is a child of the supervisor, in a session of its own, with its environment and with the descriptors that it inherits.

Tests about the start itself run the supervisor as `python pdapt.py`, which starts its workers likewise.
"""

import asyncio
import contextvars
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import structlog

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ForkedWorker:
    """A forked process; used like an `asyncio.subprocess.Process`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._descriptor = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_exit)

    async def wait(self) -> int:
        """Wait until the process has ended. Return its exit code, or the negated signal that ended it."""
        return await asyncio.shield(self._exit_code)

    def terminate(self) -> None:
        """Send SIGTERM. Raise ProcessLookupError if the process has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL. Raise ProcessLookupError if the process has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._exit_code.done():
            raise ProcessLookupError
        signal.pidfd_send_signal(self._descriptor, number)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        _, status = os.waitpid(self.pid, 0)
        self._exit_code.set_result(os.waitstatus_to_exitcode(status))


def install(main: Callable[[], None]) -> None:
    """Let the supervisor of this process fork its workers, each of which calls `main`."""

    async def fork(
        _: str, *arguments: str, stdin: int, env: Mapping[str, str], pass_fds: Sequence[int], start_new_session: bool
    ) -> ForkedWorker:
        assert stdin == asyncio.subprocess.DEVNULL
        assert start_new_session
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)  # until the child has no handler of the supervisor
        pid = os.fork()
        if pid == 0:
            _detach(env, pass_fds)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _run(main, arguments)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return ForkedWorker(pid)

    asyncio.create_subprocess_exec = fork  # type: ignore[assignment]


def _detach(environment: Mapping[str, str], inherited: Sequence[int]) -> None:
    """Give up what an executed program would not have: handlers of signals, variables and descriptors."""
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    kept = sorted({0, 1, 2, *inherited})
    for low, high in zip(kept, [*kept[1:], os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def _run(main: Callable[[], None], arguments: Sequence[str]) -> NoReturn:
    """Run the program, and exit without leaving this frame: those below it hold objects of the supervisor."""
    gc.freeze()
    _forget_log_configuration()
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = list(arguments)
    sys.orig_argv = [sys.executable, *arguments]
    try:
        contextvars.Context().run(main)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  # reported as Python does at the end of a program
        code = 1
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _forget_log_configuration() -> None:
    """Let the loggers of the modules be bound anew: those that the supervisor has used do not name a worker."""
    structlog.reset_defaults()
    for module in list(sys.modules.values()):
        logger = vars(module).get("_log")
        if isinstance(logger, structlog._config.BoundLoggerLazyProxy):
            vars(logger).pop("bind", None)
