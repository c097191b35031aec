"""The table of the commands."""

import re

import click
import pytest

from guidsvc.cli.commands import COMMANDS, HELP, SERVE, SUMMARIES
from guidsvc.cli.parsing.program import load_command, root, run
from guidsvc.errors import StartError


@pytest.mark.parametrize("name", COMMANDS)
def test_table_leads_to_a_command_of_this_name(name: str) -> None:
    assert load_command(name).name == name


def test_every_command_has_a_summary_of_one_line() -> None:
    assert set(SUMMARIES) == {SERVE, HELP, *COMMANDS}
    for summary in SUMMARIES.values():
        assert re.fullmatch(r"[a-z][^\n]{10,75}[^.\n]", summary), summary


def test_entry_that_is_no_command_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "odd", "guidsvc.cli.commands:SUMMARIES")

    with pytest.raises(TypeError, match="is no command"):
        load_command("odd")


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (click.ClickException("no editor"), StartError),
        (click.Abort(), KeyboardInterrupt),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (StartError("no store"), StartError),
    ],
)
def test_command_that_fails_ends_like_a_start(
    ending: BaseException, expected: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ending

    monkeypatch.setattr(load_command("backup"), "callback", lambda **_: fail())
    with pytest.raises(expected):
        run(["backup", "target"])


@pytest.mark.parametrize(("result", "code"), [(3, 3), (0, None), (None, None), ("text", None)])
def test_integer_that_a_command_returns_is_its_exit_code(
    result: object, code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_command("backup"), "callback", lambda **_: result)
    try:
        run(["backup", "target"])
        ended = None
    except SystemExit as end:
        ended = end.code
    assert ended == code


def test_words_are_completed_without_an_import() -> None:
    completed = {each.value: each.help for each in root.shell_complete(click.Context(root), "")}

    assert completed == SUMMARIES
    assert [each.value for each in root.shell_complete(click.Context(root), "back")] == ["backup"]


def test_flags_of_the_service_are_completed() -> None:
    assert "--store-url" in {each.value for each in root.shell_complete(click.Context(root), "--st")}
