"""The argument parser of the commands: it suggests the nearest flag or command for a mistyped one."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from guidsvc import __version__, similarity
from guidsvc.cli import output
from guidsvc.connection_urls import redact_words
from guidsvc.monitoring.logs.printable import escape

_INVALID_CHOICE = re.compile(
    r"argument (?P<name>\S+): invalid choice: '(?P<word>[^']*)' \(choose from (?P<choices>.*)\)"
)
_NO_COMMAND = "the following arguments are required: COMMAND"
_CUTOFF = 0.7


class CommandParser(argparse.ArgumentParser):
    """A parser without abbreviations, with `--version`. Usage errors end with a suggestion, and exit with 2."""

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, **options)
        self.add_argument("--version", action=_Version, nargs=0, help="print the version")
        self._words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments, and note them for a suggestion."""
        self._words = list(args or ())
        return super().parse_known_args(args, namespace)

    def print_help(self, file: Any = None) -> None:
        """Print the help; raise StartError if standard output cannot be written, which argparse would ignore."""
        if file is None:
            output.write(self.format_help())
        else:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Exit with the usage, the message and a suggestion."""
        if message == _NO_COMMAND:
            message = f"name a command: {', '.join(self._commands())}"
        hints = [self._command_hint(message), *map("; {0[0]}: did you mean {0[1]}?".format, self.misspelt(self._words))]
        super().error(escape(f"{redact_words(message, self._words)}{''.join(hints)}"))

    def misspelt(self, words: Sequence[str], cutoff: float = _CUTOFF) -> list[tuple[str, str]]:
        """Return each unknown flag, with the nearest flag of this parser or its commands, if that is near enough."""
        flags = self._flags()
        unknown = [word.partition("=")[0] for word in words if word.startswith("--")]
        pairs = [
            (word, similarity.nearest(word, flags, min_similarity=cutoff)) for word in unknown if word not in flags
        ]
        return [(word, near) for word, near in pairs if near is not None]

    def _command_hint(self, message: str) -> str:
        match = _INVALID_CHOICE.fullmatch(message)
        if match is None:
            return ""
        near = similarity.nearest(match["word"], re.findall(r"[\w-]+", match["choices"]), min_similarity=_CUTOFF)
        return "" if near is None else f"; did you mean {near}?"

    def _flags(self) -> set[str]:
        """Return the long flags of this parser and of its commands."""
        commands = self._commands().values()
        own = {flag for action in self._actions for flag in action.option_strings if flag.startswith("--")}
        return own.union(*(parser._flags() for parser in commands if isinstance(parser, CommandParser)))  # noqa: SLF001

    def _commands(self) -> dict[str, argparse.ArgumentParser]:
        """Return the parsers of the commands by name."""
        return {
            name: parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001  # argparse has no public name for it
            for name, parser in action.choices.items()
        }


class _Version(argparse.Action):
    """The flag `--version`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the version and exit."""
        output.write(f"guidsvc {__version__}\n")
        parser.exit()
