"""Where the value of each setting came from, as the user wrote it: a flag, a variable, a line of `.env`, a file.

A message names a setting by its field, such as `rate_limit: invalid limit`. `SettingSources.spell` replaces that by the
spelling that the user must correct, such as `GUIDSVC_RATE_LIMIT (/srv/.env, line 3): invalid limit`.
"""

import os
import re
from collections.abc import Mapping, Sequence

from guidsvc.config import FILE_SUFFIX, PREFIX, Assignment, Settings, env_file, flag
from guidsvc.connection_urls import redact
from guidsvc.foreign_variables import is_service_link

_NAMES = re.compile(r"([a-z][a-z_]*(?:, [a-z][a-z_]*)*): ")


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
        if not self._flags & {positive, negative}:
            variable = PREFIX + setting.upper()
            for name in (variable, variable + FILE_SUFFIX):
                if name in self._variables:
                    return _shown(self._variables[name])
        return negative if negative in self._flags else positive

    def text(self, setting: str) -> str | None:
        """Return the text of a setting as it was written, or None if no flag or variable sets it."""
        for at in reversed(range(len(self._words))):
            name, equals, value = self._words[at].partition("=")
            if name == flag(setting):
                return value if equals else next(iter(self._words[at + 1 :]), None)
        variable = self._variables.get(PREFIX + setting.upper())
        return None if variable is None else variable.value

    def spell(self, message: str) -> str:
        """Return a message with each line that begins with names of settings in the spelling of the user."""
        return "\n".join(map(self._spell_line, message.split("\n")))

    def _spell_line(self, line: str) -> str:
        match = _NAMES.match(line)
        names = [] if match is None else match[1].split(", ")
        if match is None or not all(name in Settings.model_fields for name in names):
            return line
        return f"{', '.join(map(self.spelling, names))}: {line[match.end() :]}"


def setting_sources(words: Sequence[str]) -> SettingSources:
    """Return the sources of the settings of this process, which was started with these arguments."""
    return SettingSources(words, os.environ)


def _shown(variable: Assignment) -> str:
    """Return a variable with its place, and with the path of the file that it names."""
    named_file = redact(variable.value) if variable.name.upper().endswith(FILE_SUFFIX) else ""
    place = ": ".join(filter(None, (variable.place, named_file)))
    return f"{variable.name} ({place})" if place else variable.name
