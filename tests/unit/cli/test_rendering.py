"""The forms in which commands print records."""

import json
import os
import pty
import sys
from collections.abc import Callable, Iterator

import click
import pytest

from guidsvc.cli.parsing.command import Command
from guidsvc.cli.rendering import FORMS, ROWS_PER_PAGE, Form, Rendering, output_options

ROWS: list[dict[str, object]] = [
    {"name": "a", "state": "live", "tags": ["x", "y"]},
    {"name": "long\x1b[31m", "state": "expired", "note": None},
]


def test_table_is_aligned_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Rendering("table").rows(("name", "tags", "state"), ROWS)

    assert capsys.readouterr().out == (
        "name          tags  state\na             x,y   live\nlong\\x1b[31m        expired\n"
    )


def test_table_without_rows_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    Rendering("table").rows(("name", "state"), [])

    assert capsys.readouterr().out == "name  state\n"


def test_json_forms_hold_all_members(capsys: pytest.CaptureFixture[str]) -> None:
    readers: dict[Form, Callable[[str], object]] = {
        "json": json.loads,
        "lines": lambda text: list(map(json.loads, text.splitlines())),
    }
    for form, read in readers.items():
        for rows in ([], ROWS):
            Rendering(form).rows(("name",), rows)
            assert read(capsys.readouterr().out) == rows


def test_long_table_is_printed_in_pages() -> None:
    """The first rows are printed before the last is read, so memory is bounded."""
    printed: list[int] = []

    def rows() -> Iterator[dict[str, object]]:
        for number in range(3 * ROWS_PER_PAGE):
            printed.append(number)
            yield {"n": number}

    with pytest.MonkeyPatch.context() as patch:
        seen: list[int] = []
        patch.setattr("guidsvc.cli.output.write_escaped", lambda *_: seen.append(len(printed)))
        Rendering("table").rows(("n",), rows())
    assert seen[:3] == [ROWS_PER_PAGE, 2 * ROWS_PER_PAGE, 3 * ROWS_PER_PAGE]


def test_record_is_printed_in_each_form(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {}
    for form in FORMS:
        Rendering(form).record({"a": 1, "bcd": {"x": "\x9b"}})
        outputs[form] = capsys.readouterr().out
    assert outputs["table"] == 'a    1\nbcd  {"x": "\\u009b"}\n'
    assert json.loads(outputs["json"]) == json.loads(outputs["lines"]) == {"a": 1, "bcd": {"x": "\x9b"}}
    assert outputs["lines"].count("\n") == 1


@click.command(cls=Command)
@output_options
def sample(rendering: Rendering) -> None:
    """Print a row."""
    rendering.rows(("state",), [{"state": "live"}])
    rendering.tell("done")


@pytest.mark.parametrize(
    ("words", "out", "err"),
    [
        ([], '{"state": "live"}\n', "done\n"),
        (["-o", "table", "--quiet"], "state\nlive\n", ""),
        (["--output", "json"], '[\n  {"state": "live"}\n]\n', "done\n"),
    ],
)
def test_form_is_chosen_by_the_options(
    words: list[str], out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sample.main(words, standalone_mode=False)

    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize(("variables", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_terminal_gets_a_table_with_colors(
    variables: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    reading, writing = pty.openpty()
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        sample.main(["--quiet"], standalone_mode=False)
        shown = os.read(reading, 4096).decode()
    os.close(reading)
    assert shown.splitlines() == ["state", "\x1b[32mlive\x1b[0m" if colored else "live"]
