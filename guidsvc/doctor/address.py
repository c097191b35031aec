"""Whether the service could listen at its address, and whether it is the service there that uses the store."""

import os
from errno import EADDRINUSE
from pathlib import Path

from guidsvc.config import Settings
from guidsvc.connection_urls import scheme_of
from guidsvc.errors import StartError
from guidsvc.store import validate_store_url


def refuse_unusable(settings: Settings, where: str) -> None:
    """Raise StartError if nothing answers at the address, but a start of the service would fail, or has failed."""
    faults = []
    try:
        _try_to_listen(settings)
    except StartError as error:
        faults.append(str(error))
    if users := _users(settings):
        faults.append(
            f"store_url: {settings.store_url} is used by {', '.join(users)}, but nothing answers at {where}; "
            "stop that process, or name the --port or --unix-socket at which it listens"
        )
    if faults:
        raise StartError("\n".join(faults))


def refuse_foreign(settings: Settings) -> None:
    """Raise StartError if the service cannot listen at the address, for another reason than that a process does."""
    try:
        _try_to_listen(settings)
    except StartError as error:
        if getattr(error.__cause__, "errno", None) != EADDRINUSE:
            raise


def is_of_another_store(settings: Settings) -> bool:
    """Return whether a SQLite store exists that no process uses. The answer is no where the system does not tell."""
    from guidsvc.doctor.backends import sqlite

    path = _sqlite_path(settings)
    return path is not None and path.exists() and sqlite.LOCKS.exists() and not _users(settings)


def _try_to_listen(settings: Settings) -> None:
    """Listen at the address for a moment, as a start does. A Unix socket without a listener stays where it is."""
    from guidsvc.server.sockets import open_listeners  # with Tornado, which commands that do not listen do without

    path = None if settings.unix_socket is None else Path(settings.unix_socket)
    if path is None or not path.is_socket():
        with open_listeners(settings.host, settings.port, settings.unix_socket):
            return
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise StartError(f"unix_socket: {path}: its folder is not writable to this user; change its mode or owner")


def _users(settings: Settings) -> list[str]:
    """Return the processes that use the SQLite store."""
    from guidsvc.doctor.backends import sqlite

    path = _sqlite_path(settings)
    return [] if path is None else sqlite.users(path)


def _sqlite_path(settings: Settings) -> Path | None:
    try:
        validate_store_url(settings.store_url)
    except StartError:
        return None  # the settings have this finding
    if scheme_of(settings.store_url) != "sqlite":
        return None
    from guidsvc.store.sqlite.store import path_of_url

    return path_of_url(settings.store_url)
