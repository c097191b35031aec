"""`--help` of every command on a terminal of 80 columns."""

import re
import sys
from collections.abc import Iterator

import click
import pytest

from guidsvc.cli.commands import COMMANDS, SUMMARIES
from guidsvc.cli.parsing.program import load_command, root
from guidsvc.cli.settings_help import settings_help

COLUMNS = 80


def commands(command: click.Command, parent: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command with its context, and those below it."""
    context = command.context_class(command, info_name=command.name, parent=parent, terminal_width=COLUMNS)
    yield command, context
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from commands(each, context)


@pytest.mark.parametrize("name", [*COMMANDS])
@pytest.mark.parametrize("program", ["guidsvc", "pdapt.py"])
def test_help_fits_a_terminal_but_for_examples(monkeypatch: pytest.MonkeyPatch, name: str, program: str) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    for command, context in commands(load_command(name), click.Context(root, info_name=program)):
        text, _, examples = command.get_help(context).partition("\nexamples:\n")
        assert [line for line in text.splitlines() if len(line) > COLUMNS] == []
        programs = re.findall(r"^  (?:\S*python )?(\S+)|[|&] (?:\S*python )?(guidsvc|pdapt.py)", examples, re.MULTILINE)
        assert {each for pair in programs for each in pair if each} <= {program}, "also after a pipe"


def test_help_of_the_program_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    text = settings_help().partition("\nexamples:\n")[0]

    assert [line for line in text.splitlines() if len(line) > COLUMNS] == []
    assert all(len(f"  {name:20}  {summary}") <= COLUMNS for name, summary in SUMMARIES.items())


def test_column_of_descriptions_stays_one_when_it_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["guidsvc"])
    ((command, context),) = commands(load_command("healthcheck"), click.Context(root, info_name="guidsvc"))
    lines = command.get_help(context).splitlines()
    (row,) = [number for number, line in enumerate(lines) if line.startswith("  --unix-socket PATH")]

    begin = lines[row].index("Unix socket")
    assert lines[row + 1].startswith(" " * begin)
    assert lines[row + 1].strip()


def test_command_without_a_form_of_its_data_does_not_offer_one() -> None:
    offers = {
        name: "--output" in command.get_help(context)
        for name in COMMANDS
        for command, context in commands(load_command(name), click.Context(root, info_name="guidsvc"))
    }

    assert {name: offers[name] for name in ("export", "rm", "ls", "get", "import")} == {
        "export": False,
        "rm": False,
        "ls": True,
        "get": True,
        "import": True,
    }
