"""Run guidsvc: `python pdapt.py`, `python pdapt.py --help`; or one of its commands: `python pdapt.py keys --help`.

Everything that needs packages is imported inside functions, so that a missing package is reported in one line.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

from guidsvc import __version__


def _backup(words: Sequence[str]) -> None:
    from guidsvc.cli import backup as backup_command

    backup_command.run(words)


def _keys(words: Sequence[str]) -> None:
    from guidsvc.cli import keys as keys_command
    from guidsvc.runtime import clock

    keys_command.run(words, clock=clock.system_clock)


def _healthcheck(words: Sequence[str]) -> None:
    from guidsvc.cli import healthcheck as healthcheck_command

    healthcheck_command.run(words)


COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "backup": _backup,
    "keys": _keys,
    "healthcheck": _healthcheck,
}
"""What to run for each first word, with the words after it. A command imports only what it needs."""


def main() -> None:
    """Run a command, or serve; exit with one line if a package is not installed."""
    try:
        run_command()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "guidsvc"} or package in sys.stdlib_module_names:
            raise
        sys.exit(
            f"pdapt.py: the package {package} is not installed for {sys.executable}: run `make install` and then "
            "`.venv/bin/python pdapt.py`, or `python -m pip install -r requirements.txt`"
        )


def run_command() -> None:
    """Run a command, or serve; exit with one line if that cannot be."""
    from guidsvc.errors import StartError
    from guidsvc.monitoring import standard_streams

    standard_streams.open_missing()
    try:
        first = sys.argv[1] if len(sys.argv) > 1 else ""
        if first == "--version":
            print(f"guidsvc {__version__}")
        elif first in COMMANDS:
            COMMANDS[first](sys.argv[2:])
        elif first and not first.startswith("-"):
            raise StartError(
                f"{first!r} is no command: use {', '.join(COMMANDS)}; or flags alone, to start the service (--help)"
            )
        else:
            serve()
    except StartError as error:
        with standard_streams.buffered():  # a pipe that nobody reads must not keep the process
            print(f"pdapt.py: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # a second Ctrl-C, for those who do not want to wait for the requests under way
        sys.exit(130)


def serve() -> None:
    """Read the settings and serve; a worker tells its supervisor why it cannot."""
    from guidsvc import config
    from guidsvc.bootstrap import run
    from guidsvc.errors import StartError
    from guidsvc.monitoring import log_config as logs
    from guidsvc.monitoring import standard_streams
    from guidsvc.process.worker_channel import WorkerChannel

    post = WorkerChannel.inherited()
    try:
        settings = config.load()
        with standard_streams.buffered():
            logs.configure(settings.log_level, settings.log_format, worker=None if post is None else post.slot)
            run.run(settings, post)
    except StartError as error:
        if post is None:
            raise
        post.report_failed(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
