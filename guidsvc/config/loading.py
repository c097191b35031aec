"""Loading of the settings: from flags, environment variables, `.env`, and files that hold a value."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream
from pydantic import ValidationError, model_validator
from pydantic_settings import SettingsError

from guidsvc.bounded_file import read_text
from guidsvc.config.fault_text import fault_text
from guidsvc.config.settings import ENV_FILE, PREFIX, Settings, flag
from guidsvc.config.suggestions import suggestion
from guidsvc.connection_urls import redact, redact_words
from guidsvc.errors import StartError
from guidsvc.foreign_variables import is_foreign

TEST_PREFIX = "GUIDSVC_TEST_"
"""Prefix of variables that the tests read; the service ignores them."""
FILE_SUFFIX = "_FILE"
"""Suffix of a variable that names a file: GUIDSVC_STORE_URL_FILE names the file with the GUIDSVC_STORE_URL."""

_LENIENT: Mapping[str, Any] = {"_cli_ignore_unknown_args": True}
"""Argument of `Settings` that makes it accept unknown flags."""
_VALUE_OF_SWITCH = re.compile(r"argument (--[\w-]+)/(--no-[\w-]+): ignored explicit argument .*", re.DOTALL)
"""The message of argparse for a flag that takes no value and was given one."""
_UNKNOWN_ARGUMENTS = re.compile(r"unrecognized arguments: ([^\s=]+)")
"""The message of argparse for unknown flags and surplus words, of which the first is captured."""


class Assignment(NamedTuple):
    """A variable as it is spelled, its value, and where it is set."""

    name: str
    value: str
    place: str


class InvalidSettings(StartError):
    """Some settings are unknown or invalid; the message has a line for each fault. Commands exit with 2.

    `settings` has the defaults in place of the settings `names`, which are invalid; None if nothing could be parsed.
    """

    def __init__(
        self, faults: Sequence[str], settings: "Settings | None" = None, names: Collection[str] = frozenset()
    ) -> None:
        super().__init__("\n".join(faults))
        self.faults, self.settings, self.names = tuple(faults), settings, frozenset(names)


class UsageError(InvalidSettings):
    """A flag is unknown, or lacks its value."""


def load(arguments: Sequence[str]) -> Settings:
    """Return the settings. Raise InvalidSettings, which lists all faults, or its subclass UsageError for bad flags."""
    in_file, broken_lines = read_env_file()
    faults = [*broken_lines, *_unknown_variables(in_file)]
    filed, unreadable = _from_files(has_env_file=not broken_lines)
    faults += unreadable.values()
    sources: dict[str, Any] = {"_cli_parse_args": list(arguments), **filed}
    if broken_lines:
        sources["_env_file"] = None
    try:
        settings = Settings(**sources)
    except SettingsError as error:
        usage = _usage_fault(str(error).removeprefix("error parsing CLI: "), arguments)
        invalid = _invalid_beside_usage_faults(sources, filed)
        raise UsageError([usage, *faults, *invalid.faults], invalid.settings, {*invalid.names, *unreadable}) from None
    except ValidationError as error:
        invalid = _invalid(error, sources, filed)
        raise InvalidSettings([*faults, *invalid.faults], invalid.settings, {*invalid.names, *unreadable}) from None
    if faults:
        raise InvalidSettings(faults, None if broken_lines else settings, unreadable)
    return settings


def _invalid_beside_usage_faults(sources: Mapping[str, Any], filed: Collection[str]) -> InvalidSettings:
    """Return the faults of the other settings if the command line has unknown flags."""
    try:
        return InvalidSettings([], Settings(**sources, **_LENIENT))
    except SettingsError:
        return InvalidSettings([])
    except ValidationError as error:
        return _invalid(error, sources, filed)


def _invalid(error: ValidationError, sources: Mapping[str, Any], filed: Collection[str]) -> InvalidSettings:
    """Return the faults that pydantic found, with the valid settings."""
    faults = error.errors()
    names = {str(fault["loc"][0]) for fault in faults if fault["loc"]}

    class ValidSettings(Settings):
        @model_validator(mode="before")
        @classmethod
        def drop_invalid(cls, values: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name not in names}

    settings = ValidSettings(**sources, **_LENIENT)
    has_env_file = "_env_file" not in sources
    return InvalidSettings([fault_text(each, filed) for each in faults], settings if has_env_file else None, names)


def _unknown_variables(in_file: Sequence[Assignment]) -> list[str]:
    """Return a fault for each unknown variable with the prefix: a misspelt GUIDSVC_STORE_URL must not use SQLite."""
    known = {*_VARIABLES, *_FILE_VARIABLES}
    in_environment = (Assignment(name, value, "the environment") for name, value in os.environ.items())
    return [
        f"unknown setting {name} in {place}{suggestion(name.upper(), known) or '; --help lists the settings'}"
        for name, value, place in (*in_environment, *in_file)
        if name.upper().startswith(PREFIX)
        and not name.upper().startswith(TEST_PREFIX)
        and name.upper() not in known
        and not is_foreign(name.upper(), value)
    ]


def read_env_file() -> tuple[list[Assignment], list[str]]:
    """Return the assignments in `.env`, and a fault for each line that is none. Raise InvalidSettings if unreadable."""
    bindings = list(parse_stream(StringIO(_env_file())))
    faults = [
        f"{ENV_FILE}, line {each.original.line}: not an assignment; write NAME=value" for each in bindings if each.error
    ]
    return [Assignment(each.key, each.value or "", _place(each)) for each in bindings if each.key], faults


def _place(binding: Binding) -> str:
    """Return the path and the line of an assignment. Its text begins with the blank lines before it."""
    text = binding.original.string
    line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
    return f"{Path(ENV_FILE).absolute()}, line {line}"


def _env_file() -> str:
    """Return the text of `.env`, or an empty string if it is missing. Raise InvalidSettings if it cannot be read."""
    try:
        return read_text(ENV_FILE)
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InvalidSettings([f"{ENV_FILE} is not UTF-8; save it in UTF-8"]) from error
    except OSError as error:
        raise InvalidSettings([f"{ENV_FILE}: {error.strerror or error}"]) from error


def _from_files(*, has_env_file: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings whose value is in a file, and the fault of each that is set twice or not readable."""
    in_file = dotenv_values(stream=StringIO(_env_file())) if has_env_file else {}
    variables = {name.upper(): value for name, value in (in_file | os.environ).items()}
    filed: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for variable, setting in _FILE_VARIABLES.items():
        if variable in variables:
            try:
                filed[setting] = _read(setting, variables[variable] or "", variables)
            except ValueError as error:
                faults[setting] = str(error)
    return filed, faults


