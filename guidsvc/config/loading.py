"""Loading of the settings: from flags, environment variables, `.env`, and files that hold a value."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import ValidationError, model_validator
from pydantic_settings import CliSettingsSource, SettingsError

from guidsvc.bounded_file import read_text
from guidsvc.config.env_file import Assignment, EnvFile, read_env_file
from guidsvc.config.fault_text import fault_text
from guidsvc.config.settings import FLAGS, PREFIX, Settings, flag
from guidsvc.config.suggestions import suggestion
from guidsvc.connection_urls import redact, redact_words
from guidsvc.errors import InvalidSettings, UsageError
from guidsvc.foreign_variables import is_foreign

TEST_PREFIX = "GUIDSVC_TEST_"
"""Prefix of variables that the tests read; the service ignores them."""
FILE_SUFFIX = "_FILE"
"""Suffix of a variable that names a file: GUIDSVC_STORE_URL_FILE names the file with the GUIDSVC_STORE_URL."""

_SEE_HELP = "; --help lists the settings"
_LENIENT: Mapping[str, Any] = {"_cli_ignore_unknown_args": True}
"""Argument of `Settings` that makes it accept unknown flags."""
_VALUE_OF_SWITCH = re.compile(r"argument (--[\w-]+)/(--no-[\w-]+): ignored explicit argument .*", re.DOTALL)
"""The message of argparse for a flag that takes no value and was given one."""
_FAULTY_FLAG = re.compile(r"argument (--[\w-]+)")
"""The start of the message of argparse for a known flag that lacks its value, or takes none."""
_UNKNOWN_ARGUMENTS = "unrecognized arguments: "
"""The start of the message of argparse for unknown flags and surplus words."""
_FLAG = re.compile("--?[A-Za-z]")


def load(arguments: Sequence[str]) -> Settings:
    """Return the settings. Raise InvalidSettings, which lists all faults, or its subclass UsageError for bad flags."""
    env = env_file()
    filed, unreadable = _from_files(env)
    faults = [*env.faults, *_unknown_variables(env.assignments), *unreadable.values()]
    values = {"_env_file": None, **_in_env_file(env), **filed}
    sources = {"_cli_parse_args": list(arguments), **values}
    names = {*unreadable, *(setting for name in env.broken for setting in _settings_of(name))}
    kind: type[InvalidSettings] = InvalidSettings
    try:
        parsed: Mapping[str, Any] = {"_cli_settings_source": flag_parser()(args=list(arguments))}
        settings = Settings(**parsed, **values)
    except SettingsError as error:
        usage, invalid = _usage_faults(error, sources, filed)
        kind, faults = UsageError, [*usage, *faults, *invalid.faults]
    except ValidationError as error:
        invalid = _invalid(error, sources, filed)
        faults += invalid.faults
    else:
        invalid = InvalidSettings([], settings)
        if not faults:
            return settings
    raise kind(faults, invalid.settings if env.is_complete else None, {*invalid.names, *names})


@cache
def flag_parser() -> CliSettingsSource[Settings]:
    """Return the parser of the flags. It is built once per process, which takes most of the time of `load`."""
    return CliSettingsSource(Settings)


def _settings_of(variable: str) -> Iterator[str]:
    """Yield the setting of a variable, or of one that names a file."""
    name = _VARIABLES.get(variable) or _FILE_VARIABLES.get(variable)
    if name is not None:
        yield name


def _usage_faults(
    error: SettingsError, sources: Mapping[str, Any], filed: Collection[str]
) -> tuple[list[str], InvalidSettings]:
    """Return all faults of the command line, of which the parser reports only the first, and those of the values."""
    words: list[str] = sources["_cli_parse_args"]
    faults, names = [], set[str]()
    invalid: InvalidSettings | None = None
    while invalid is None:
        message = str(error).removeprefix("error parsing CLI: ")
        faults.append(_usage_fault(message, words))
        others, setting = _without_faulty_flag(message, words)
        names |= {setting} - {""}
        options = {} if setting else _LENIENT
        try:
            invalid = _invalid_beside_usage_faults({**sources, "_cli_parse_args": others, **options}, filed)
        except SettingsError as next_error:
            if others == words:
                return faults, InvalidSettings([])
            error, words = next_error, others
    return faults, InvalidSettings(invalid.faults, invalid.settings, {*invalid.names, *names})


def _without_faulty_flag(message: str, words: Sequence[str]) -> tuple[list[str], str]:
    """Return the words without the flag that a message of argparse is about, and the setting of that flag."""
    match = _FAULTY_FLAG.match(message)
    if match is None:
        return list(words), ""
    value = _value_like_a_flag(match[1], words)
    flags = {match[1], f"--no-{match[1][2:]}"}
    others = [word for word in words if word.partition("=")[0] not in flags and word != value]
    return others, match[1][2:].replace("-", "_")


def _value_like_a_flag(name: str, words: Sequence[str]) -> str | None:
    """Return the word after a flag that lacks its value, if that word begins like a flag, and is none."""
    following = dict(pairwise(words)).get(name, "")
    return following if following.startswith("-") and following.partition("=")[0] not in FLAGS else None


def _invalid_beside_usage_faults(sources: Mapping[str, Any], filed: Collection[str]) -> InvalidSettings:
    """Return the faults of the settings; raise SettingsError if the command line has faults."""
    try:
        return InvalidSettings([], Settings(**sources))
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

    settings = ValidSettings(**{**sources, **_LENIENT})
    return InvalidSettings([fault_text(each, filed) for each in faults], settings, names)


def _unknown_variables(in_file: Sequence[Assignment]) -> list[str]:
    """Return a fault for each unknown variable with the prefix: a misspelt GUIDSVC_STORE_URL must not use SQLite."""
    in_environment = (Assignment(name, value, "the environment") for name, value in os.environ.items())
    return [
        f"unknown setting {name} in {place}{suggestion(name.upper(), _KNOWN_VARIABLES) or _SEE_HELP}"
        for name, value, place in (*in_environment, *in_file)
        if name.upper().startswith(PREFIX)
        and not name.upper().startswith(TEST_PREFIX)
        and name.upper() not in _KNOWN_VARIABLES
        and not is_foreign(name.upper(), value)
    ]


def env_file() -> EnvFile:
    """Return the settings in `.env`."""
    return read_env_file(_KNOWN_VARIABLES)


def _in_env_file(env: EnvFile) -> dict[str, Any]:
    """Return the settings in `.env` that the environment does not override."""
    in_environment = {name.upper() for name, value in os.environ.items() if not is_foreign(name.upper(), value)}
    return {
        _VARIABLES[name]: value
        for name, value in env.variables.items()
        if name in _VARIABLES and name not in in_environment and not is_foreign(name, value)
    }


def _from_files(env: EnvFile) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings whose value is in a file, and the fault of each that is set twice or not readable."""
    places = {each.name.upper(): f"in {each.place}" for each in env.assignments}
    places |= {name.upper(): "in the environment" for name in os.environ}
    variables = {**env.variables} | {name.upper(): value for name, value in os.environ.items()}
    filed: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for variable, setting in _FILE_VARIABLES.items():
        if variable in variables:
            try:
                filed[setting] = _read(PREFIX + setting.upper(), variables, places)
            except ValueError as error:
                faults[setting] = str(error)
    return filed, faults


