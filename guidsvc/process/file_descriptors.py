"""File descriptors: how many the process may have, and how many of them connections may take."""

import os
import sys
from contextlib import suppress

import structlog

RESERVED = 128
"""Descriptors for all but connections: the store, the cache, logs and their rotation, temporary files."""
RESERVED_PART = 4
"""Where the limit is low, a quarter of it is reserved instead."""

_log = structlog.get_logger(__name__)


def raise_limit(connections: int) -> None:
    """Raise the soft limit of descriptors, as far as the hard one lets it, to what so many connections need."""
    if sys.platform == "win32":
        return
    import resource

    needed = connections + RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):  # a system may have a limit of its own, below the hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def warn_if_few(connections: int) -> None:
    """Log a warning if the limit of descriptors is too low for so many connections."""
    limit = _limit()
    if limit is not None and limit < connections + RESERVED:
        _log.warning(
            "too few file descriptors for max_connections, raise the limit (ulimit -n) or lower max_connections",
            max_connections=connections,
            file_descriptors=limit,
            needed=connections + RESERVED,
        )


def room_for(connections: int) -> int:
    """Return how many connections there can be, at most so many, beside what is open now and what is reserved."""
    limit = _limit()
    if limit is None:
        return connections
    return max(1, min(connections, limit - _open() - _reserved(limit)))


def temporary_files() -> int:
    """Return how many temporary files batches may have open: half of what is reserved."""
    limit = _limit()
    return (RESERVED if limit is None else _reserved(limit)) // 2


def _reserved(limit: int) -> int:
    return min(RESERVED, limit // RESERVED_PART)


def _limit() -> int | None:
    """Return the soft limit, or None if there is none."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _open() -> int:
    """Return how many descriptors are open."""
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208  # the names alone
    except OSError:
        return RESERVED
