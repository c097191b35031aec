"""The program: a group that imports a command only when it is used."""

import sys
from collections.abc import Sequence
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from guidsvc.cli.commands import COMMANDS, COMPLETION_VARIABLE, SERVE, SUMMARIES
from guidsvc.cli.exit_codes import USAGE
from guidsvc.cli.parsing.command import Group, SettingsCommand
from guidsvc.cli.parsing.usage_errors import usage_report
from guidsvc.cli.start_failure import exit_with
from guidsvc.errors import StartError
from guidsvc.program import program


class _Program(Group):
    """The commands of the table, and `serve`, which Click only completes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # Click's signature
        """Return the names of the commands."""
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # Click's signature
        """Import a command and return it, or None if there is none of this name."""
        if cmd_name == SERVE:
            return SettingsCommand(SERVE, help=SUMMARIES[SERVE])
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of the commands, without an import of any; and the flags of `serve`."""
        if incomplete.startswith("-"):
            return SettingsCommand(SERVE).shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=text) for name, text in SUMMARIES.items() if name.startswith(incomplete)]


def load_command(name: str) -> click.Command:
    """Import a command of the table and return it."""
    module, _, attribute = COMMANDS[name].partition(":")
    command = getattr(import_module(module), attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{COMMANDS[name]} is no command, but {command!r}")
    return command


root = _Program(program())
"""The group of all commands."""


def run(words: Sequence[str]) -> None:
    """Run the command that the first word names. Exit with the integer that it returns, or with 2 on usage errors.

    Raise StartError if the command does.
    """
    try:
        code = root.main(list(words), program(), COMPLETION_VARIABLE, standalone_mode=False)
    except click.UsageError as error:
        exit_with(usage_report(error, words), USAGE)
    except click.ClickException as error:
        raise StartError(error.format_message()) from error
    except click.Abort as error:
        raise KeyboardInterrupt from error
    if isinstance(code, int) and code:
        sys.exit(code)
