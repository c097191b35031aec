"""The report of a usage error: the usage, the mistake, and the nearest flag for each misspelt one."""

import re
from collections.abc import Sequence

import click

from guidsvc import similarity
from guidsvc.cli.parsing.command import flags_of
from guidsvc.connection_urls import redact_words
from guidsvc.monitoring.logs.printable import escape

_CUTOFF = 0.7
_KEY = ("--key-file", "--key-file FILE, or the variable GUIDSVC_KEY")
_OF_OTHERS = {
    "--host": ("--url", "--url http://HOST:8888"),
    "--port": ("--url", "--url http://127.0.0.1:PORT"),
    "--key": _KEY,
    "--api-key": _KEY,
    "--token": _KEY,
}
"""Flags of `serve` and of other programs: the flag that the commands over HTTP have instead, and how to write it."""


def usage_report(error: click.UsageError, words: Sequence[str]) -> str:
    """Return the lines that report the error of a command that was started with these words."""
    if error.ctx is None:
        return escape(error.message)
    flags = flags_of(error.ctx.command)
    message = f"{redact_words(_message(error, words), words)}{_hints(error, words, flags)}"
    return f"{error.ctx.get_usage()}\n{error.ctx.command_path}: error: {escape(message)}"


def _message(error: click.UsageError, words: Sequence[str]) -> str:
    match error:
        case click.MissingParameter():
            return f"the following arguments are required: {_name(error)}"
        case click.BadParameter():
            return f"argument {_name(error)}: {error.message}"
        case click.NoSuchOption():
            word = next((each for each in words if each.partition("=")[0] == error.option_name), error.option_name)
            return f"unrecognized arguments: {word}"
        case click.BadOptionUsage():
            return f"argument {error.option_name}: {_bad_value(error)}"
        case _:
            return error.message


def _bad_value(error: click.BadOptionUsage) -> str:
    options = () if error.ctx is None else error.ctx.command.params
    named = [each for each in options if isinstance(each, click.Option) and error.option_name in each.opts]
    return "takes no value" if any(each.is_flag for each in named) else "needs a value"


def _name(error: click.BadParameter) -> str:
    """Return the name of the parameter as its command shows it: the long flag, or the name of the argument."""
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    if error.param is not None:
        return error.param.metavar or str(error.param.name).upper()
    return str(error.param_hint)


def _hints(error: click.UsageError, words: Sequence[str], flags: set[str]) -> str:
    if not (isinstance(error, click.NoSuchOption) or re.match("unrecognized arguments", error.message)):
        return ""
    names = dict.fromkeys(word.partition("=")[0] for word in words if word.startswith("--"))
    return "".join(_hint(each, flags) for each in names if each not in flags)


def _hint(name: str, flags: set[str]) -> str:
    needed, spelling = _OF_OTHERS.get(name, ("", ""))
    if needed in flags:
        return f"; {name}: use {spelling}"
    near = similarity.nearest(name, flags, min_similarity=_CUTOFF)
    return "" if near is None else f"; {name}: did you mean {near}?"