def _read(setting: str, path: str, variables: Mapping[str, object]) -> str:
    """Return a setting from its file, without newlines at the end. Raise ValueError if it cannot be read."""
    variable = PREFIX + setting.upper()
    if variable in variables:
        raise ValueError(f"{variable}, {variable}{FILE_SUFFIX}: both are set; set only one of them")
    try:
        return read_text(path).rstrip("\n")
    except UnicodeDecodeError:
        why = "not UTF-8"  # the message of the error would show a byte
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise ValueError(f"{variable}{FILE_SUFFIX}: cannot read {redact(path)}: {why}")


def _usage_fault(text: str, words: Sequence[str]) -> str:
    """Return the message of the argument parser in plain words, with the URLs in it redacted."""
    text = redact_words(text, words)
    switch = _VALUE_OF_SWITCH.fullmatch(text)
    if switch is not None:
        return f"{switch[1]} takes no value: use {switch[1]} or {switch[2]}"
    unknown = _UNKNOWN_ARGUMENTS.match(text)
    hint = "" if unknown is None else suggestion(unknown[1], [*map(flag, Settings.model_fields)])
    return f"{text}{hint or '; --help lists the flags'}"


_VARIABLES = {PREFIX + name.upper(): name for name in Settings.model_fields}
_FILE_VARIABLES = {
    variable + FILE_SUFFIX: name for variable, name in _VARIABLES.items() if variable + FILE_SUFFIX not in _VARIABLES
}
"""Settings by the variable that names a file with their value."""
