"""The bases of all commands: their help, with examples, `--version`, and usage errors that suggest the nearest word.

Only a command that accepts settings imports their table: it takes a quarter of the start of the others.

Click prints help itself, and would ignore that standard output cannot be written. So the flags `--help` and `--version`
are options of this module, which print as all commands do.
"""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from guidsvc import __version__, similarity
from guidsvc.cli import output
from guidsvc.program import runnable

_NEAR = 0.8
"""Similarity of a misspelt flag to one of the command, from 0 to 1. It may also be a misspelt setting."""
_MAX_COLUMNS = 110
_FIRST_COLUMN = re.compile(r"  \S.*?  +(?=\S)")
"""The beginning of a line of notes with two columns."""
PROGRAM = "{program}"
"""In an example: the program, where it stands a second time."""


class _HelpFormatter(click.HelpFormatter):
    """A formatter with headings in lower case, like those of `serve --help`."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the usage line."""
        super().write_usage(prog, args, "usage: " if prefix is None else prefix)

    def write_heading(self, heading: str) -> None:
        """Write a heading."""
        super().write_heading(heading.lower())


class _Context(click.Context):
    formatter_class = _HelpFormatter


class Command(click.Command):
    """A command. `examples` are the words after the name of the program, one line each; `notes` stand above them.

    A line of `notes` is a paragraph, or a row of two columns.
    """

    context_class = _Context

    def __init__(self, *args: Any, examples: Sequence[str] = (), notes: str = "", **options: Any) -> None:
        settings = {"max_content_width": _MAX_COLUMNS} | options.pop("context_settings", {})
        options |= {"add_help_option": False, "context_settings": settings}
        super().__init__(*args, **options)
        self.examples, self.notes = examples, notes
        self.params += [
            _printing_option(["-h", "--help"], "print this help", click.Context.get_help),
            _printing_option(["--version"], "print the version", lambda _: f"guidsvc {__version__}"),
        ]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # Click's signature
        """Write the notes, wrapped to the width, and the examples unchanged, so that they can be pasted."""
        if self.notes:
            notes = "\n".join(_wrapped(line, formatter.width) for line in self.notes.split("\n"))
            formatter.write(f"\n{notes}\n")
        if self.examples:
            examples = (f"  {runnable(each)}\n".replace(PROGRAM, runnable()) for each in self.examples)
            formatter.write(f"\nexamples:\n{''.join(examples)}")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Surplus ones are a usage error, unless the command accepts them."""
        accepts_surplus, ctx.allow_extra_args = ctx.allow_extra_args, True
        try:
            surplus = super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # the parser of Click omits it
            raise
        if surplus and not accepts_surplus and not ctx.resilient_parsing:
            ctx.fail(f"unrecognized arguments: {' '.join(surplus)}")
        return surplus


class Group(click.Group, Command):
    """A command with subcommands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. A missing command is a usage error that names all of them."""
        if not args and not ctx.resilient_parsing:
            ctx.fail(f"name a command: {', '.join(self.list_commands(ctx))}")
        return click.Group.parse_args(self, ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the name, the command and its arguments. An unknown name is a usage error with all of them."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            names = self.list_commands(ctx)
            near = similarity.nearest(error.command_name, names, min_similarity=0.7)
            hint = "" if near is None else f"; did you mean {near}?"
            choices = ", ".join(map(repr, names))
            ctx.fail(f"argument COMMAND: invalid choice: {error.command_name!r} (choose from {choices}){hint}")


class SettingsCommand(Command):
    """A command that accepts the flags of the service as well. They are `ctx.args`, for `config.load`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        accepting = {"ignore_unknown_options": True, "allow_extra_args": True}
        super().__init__(*args, context_settings=accepting, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. An unknown flag is a usage error if it is near to one of this command itself."""
        from guidsvc.config import FLAGS

        flags = super().parse_args(ctx, args)
        unknown = [each for each in flags if each.partition("=")[0] not in FLAGS]
        if not ctx.resilient_parsing and any(_misspelt(unknown, self)):
            ctx.fail(f"unrecognized arguments: {' '.join(unknown)}")
        return flags

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the flags of this command, and those of the service."""
        from guidsvc.config import FLAGS

        own = super().shell_complete(ctx, incomplete)
        flags = sorted(flag for flag in FLAGS if incomplete.startswith("-") and flag.startswith(incomplete))
        return [*own, *map(CompletionItem, flags)]


def _wrapped(line: str, width: int) -> str:
    """Return a line of notes in lines of this width. A column of descriptions stays one."""
    found = _FIRST_COLUMN.match(line)
    begin = "" if found is None else found[0]
    lines = textwrap.wrap(line[len(begin) :], width - len(begin), break_long_words=False, break_on_hyphens=False)
    return begin + f"\n{' ' * len(begin)}".join(lines)


def flags_of(command: click.Command) -> set[str]:
    """Return the long flags of a command."""
    return {each for parameter in command.params for each in parameter.opts if each.startswith("--")}


def _misspelt(words: Sequence[str], command: click.Command) -> Iterator[str]:
    flags = flags_of(command)
    for word in words:
        if word.startswith("--") and similarity.nearest(word.partition("=")[0], flags, min_similarity=_NEAR):
            yield word


def _printing_option(flags: Sequence[str], about: str, text_of: Callable[[click.Context], str]) -> click.Option:
    """Return an option that prints a text and ends the program."""

    def show(ctx: click.Context, _: click.Parameter, is_set: bool) -> None:  # noqa: FBT001  # Click's signature
        if is_set and not ctx.resilient_parsing:
            output.write(f"{text_of(ctx)}\n")
            ctx.exit()

    return click.Option(flags, is_flag=True, is_eager=True, expose_value=False, callback=show, help=about)
