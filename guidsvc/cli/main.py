"""Entry point of the command line: serve, or run the command that the first word names.

Modules that need third-party packages are imported inside functions, so that a missing package is reported in one line.
"""

import gc
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from guidsvc import __version__, similarity
from guidsvc.cli.commands import COMMANDS, COMPLETION_VARIABLE, EXTRA, HELP, REMOTE, SERVE, SUMMARIES
from guidsvc.program import SCRIPT, install_command, program

_FAILED, _INTERRUPTED = 1, 130
"""Exit codes."""
_GC_THRESHOLDS = 50_000, 20, 100
"""Of the garbage collector. By default it would examine all imported modules many times: a twentieth of the start."""


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
        if channel is not None:
            channel.require_settings(settings.fingerprint)
        with standard_streams.buffered():
            worker = None if channel is None else channel.slot
            log_config.configure(settings.log_level, settings.log_format, worker=worker)
            if channel is None:
                warn_of_settings(settings, words)
            run.run(settings, channel, spell=partial(_spell, words))
    except StartError as error:
        if channel is not None:
            channel.report_failed(_spell(words, str(error)), type(error))
            sys.exit(_FAILED)
        raise


def _spell(words: Sequence[str], message: str) -> str:
    """Return a message with the settings as the user has written them: a flag, or a line of `.env`."""
    from guidsvc.cli.setting_sources import setting_sources

    return setting_sources(words).spell(message)


def main() -> None:
    """Run a command, or serve; exit with a one-line message if a package is not installed."""
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        _run_command()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "guidsvc"} or package in sys.stdlib_module_names:
            raise
        sys.exit(_missing_package(package, sys.argv[1:2]))


def _missing_package(package: str, words: Sequence[str]) -> str:
    """Return which package to install. The commands over HTTP need an extra, which a service does not."""
    if words and (package in EXTRA or COMMANDS.get(words[0], "").startswith(REMOTE)):
        is_script = program() == SCRIPT
        packages = ["-r", "requirements.txt"] if is_script else ["./guidsvc_client", ".[cli]"]
        return f"{program(words[0])}: the package {package} is not installed; {install_command(*packages)}"
    return f"{program()}: the package {package} is not installed for {sys.executable}: {_remedy()}"


def _remedy() -> str:
    if program() != SCRIPT:
        return install_command(".")
    return "run `make install` and then `.venv/bin/python pdapt.py`, or `python -m pip install -r requirements.txt`"


def _run_command() -> None:
    """Run a command, or serve; on StartError, exit with a line for each fault."""
    from guidsvc.errors import StartError
    from guidsvc.monitoring.logs import standard_streams

    standard_streams.open_missing()
    try:
        _dispatch(sys.argv[1:])
    except StartError as error:
        from guidsvc.cli.start_failure import exit_code, exit_with, report_text

        exit_with(report_text(error, sys.argv[1:]), exit_code(error))
    except KeyboardInterrupt:  # a second Ctrl-C: exit without waiting for requests in flight
        sys.exit(_INTERRUPTED)


def _print_version() -> None:
    from guidsvc.cli import output

    output.write(f"guidsvc {__version__}\n")


def _dispatch(words: Sequence[str]) -> None:
    first = words[0] if words else ""
    if os.environ.get(COMPLETION_VARIABLE):
        _run_click(words)
    elif first == "--version":
        _print_version()
    elif first == SERVE:
        serve(words[1:])
    elif first == HELP:
        _help(words[1:])
    elif first in COMMANDS:
        _run_click(words)
    elif first and not first.startswith("-"):
        _refuse_unknown(first)
    else:
        serve(words)


def _run_click(words: Sequence[str]) -> None:
    from guidsvc.cli.parsing import program as click_program

    click_program.run(words)


def _help(words: Sequence[str]) -> None:
    """Print the help of the named command, or of the program."""
    _dispatch([*words, "--help"])


def _refuse_unknown(word: str) -> NoReturn:
    from guidsvc.connection_urls import redact
    from guidsvc.errors import UsageError

    near = similarity.nearest(word, SUMMARIES)
    hint = "" if near is None else f"; did you mean {near}?"
    raise UsageError([f"unknown command {redact(word)!r}; the commands are {', '.join(SUMMARIES)}{hint}"])