def _read(variable: str, variables: Mapping[str, str], places: Mapping[str, str]) -> str:
    """Return a setting from its file, without newlines at the end. Raise ValueError if it cannot be read."""
    named = f"{variable}{FILE_SUFFIX}"
    path, place = variables[named], places[named]
    where = "" if place == "in the environment" else f"; it is set {place}"
    if variable in variables and not is_foreign(variable, variables[variable]):
        raise ValueError(
            f"{variable}, {named}: both are set, the first {places[variable]}, the second {place}; remove one of them"
        )
    if not path:
        raise ValueError(f"{named}: must name the file with the value; write its path, or remove the variable{where}")
    try:
        return read_text(path).rstrip("\n")
    except UnicodeDecodeError:
        why = "not UTF-8"  # the message of the error would show a byte
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise ValueError(f"{named}: cannot read {redact(path)}: {why}{where}")


def _usage_fault(text: str, words: Sequence[str]) -> str:
    """Return the message of the argument parser in plain words, with the URLs in it redacted."""
    text = redact_words(text, words)
    switch = _VALUE_OF_SWITCH.fullmatch(text)
    if switch is not None:
        return f"{switch[1]} takes no value: use {switch[1]} or {switch[2]}"
    faulty = _FAULTY_FLAG.match(text)
    value = None if faulty is None else _value_like_a_flag(faulty[1], words)
    if faulty is not None and value is not None:
        name, shown = faulty[1], redact(value)
        return f"{name} lacks its value: {shown} is read as a flag; if it is the value, write {name}={shown}"
    hints = _flag_suggestions(words) if text.startswith(_UNKNOWN_ARGUMENTS) else []
    return f"{text}{''.join(hints) or '; --help lists the flags'}"


def _flag_suggestions(words: Sequence[str]) -> list[str]:
    """Return a suggestion for each unknown flag; with its name if there are several."""
    known = [*map(flag, Settings.model_fields), "--help", "--version"]
    names = [word.partition("=")[0] for word in words if _FLAG.match(word)]
    unknown = [name for name in dict.fromkeys(names) if name not in FLAGS]
    if len(unknown) == 1:
        return [suggestion(unknown[0], known)]
    return [hint.replace("; ", f"; {name}: ", 1) for name in unknown if (hint := suggestion(name, known))]


_VARIABLES = {PREFIX + name.upper(): name for name in Settings.model_fields}
_FILE_VARIABLES = {
    variable + FILE_SUFFIX: name for variable, name in _VARIABLES.items() if variable + FILE_SUFFIX not in _VARIABLES
}
"""Settings by the variable that names a file with their value."""
_KNOWN_VARIABLES = frozenset({*_VARIABLES, *_FILE_VARIABLES})
