"""Entry point of the command line: dispatch to a command; `serve` is the default.

Modules that need third-party packages are imported inside functions, so that a missing package is reported in one line.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from guidsvc import __version__, similarity
from guidsvc.program import SCRIPT, program

_FAILED, _INTERRUPTED = 1, 130
"""Exit codes."""


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
    """Serve, or print the help. A worker reports a failed start to its supervisor."""
    if {"-h", "--help"} & set(words):
        from guidsvc.cli import output
        from guidsvc.cli.settings_help import settings_help

        output.write(settings_help())
    elif "--version" in words:
        _print_version()
    else:
        _serve(words)


def _serve(words: Sequence[str]) -> None:
    from guidsvc.bootstrap import run, validation
    from guidsvc.cli.setting_warnings import warn_of_settings
    from guidsvc.errors import StartError
    from guidsvc.monitoring.logs import log_config, standard_streams
    from guidsvc.process.worker_channel import WorkerChannel

    channel = WorkerChannel.inherited()
    try:
        settings = validation.load(words)
        with standard_streams.buffered():
            worker = None if channel is None else channel.slot
            log_config.configure(settings.log_level, settings.log_format, worker=worker)
            if channel is None:
                warn_of_settings(settings, words)
            run.run(settings, channel)
    except StartError as error:
        if channel is not None:
            channel.report_failed(str(error))
            sys.exit(_FAILED)
        raise


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
    """Run a command, or serve; on StartError, exit with a line for each fault."""
    from guidsvc.errors import StartError
    from guidsvc.monitoring.logs import standard_streams

    standard_streams.open_missing()
    try:
        _dispatch(sys.argv[1:])
    except StartError as error:
        from guidsvc.cli.start_failure import exit_code, report_text

        _fail(report_text(error, sys.argv[1:]), exit_code(error))
    except KeyboardInterrupt:  # a second Ctrl-C: exit without waiting for requests in flight
        sys.exit(_INTERRUPTED)


def _fail(report: str, code: int) -> NoReturn:
    """Print a report to standard error and exit."""
    from guidsvc.monitoring.logs import standard_streams

    with standard_streams.buffered():  # a pipe without a reader must not block the exit
        print(report, file=sys.stderr)
    sys.exit(code)


def _print_version() -> None:
    from guidsvc.cli import output

    output.write(f"guidsvc {__version__}\n")


def _dispatch(words: Sequence[str]) -> None:
    first = words[0] if words else ""
    if first == "--version":
        _print_version()
    elif first in COMMANDS:
        COMMANDS[first](words[1:])
    elif first and not first.startswith("-"):
        from guidsvc.config import UsageError
        from guidsvc.connection_urls import redact

        near = similarity.nearest(first, COMMANDS)
        hint = "" if near is None else f"; did you mean {near}?"
        raise UsageError([f"unknown command {redact(first)!r}; the commands are {', '.join(COMMANDS)}{hint}"])
    else:
        serve(words)
