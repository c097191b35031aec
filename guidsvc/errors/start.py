"""Errors that stop a command before it begins."""

from collections.abc import Collection, Sequence
from errno import EACCES, EISDIR, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from typing import Any

from guidsvc.errors.base import GuidsvcError

_REMEDIES = {
    ENOENT: "create its folder, or name another file",
    ENOTDIR: "name a file in a folder",
    EISDIR: "name a file",
    ENOSPC: "free some space, or name another file",
    **dict.fromkeys((EACCES, EPERM, EROFS), "let this user write there, or name another file"),
}


class StartError(GuidsvcError):
    """The service cannot start with this configuration. The message is one line that says what to change."""


class InvalidSettings(StartError):
    """Some settings are unknown or invalid; the message has a line for each fault. Commands exit with 2.

    `settings`, a `guidsvc.config.Settings`, has the defaults in place of the settings `names`, which are invalid; None
    if nothing could be parsed.
    """

    def __init__(
        self, faults: Sequence[str], settings: Any | None = None, names: Collection[str] = frozenset()
    ) -> None:
        super().__init__("\n".join(faults))
        self.faults, self.settings, self.names = tuple(faults), settings, frozenset(names)


class UsageError(InvalidSettings):
    """A flag is unknown, or lacks its value."""


class NoStore(StartError):
    """No store exists at `location`, and the command must not create one."""

    def __init__(self, location: str) -> None:
        super().__init__(f"store_url: there is no store at {location}")
        self.location = location


class SettingsChanged(StartError):
    """The settings of a worker differ from those of the other workers."""


class StoreInUse(StartError):
    """Another process has the store for itself."""


def write_fault(error: OSError) -> str:
    """Return why the file of a setting or an argument cannot be written, and the remedy."""
    remedy = _REMEDIES.get(error.errno or 0, "name another file")
    return f"{error.strerror or error}; {remedy}"
