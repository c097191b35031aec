"""Output of records: a table on a terminal, a JSON object per line elsewhere, or the requested form.

    -o table   columns for people
    -o json    one JSON document
    -o lines   a JSON object per line (NDJSON)

Tables escape control characters and use colours only on a terminal, and never with NO_COLOR (https://no-color.org).
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import click

from guidsvc.cli import output
from guidsvc.cli.parsing.value_types import OneOf
from guidsvc.monitoring.logs.printable import escape

Form = Literal["table", "json", "lines"]
FORMS: Sequence[Form] = ("table", "json", "lines")

ROWS_PER_PAGE = 200
"""Number of table rows that are held in memory, to align their columns."""
_COLORS = {"ok": "green", "live": "green", "warn": "yellow", "degraded": "yellow", "fail": "red", "expired": "red"}

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Rendering(NamedTuple):
    """The output of a command: the form of its data, and whether it prints messages."""

    form: Form
    is_quiet: bool = False

    def rows(self, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        """Print records. A table has these columns; JSON has all members of each record."""
        match self.form:
            case "table":
                _write_table(columns, rows)
            case "lines":
                for page in _pages(rows):
                    output.write("".join(f"{json.dumps(row)}\n" for row in page))
            case "json":
                _write_array(rows)

    def record(self, members: Mapping[str, object]) -> None:
        """Print one record. A table has a line for each member."""
        match self.form:
            case "table":
                output.write(members_table(members))
            case "lines":
                output.write(f"{json.dumps(members)}\n")
            case "json":
                output.write(f"{json.dumps(members, indent=2)}\n")

    def tell(self, message: str) -> None:
        """Print a message to standard error, unless the command is quiet."""
        if not self.is_quiet:
            output.tell(message)


def output_options(function: _Function) -> _Function:
    """Add the options -o and --quiet to a command, which receives them as `rendering`."""

    @wraps(function)
    def decorate(*args: Any, output_form: Form | None, quiet: bool, **given: Any) -> Any:
        return function(*args, rendering=Rendering(output_form or default_form(), quiet), **given)

    with_quiet = click.option("--quiet", is_flag=True, help="print no messages, only data and errors")(decorate)
    return click.option(  # type: ignore[return-value]
        "-o",
        "--output",
        "output_form",
        type=OneOf(FORMS),
        metavar="|".join(FORMS),
        help="form of the data: a table, one JSON document, or a JSON object per line [default: table on a "
        "terminal, else lines]",
    )(with_quiet)


def default_form() -> Form:
    """Return `table` on a terminal, else `lines`."""
    return "table" if output.is_terminal(sys.stdout) else "lines"


def styled(text: str, word: str) -> str:
    """Return an escaped text in the colour of a word such as `ok` or `fail`, if standard output shows colours."""
    color = _COLORS.get(word)
    return text if color is None or not has_colors() else click.style(text, fg=color)


def has_colors() -> bool:
    """Return whether standard output is a terminal, and colours are not switched off."""
    return output.is_terminal(sys.stdout) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def members_table(members: Mapping[str, object]) -> str:
    """Return a line for each member: its name and its value."""
    width = max(map(len, members), default=0)
    return "".join(f"{escape(name):{width}}  {_cell(value)}\n" for name, value in members.items())


def _pages(rows: Iterable[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    """Yield the rows in lists, each of which is printed in one write."""
    remaining = iter(rows)
    while page := list(islice(remaining, ROWS_PER_PAGE)):
        yield page


def _write_array(rows: Iterable[Mapping[str, object]]) -> None:
    """Write a JSON array."""
    begin = "["
    for page in _pages(rows):
        output.write("".join(f"{begin if row is page[0] else ','}\n  {json.dumps(row)}" for row in page))
        begin = ","
    output.write("[]\n" if begin == "[" else "\n]\n")


def _write_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table in pages, each of which has columns as wide as their content; they never become narrower."""
    head, widths = [tuple(columns)], [len(each) for each in columns]
    for page in _pages(rows):
        cells = [*head, *(tuple(_cell(row.get(each)) for each in columns) for row in page)]
        widths = [max(width, *map(len, column)) for width, column in zip(widths, zip(*cells, strict=True), strict=True)]
        output.write_escaped("".join(_lines(cells, widths)))
        head = []
    if head:
        output.write_escaped("".join(_lines(head, widths)))


def _lines(page: Iterable[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for cells in page:
        padded = [f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)]
        padded[-1] = padded[-1].rstrip()
        yield "  ".join(styled(text, cell) for text, cell in zip(padded, cells, strict=True)).rstrip() + "\n"


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return escape(value)
        case bool() | dict():
            return escape(json.dumps(value))
        case list() | tuple() | set() | frozenset():
            return ",".join(map(_cell, value))
        case _:
            return escape(str(value))
