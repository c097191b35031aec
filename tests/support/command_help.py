"""The part of docs/command-line.md with the help texts of the commands.

`python -m tests.support.command_help` updates it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import click

from guidsvc.cli.commands import COMMANDS, SUMMARIES
from guidsvc.cli.parsing.program import load_command, root
from guidsvc.program import COMMAND

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
BEGIN, END = "<!-- The help texts of the commands, by `python -m tests.support.command_help`. -->\n", "<!-- end -->\n"
COLUMNS = 100


def page(text: str) -> str:
    """Return the page with the help texts in place."""
    text_before, _, remainder = text.partition(BEGIN)
    _, _, text_after = remainder.partition(END)
    with patch.object(sys, "argv", [COMMAND]):
        return f"{text_before}{BEGIN}\n{''.join(_table())}\n{''.join(_sections())}{END}{text_after}"


def _table() -> Iterator[str]:
    yield "| command | what it does |\n|---|---|\n"
    for name, summary in SUMMARIES.items():
        link = f"[`{name}`](#guidsvc-{name})" if name in COMMANDS else f"`{name}`"
        yield f"| {link} | {summary} |\n"


def _sections() -> Iterator[str]:
    for name in COMMANDS:
        yield f"### guidsvc {name}\n\n"
        yield from _texts(load_command(name), click.Context(root, info_name=COMMAND))


def _texts(command: click.Command, parent: click.Context) -> Iterator[str]:
    """Yield the help of a command and of its subcommands."""
    context = command.context_class(
        command, info_name=command.name, parent=parent, terminal_width=COLUMNS, max_content_width=COLUMNS
    )
    yield f"```text\n{command.get_help(context).strip()}\n```\n\n"
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from _texts(subcommand, context)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
