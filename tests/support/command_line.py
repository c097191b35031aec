"""Run commands over HTTP in this process like `guidsvc ARGUMENTS`, with their output and exit code."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.testing import CliRunner

from guidsvc.cli.commands import COMMANDS, REMOTE
from guidsvc.cli.exit_codes import USAGE
from guidsvc.cli.parsing import program
from guidsvc.cli.parsing.usage_errors import usage_report
from guidsvc.cli.start_failure import exit_code, report_text
from guidsvc.errors import StartError
from tests.support.forked_program import ForkedProgram

REMOTE_COMMANDS = [name for name, place in COMMANDS.items() if place.startswith(REMOTE)]
_VARIABLES = ("GUIDSVC_URL", "GUIDSVC_KEY", "GUIDSVC_KEY_FILE", "GUIDSVC_PROFILE", "VISUAL", "EDITOR")


class CommandResult(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The only JSON document that it printed."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The JSON documents that it printed, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


class StartedCommand(NamedTuple):
    """A command that runs as a process of its own, and the files with its output."""

    process: ForkedProgram
    out: Path
    err: Path


class CommandLine:
    """Runs commands against one service, with the files of the user in one folder."""

    def __init__(self, folder: Path, url: str = "", **variables: str) -> None:
        self.folder = folder
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state")}
        self.variables = home | ({"GUIDSVC_URL": url} if url else {}) | variables

    def __call__(self, *words: str, stdin: bytes | str = b"", **variables: str) -> CommandResult:
        """Run a command to its end."""
        environment: dict[str, str | None] = {**dict.fromkeys(_VARIABLES), **self.variables, **variables}
        with CliRunner().isolation(input=stdin, env=environment) as (out, err, _):
            code = _code(words)
            sys.stderr.flush()
            return CommandResult(code, out.getvalue().decode(), err.getvalue().decode())

    def ok(self, *words: str, stdin: bytes | str = b"", **variables: str) -> CommandResult:
        """Run a command that must succeed."""
        result = self(*words, stdin=stdin, **variables)
        assert result.code == 0, (words, result)
        return result

    def start(self, *words: str) -> StartedCommand:
        """Start a command as a process of its own, which writes to new files in the folder."""
        out, err = (self.folder / f"{words[0]}.{stream}" for stream in ("out", "err"))
        for path in (out, err):
            path.unlink(missing_ok=True)
        environment = os.environ | self.variables
        return StartedCommand(ForkedProgram(words, cwd=self.folder, env=environment, stdout=out, stderr=err), out, err)


def profile(line: CommandLine, text: str, mode: int = 0o600) -> Path:
    """Write the file of profiles."""
    path = Path(line.variables["XDG_CONFIG_HOME"], "guidsvc", "config.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def _code(words: tuple[str, ...]) -> int:
    """Run a command as `program.run` does, with all output in the streams of Python."""
    try:
        code = program.root.main(list(words), "guidsvc", standalone_mode=False)
    except click.UsageError as error:
        print(usage_report(error, words), file=sys.stderr)
        return USAGE
    except StartError as error:
        print(report_text(error, words), file=sys.stderr)
        return exit_code(error)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return code if isinstance(code, int) else 0
