"""docs/command-line.md matches the help of the commands."""

import re

from guidsvc.cli.commands import COMMANDS
from guidsvc.doctor.examination import GROUPS
from tests.support.command_help import PAGE, page


def test_page_has_the_help_of_every_command() -> None:
    """`python -m tests.support.command_help` updates it."""
    text = PAGE.read_text()

    assert text == page(text)
    assert re.findall(r"^### guidsvc (\w+)$", text, re.MULTILINE) == [*COMMANDS]
    assert text.count("\nusage: guidsvc ") >= len(COMMANDS)


def test_page_lists_the_groups_of_the_doctor() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ", PAGE.read_text().partition("## Sample data")[0], re.MULTILINE)

    assert sorted(rows) == sorted(GROUPS)
