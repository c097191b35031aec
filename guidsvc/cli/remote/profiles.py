"""The file of profiles: services by name, with the file of a key, or the command that prints it.

    [profile.prod]
    url = "https://guids.example"
    key_command = "pass show guidsvc/prod"

The commands in it run with the rights of the user, so a file that others can read or write is rejected.
"""

import os
import re
import shlex
import signal
import stat
import subprocess  # nosec B404  # see where it is used
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import platformdirs

from guidsvc.bounded_file import read_text
from guidsvc.errors import UsageError
from guidsvc.system_errors import plain_reason

_MEMBERS = {"url", "key_file", "key_command"}
_KEY = re.compile(r"[!-~]+")
_SHELL_WORDS = re.compile(r"[|&;<>$`*]|(?:^|\s)~|^\w+=")
"""Syntax that only a shell understands: pipes, redirections, variables, patterns, home folders, assignments."""
_SHELLS = {"sh", "bash", "dash", "ksh", "zsh", "fish"}
_NO_SHELL = "; it runs without a shell: for pipes, $VARIABLES, * or ~, write sh -c '...'"
_NO_PROGRAM = "; name a program on PATH, or its whole path"
COMMAND_SECONDS = 60.0
"""Time limit of a `key_command`, which may ask for a passphrase."""
MAX_KEY_BYTES = 16 * 1024
"""The most that a `key_command` may print: a token is longer than a key."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A service by name."""

    name: str
    url: str
    key_file: str | None = None
    key_command: str | None = None


def config_path() -> Path:
    """Return the path of the file of profiles."""
    return platformdirs.user_config_path("guidsvc") / "config.toml"


def read_profile(name: str) -> Profile:
    """Return a profile. Raise UsageError if the file, or the profile, is missing or invalid."""
    path = config_path()
    profiles = _profiles(path)
    if name not in profiles:
        known = f"it has {', '.join(sorted(profiles))}" if profiles else "it has none"
        raise UsageError([f"profile {name!r} is not in {path}: {known}; add [profile.{name}] with its url"])
    return _profile(name, profiles[name], path)


def _profiles(path: Path) -> Mapping[str, Any]:
    try:
        refuse_open_to_others(path.stat(), path)
        document = tomllib.loads(read_text(path))
    except FileNotFoundError:
        raise UsageError([f"{path} does not exist; create it with [profile.NAME] and a url, or use --url"]) from None
    except OSError as error:
        raise UsageError([f"{path}: {error.strerror or error}"]) from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise UsageError([f"{path} is not TOML: {plain_reason(error)}"]) from error
    except RecursionError as error:
        raise UsageError([f"{path} is nested too deeply; write [profile.NAME] and a url below it"]) from error
    profiles = document.get("profile", {})
    if not isinstance(profiles, dict):
        raise UsageError([f'{path}: profile is not a table; write [profile.NAME] and url = "http://..." below it'])
    return profiles


def refuse_open_to_others(status: os.stat_result, path: Path) -> None:
    """Raise UsageError if others than the user can read or write a file."""
    if status.st_uid not in {os.geteuid(), 0}:
        raise UsageError([f"{path} belongs to another user; create a file of your own"])
    if stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError([f"{path} is open to other users; run: chmod 600 {shlex.quote(str(path))}"])


def _profile(name: str, members: Any, path: Path) -> Profile:
    where = f"{path}, [profile.{name}]"
    if not isinstance(members, dict) or not all(isinstance(value, str) for value in members.values()):
        raise UsageError([f"{where}: must be a table of texts; the members are {', '.join(sorted(_MEMBERS))}"])
    if unknown := members.keys() - _MEMBERS:
        known = ", ".join(sorted(_MEMBERS))
        raise UsageError([f"{where}: {', '.join(sorted(unknown))} is not known; the members are {known}"])
    if not members.get("url"):
        raise UsageError([f'{where}: url is missing; add url = "https://..."'])
    if "key_file" in members and "key_command" in members:
        raise UsageError([f"{where}: key_file and key_command exclude each other; remove one"])
    return Profile(name, **members)


def read_key_file(path: Path) -> str:
    """Return the key in a file."""
    try:
        text = read_text(path)
    except OSError as error:
        raise UsageError([f"the key file {path}: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise UsageError([f"the key file {path} is not text; write only the key into it"]) from error
    return valid_key(text, f"the key file {path}")


def run_key_command(command: str) -> str:
    """Return the key that a command prints."""
    name, hint = f"key_command {command!r}", _shell_hint(command)
    try:
        code, content = _output_of(shlex.split(command))
        text = content.decode()
    except (OSError, ValueError, IndexError) as error:  # as a UnicodeDecodeError is
        raise UsageError([f"{name} cannot run: {plain_reason(error)}{hint or _NO_PROGRAM}"]) from error
    if code == -signal.SIGKILL:
        limits = f"{COMMAND_SECONDS:g} s, or printed more than {MAX_KEY_BYTES} bytes"
        raise UsageError([f"{name} took longer than {limits}{hint or '; run it yourself'}"])
    if code:
        raise UsageError([f"{name} exited with {code}{hint or '; run it yourself to see why'}"])
    if hint and _SHELL_WORDS.search(text):  # no key has these characters
        raise UsageError([f"{name} printed its own text in place of a key{hint}"])
    return valid_key(text, f"the output of {name}", hint)


def _shell_hint(command: str) -> str:
    """Return how to use a shell, if a command seems to need one."""
    shell = command.split()[:1]
    is_shell = bool(shell) and Path(shell[0]).name in _SHELLS
    return "" if is_shell or not _SHELL_WORDS.search(command) else _NO_SHELL


def _output_of(words: Sequence[str]) -> tuple[int, bytes]:
    """Run a command; return its exit code and its output. It is killed if it takes or prints too much."""
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:  # noqa: S603  # nosec B603  # the user wrote it
        timer = Timer(COMMAND_SECONDS, process.kill)
        timer.start()
        try:
            content = b"" if process.stdout is None else process.stdout.read(MAX_KEY_BYTES + 1)
            if len(content) > MAX_KEY_BYTES:
                process.kill()
            return process.wait(), content
        finally:
            timer.cancel()


def valid_key(text: str, source: str, hint: str = "") -> str:
    """Return the key that a text consists of. An error has the hint, but never the text."""
    key = text.strip()
    if _KEY.fullmatch(key) is None:
        fault = "is empty" if not key else "is not a key: it has spaces, line breaks or other special characters"
        raise UsageError([f"{source} {fault}{hint or '; it must be the key alone'}"])
    return key
