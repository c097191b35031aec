"""The report of a command that cannot start: a line for each fault, as text or, with `--log-format json`, as JSON."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from guidsvc.cli.setting_sources import setting_sources
from guidsvc.config import InvalidSettings
from guidsvc.errors import StartError
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import program

FAILED, WRONG_USAGE = 1, 2
"""Exit codes: the command failed; its flags or settings are invalid."""

_COMMANDS_WITHOUT_LOG = {"backup", "healthcheck", "keys"}
"""Commands for people, which report in plain text whatever the log format of the service is."""


def report_text(error: StartError, words: Sequence[str]) -> str:
    """Return the lines that report the error of a command with these arguments, in the spelling of the user."""
    sources = setting_sources(words)
    faults = sources.spell(str(error)).split("\n")
    has_log = not words or words[0] not in _COMMANDS_WITHOUT_LOG
    form = _json if has_log and sources.text("log_format") == "json" else _plain
    return "\n".join(map(form, faults))


def exit_code(error: StartError) -> int:
    """Return the exit code of a command that failed with this error."""
    return WRONG_USAGE if isinstance(error, InvalidSettings) else FAILED


def _plain(fault: str) -> str:
    return f"{program()}: {escape(fault)}"  # it may quote another server


def _json(fault: str) -> str:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"error": fault, "event": "start failed", "level": "error", "logger": __name__, "timestamp": now})
