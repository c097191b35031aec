"""The source of each setting, as the user wrote it: a flag, a variable, a line of `.env`, or a file.

A message names a setting by its field, such as `rate_limit: invalid limit`. `SettingSources.spell` replaces that by the
spelling that the user must correct, such as `GUIDSVC_RATE_LIMIT (/srv/.env, line 3): invalid limit`.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from guidsvc.bounded_file import read_text
from guidsvc.config import FILE_SUFFIX, PREFIX, Assignment, Settings, env_file, flag
from guidsvc.connection_urls import redact
from guidsvc.foreign_variables import is_service_link

_FLAG = re.compile(
    r"(?<![\w/'\"=-])--(?:no-)?(?P<name>[a-z]+(?:-[a-z]+)*)(?![\w-])(?: (?P<value>[0-9]+|keys|off|[a-z]+://[^\s,;)]+))?"
)
"""A flag in a message, with its value if one follows. A command to paste is quoted, or has other flags."""
_NAMES = re.compile(r"([a-z][a-z_]*(?:, [a-z][a-z_]*)*): ")


class Origin(NamedTuple):
    """The source of a value. `place` is the flag, the variable with its place, or the file."""

    kind: Literal["flag", "variable", ".env", "file", "default"]
    place: str = ""


class SettingSources:
    """The flags in `words`, the environment, and the file `.env`."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._words = list(words)
        self._flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        in_environment = (Assignment(name, value, "") for name, value in environment.items())
        variables = [*env_file().assignments, *in_environment]  # the environment overrides the file
        self._variables = {
            each.name.upper(): each for each in variables if not is_service_link(each.name.upper(), each.value)
        }

    def spelling(self, setting: str) -> str:
        """Return the flag, the variable or the file that sets this setting; its flag if it has the default."""
        positive, negative = flag(setting), f"--no-{flag(setting)[2:]}"
        variable = self._variable_in_force(setting)
        if variable is not None:
            return _shown(variable)
        return negative if negative in self._flags else positive

    def origin(self, setting: str) -> Origin:
        """Return the source of the value of a setting."""
        if self._is_flag(setting):
            return Origin("flag", self.spelling(setting))
        variable = self._variable(setting)
        if variable is None:
            return Origin("default")
        kind: Literal["variable", ".env"] = ".env" if variable.place else "variable"
        return Origin("file" if _names_file(variable) else kind, _shown(variable))

    def remedy(self, text: str, *settings: str) -> str:
        """Return a text about these settings, in which the flags of settings are in the spelling of the user.

        A setting that is not set is a flag, unless all others in the text are variables: then it is one, too.
        """
        has_variables = self._has_variables([*settings, *map(_setting_of, _FLAG.finditer(text))])
        return _FLAG.sub(lambda match: self._assignment(match, has_variables=has_variables), text)

    def _has_variables(self, settings: Collection[str]) -> bool:
        """Return whether some of these settings are variables, and none is a flag."""
        return not any(map(self._is_flag, settings)) and any(map(self._variable_in_force, settings))

    def _assignment(self, match: re.Match[str], *, has_variables: bool) -> str:
        """Return a flag of a message, with its value, as the flag or the variable that the user would set."""
        setting = _setting_of(match)
        variable = self._variable_in_force(setting)
        if setting not in Settings.model_fields or (variable is None and not has_variables):
            return match[0]
        name = PREFIX + setting.upper() if variable is None else variable.name
        value = match["value"]
        if value is None:
            return name
        return f"{value} in the file of {name}" if variable and _names_file(variable) else f"{name}={value}"

    def _is_flag(self, setting: str) -> bool:
        return bool(self._flags & {flag(setting), f"--no-{flag(setting)[2:]}"})

    def _variable(self, setting: str) -> Assignment | None:
        """Return the variable that sets this setting, or that names the file with its value."""
        name = PREFIX + setting.upper()
        return self._variables.get(name) or self._variables.get(name + FILE_SUFFIX)

    def _variable_in_force(self, setting: str) -> Assignment | None:
        """Return that variable, or None if a flag overrides it."""
        return None if self._is_flag(setting) else self._variable(setting)

    def text(self, setting: str) -> str | None:
        """Return the text of a setting as it was written, or None if no flag or variable sets it."""
        for at in reversed(range(len(self._words))):
            name, equals, value = self._words[at].partition("=")
            if name == flag(setting):
                return value if equals else next(iter(self._words[at + 1 :]), None)
        variable = self._variable(setting)
        if variable is None or not _names_file(variable):
            return None if variable is None else variable.value
        with suppress(OSError, ValueError):  # `config.load` reports it
            return read_text(variable.value).rstrip("\n")
        return None

    def spell(self, message: str) -> str:
        """Return a message with each line that begins with names of settings in the spelling of the user."""
        return "\n".join(map(self._spell_line, message.split("\n")))

    def _spell_line(self, line: str) -> str:
        match = _NAMES.match(line)
        names = [] if match is None else match[1].split(", ")
        if match is None or not all(name in Settings.model_fields for name in names):
            return line
        text = line[match.end() :]
        is_unset = not any(self._is_flag(name) or self._variable(name) for name in names)
        if is_unset and self._has_variables([_setting_of(each) for each in _FLAG.finditer(text)]):
            head = [PREFIX + name.upper() for name in names]  # they are to be set as what the text names was
        else:
            head = list(map(self.spelling, names))
        return f"{', '.join(head)}: {self.remedy(text, *names)}"


def setting_sources(words: Sequence[str]) -> SettingSources:
    """Return the sources of the settings of this process, which was started with these arguments."""
    return SettingSources(words, os.environ)


def _shown(variable: Assignment) -> str:
    """Return a variable with its place, and with the path of the file that it names."""
    named_file = redact(variable.value) if _names_file(variable) else ""
    place = ": ".join(filter(None, (variable.place, named_file)))
    return f"{variable.name} ({place})" if place else variable.name


def _setting_of(match: re.Match[str]) -> str:
    return match["name"].replace("-", "_")


def _names_file(variable: Assignment) -> bool:
    return variable.name.upper().endswith(FILE_SUFFIX)
