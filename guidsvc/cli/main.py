"""Entry point of the command line: dispatch to a command; `serve` is the default.

Modules that need third-party packages are imported inside functions, so that a missing package is reported in one line.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

from guidsvc import __version__
from guidsvc.cli.program import SCRIPT, program


def _backup(words: Sequence[str]) -> None:
    from guidsvc.cli import backup

    backup.run(words)


def _keys(words: Sequence[str]) -> None:
    from guidsvc.cli import keys
    from guidsvc.runtime.clock import system_clock

    keys.run(words, clock=system_clock)


def _healthcheck(words: Sequence[str]) -> None:
    from guidsvc.cli import healthcheck

    healthcheck.run(words)


def serve(words: Sequence[str]) -> None:
    """Read the settings and serve; a worker reports a failed start to its supervisor."""
    from guidsvc import config
    from guidsvc.bootstrap import run
    from guidsvc.errors import StartError
    from guidsvc.monitoring import log_config, standard_streams
    from guidsvc.process.worker_channel import WorkerChannel

    channel = WorkerChannel.inherited()
    try:
        settings = config.load(words, program=program())
        with standard_streams.buffered():
            worker = None if channel is None else channel.slot
            log_config.configure(settings.log_level, settings.log_format, worker=worker)
            run.run(settings, channel)
    except StartError as error:
        if channel is None:
            raise
        channel.report_failed(str(error))
        sys.exit(1)


COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "serve": serve,
    "backup": _backup,
    "keys": _keys,
    "healthcheck": _healthcheck,
}
"""Commands by name; each receives the remaining arguments and imports only the modules that it needs."""


def main() -> None:
    """Run a command, or serve; exit with a one-line message if a package is not installed."""
    try:
        _run_command()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "guidsvc"} or package in sys.stdlib_module_names:
            raise
        sys.exit(f"{program()}: the package {package} is not installed for {sys.executable}: {_remedy()}")


def _remedy() -> str:
    if program() != SCRIPT:
        return "run `python -m pip install guidsvc`"
    return "run `make install` and then `.venv/bin/python pdapt.py`, or `python -m pip install -r requirements.txt`"


def _run_command() -> None:
    """Run a command, or serve; on StartError, exit with a one-line message."""
    from guidsvc.errors import StartError
    from guidsvc.monitoring import standard_streams

    standard_streams.open_missing()
    try:
        _dispatch(sys.argv[1:])
    except StartError as error:
        with standard_streams.buffered():  # a pipe without a reader must not block the exit
            print(f"{program()}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # a second Ctrl-C: exit without waiting for requests in flight
        sys.exit(130)


def _dispatch(words: Sequence[str]) -> None:
    from guidsvc.errors import StartError

    first = words[0] if words else ""
    if first == "--version":
        print(f"guidsvc {__version__}")
    elif first in COMMANDS:
        COMMANDS[first](words[1:])
    elif first and not first.startswith("-"):
        raise StartError(
            f"{first!r} is no command: use {', '.join(COMMANDS)}; or flags alone, to start the service (--help)"
        )
    else:
        serve(words)
