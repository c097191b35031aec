"""Loading of the settings: from flags, environment variables, `.env`, and files that hold a value."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from io import StringIO
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from guidsvc.bounded_file import read_text
from guidsvc.config.settings import ENV_FILE, PREFIX, Settings, flag
from guidsvc.connection_urls import redact
from guidsvc.errors import StartError

TEST_PREFIX = "GUIDSVC_TEST_"
"""Prefix of variables that the tests read; the service ignores them."""
FILE_SUFFIX = "_FILE"
"""Suffix of a variable that names a file: GUIDSVC_STORE_URL_FILE names the file with the GUIDSVC_STORE_URL."""

_VALUE_OF_SWITCH = re.compile(r"argument (--[\w-]+)/(--no-[\w-]+): ignored explicit argument .*", re.DOTALL)
"""The message of argparse for a flag that takes no value and was given one."""
_UNKNOWN_ARGUMENTS = re.compile(r"unrecognized arguments: ([^\s=]+)")
"""The message of argparse for unknown flags and surplus words, of which the first is captured."""


class UsageError(StartError):
    """A flag is unknown, or lacks its value. The command exits with 2, as is usual for a wrong command line."""


def load(arguments: Sequence[str]) -> Settings:
    """Return the settings. Raise UsageError for a bad flag, StartError for any other unknown or invalid setting."""
    words = list(arguments)
    _refuse_unknown()
    filed = _from_files()
    try:
        return Settings(_cli_parse_args=words, **filed)  # type: ignore[call-arg]  # the CLI source of pydantic takes it
    except SettingsError as error:
        raise UsageError(_usage_fault(str(error).removeprefix("error parsing CLI: "), words)) from None
    except ValidationError as error:
        raise StartError("; ".join(_fault_text(fault, filed) for fault in error.errors())) from None


def _refuse_unknown() -> None:
    """Raise StartError for an unknown variable with the prefix: a misspelt GUIDSVC_STORE_URL must not use SQLite."""
    known = {*_VARIABLES, *_FILE_VARIABLES}
    for name in [*os.environ, *_names_in_file()]:
        variable = name.upper()
        if variable.startswith(PREFIX) and not variable.startswith(TEST_PREFIX) and variable not in known:
            hint = _suggestion(variable, known) or "; --help lists the settings"
            raise StartError(f"unknown setting {name} in the environment or in {ENV_FILE}{hint}")


def _suggestion(word: str, known: Collection[str]) -> str:
    """Return a question that suggests the nearest known word, or an empty string if none is near."""
    near = get_close_matches(word, known, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _names_in_file() -> list[str]:
    """Return the names that `.env` sets. Raise StartError for a line that is not an assignment."""
    bindings = list(parse_stream(StringIO(_env_file())))
    for binding in bindings:
        if binding.error:
            raise StartError(f"{ENV_FILE}, line {binding.original.line}: not an assignment; write NAME=value")
    return [binding.key for binding in bindings if binding.key]


def _env_file() -> str:
    """Return the text of `.env`, or an empty string if it is missing. Raise StartError if it cannot be read."""
    try:
        return read_text(ENV_FILE)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{ENV_FILE}: {getattr(error, 'strerror', None) or error}") from error


def _from_files() -> dict[str, Any]:
    """Return the settings whose value is in a file. Raise StartError for one that is set twice, or not readable."""
    in_file = dotenv_values(stream=StringIO(_env_file()))
    variables = {name.upper(): value for name, value in (in_file | os.environ).items()}
    named = {setting: variables[variable] for variable, setting in _FILE_VARIABLES.items() if variable in variables}
    return {setting: _read(setting, path or "", variables) for setting, path in named.items()}


def _read(setting: str, path: str, variables: Mapping[str, object]) -> str:
    """Return a setting from its file, without newlines at the end."""
    variable = PREFIX + setting.upper()
    if variable in variables:
        raise StartError(f"{variable}, {variable}{FILE_SUFFIX}: both are set; set only one of them")
    try:
        return read_text(path).rstrip("\n")
    except UnicodeDecodeError:
        why = "not UTF-8"  # the message of the error would show a byte
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise StartError(f"{variable}{FILE_SUFFIX}: cannot read {path}: {why}")


def _fault_text(fault: ErrorDetails, hidden: Collection[str]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    if name in {"settings", *hidden} or not isinstance(fault["input"], str):  # the input may be a secret
        return f"{name}: {message}"
    return f"{name}: {message}, not {redact(fault['input'])!r}"


def _usage_fault(text: str, words: Sequence[str]) -> str:
    """Return the message of the argument parser in plain words, with the URLs in it redacted."""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        text = text.replace(word, f"{name}{equals}{redact(value)}")
    switch = _VALUE_OF_SWITCH.fullmatch(text)
    if switch is not None:
        return f"{switch[1]} takes no value: use {switch[1]} or {switch[2]}"
    unknown = _UNKNOWN_ARGUMENTS.match(text)
    hint = "" if unknown is None else _suggestion(unknown[1], [*map(flag, Settings.model_fields)])
    return f"{text}{hint or '; --help lists the flags'}"


_VARIABLES = {PREFIX + name.upper(): name for name in Settings.model_fields}
_FILE_VARIABLES = {
    variable + FILE_SUFFIX: name for variable, name in _VARIABLES.items() if variable + FILE_SUFFIX not in _VARIABLES
}
"""Settings by the variable that names a file with their value."""
