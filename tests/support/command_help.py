"""The part of docs/command-line.md that the help of the commands makes up.

`python -m tests.support.command_help` writes it anew.
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
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    with patch.object(sys, "argv", [COMMAND]):
        return f"{before}{BEGIN}\n{''.join(_table())}\n{''.join(_sections())}{END}{after}"


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
    """Yield the help of a command, and of those below it."""
    context = command.context_class(
        command, info_name=command.name, parent=parent, terminal_width=COLUMNS, max_content_width=COLUMNS
    )
    yield f"```text\n{command.get_help(context).strip()}\n```\n\n"
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _texts(each, context)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
