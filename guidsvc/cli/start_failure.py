"""The report of a command that cannot start: a line for each fault, as text or, with `--log-format json`, as JSON."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NoReturn

from guidsvc.cli.commands import COMMANDS
from guidsvc.cli.exit_codes import FAILED, USAGE, CommandFailed
from guidsvc.errors import InvalidSettings, StartError
from guidsvc.monitoring.logs import standard_streams
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import program


def report_text(error: StartError, words: Sequence[str]) -> str:
    """Return the lines that report the error of a command with these arguments, in the spelling of the user.

    Commands are for people, and report in plain text; only `serve` follows the log format of the service.
    """
    from guidsvc.cli.setting_sources import setting_sources

    sources = setting_sources(words)
    faults = sources.spell(str(error)).split("\n")
    has_log = not words or words[0] not in COMMANDS
    form = _json if has_log and sources.text("log_format") == "json" else _plain
    return "\n".join(map(form, faults))


def exit_code(error: StartError) -> int:
    """Return the exit code of a command that failed with this error."""
    if isinstance(error, InvalidSettings):
        return USAGE
    return error.code if isinstance(error, CommandFailed) else FAILED


def exit_with(report: str, code: int) -> NoReturn:
    """Print a report to standard error and exit."""
    with standard_streams.buffered():  # a pipe without a reader must not block the exit
        print(report, file=sys.stderr)
    sys.exit(code)


def _plain(fault: str) -> str:
    return f"{program()}: {escape(fault)}"  # it may quote another server


def _json(fault: str) -> str:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"error": fault, "event": "start failed", "level": "error", "logger": __name__, "timestamp": now})
