"""Which service a command talks to, and with which key.

The address is the first of these: --url, --profile, GUIDSVC_URL, GUIDSVC_PROFILE, and the default of the service. A key
of a profile goes only to the address of that profile, and a profile without a key gets none from the environment.
"""

import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from guidsvc.cli.remote.profiles import Profile, read_key_file, read_profile, run_key_command, valid_key
from guidsvc.connection_urls import redact
from guidsvc.errors import UsageError

DEFAULT_URL = "http://127.0.0.1:8888"
KEY, KEY_FILE, URL, PROFILE = "GUIDSVC_KEY", "GUIDSVC_KEY_FILE", "GUIDSVC_URL", "GUIDSVC_PROFILE"
_HOST_AND_PORT = re.compile(r"(localhost|\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+)(:[0-9]{1,5})?")
"""An address without a scheme that cannot be a user with a password."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """The source of a key, and how to read it."""

    name: str
    read: Callable[[], str]
    path: Path | None = None

    @property
    def warning(self) -> str | None:
        """A warning if other users can read the file of the key."""
        with suppress(OSError):
            if self.path and self.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                return f"other users can read {self.path}; run: chmod 600 {shlex.quote(str(self.path))}"
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a service, and the source of the key to it."""

    url: str
    key: KeySource | None


def target_of(
    url: str | None, key_file: str | None, profile: str | None, variables: Mapping[str, str] = os.environ
) -> Target:
    """Return the service that options and environment variables name. Raise UsageError if they contradict."""
    if url and profile:
        raise UsageError(["--url and --profile exclude each other: a profile has its own url; remove one of them"])
    name = profile or (None if url or variables.get(URL) else variables.get(PROFILE))
    chosen = None if not name else read_profile(name)
    address = chosen.url if chosen else url or variables.get(URL) or DEFAULT_URL
    if key_file:
        return Target(_address(address), _of_file("--key-file", key_file))
    return Target(_address(address), _of_profile(chosen) if chosen else _of_environment(variables))


def _of_profile(profile: Profile) -> KeySource | None:
    name = f"profile {profile.name}"
    if profile.key_file:
        return _of_file(name, profile.key_file)
    return KeySource(name, partial(run_key_command, profile.key_command)) if profile.key_command else None


def _of_environment(variables: Mapping[str, str]) -> KeySource | None:
    key, path = variables.get(KEY), variables.get(KEY_FILE)
    if key and path:
        raise UsageError([f"{KEY} and {KEY_FILE} exclude each other; unset one of them"])
    if key:
        return KeySource(KEY, partial(valid_key, key, KEY))
    return _of_file(KEY_FILE, path) if path else None


def _of_file(name: str, path: str) -> KeySource:
    file = Path(path).expanduser()
    return KeySource(f"{name} {path}", partial(read_key_file, file), file)


def _address(url: str) -> str:
    """Return an address without a slash at its end. Raise UsageError if it is none."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and url.isprintable()
        (parts.hostname or "").encode("idna")
    except ValueError:  # as a UnicodeError is
        is_valid = False
    if not is_valid or " " in url:
        raise UsageError([_not_a_url(url)])
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError([f"{redact(url)!r} has more than an address; set the key with {KEY}, and remove the rest"])
    return url.rstrip("/")


def _not_a_url(url: str) -> str:
    """Return the mistake in an address, and how to write it."""
    if _HOST_AND_PORT.fullmatch(url):
        return f"{url!r} has no scheme; write http://{url} or https://{url}"
    return f"{redact(url)!r} is not the URL of a service; write one such as {DEFAULT_URL}"
