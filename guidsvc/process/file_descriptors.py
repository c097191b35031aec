"""File descriptor limits: of the process, and of its connections."""

import os
import sys
from contextlib import suppress

import structlog

RESERVED = 128
"""Descriptors reserved for everything but connections: store, cache, logs and their rotation, temporary files."""
RESERVED_PART = 4
"""With a low limit, 1/RESERVED_PART of the limit is reserved instead."""

_log = structlog.get_logger(__name__)


def raise_limit(connections: int) -> None:
    """Raise the soft limit to what `connections` connections need, as far as the hard limit permits."""
    if sys.platform == "win32":
        return
    import resource

    needed = connections + RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):  # a system may have another limit, below the hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def warn_if_few(connections: int) -> None:
    """Log a warning if the limit is too low for `connections` connections."""
    limit = _limit()
    if limit is not None and limit < connections + RESERVED:
        _log.warning(
            "too few file descriptors for max_connections, raise the limit (ulimit -n) or lower max_connections",
            max_connections=connections,
            file_descriptors=limit,
            needed=connections + RESERVED,
        )


def highest_limit() -> int | None:
    """Return the limit to which this process could raise its own, or None if that is unlimited."""
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def room_for(connections: int) -> int:
    """Return the number of connections that fit beside the open and the reserved descriptors: 1 to `connections`."""
    limit = _limit()
    if limit is None:
        return connections
    return max(1, min(connections, limit - _open() - _reserved(limit)))


def temporary_files() -> int:
    """Return the number of temporary files that batches may open: half of the reserved descriptors."""
    limit = _limit()
    return (RESERVED if limit is None else _reserved(limit)) // 2


def spare_connections() -> int:
    """Return the number of descriptors for connections beyond their limit: a quarter of the reserved descriptors."""
    limit = _limit()
    return max(4, (RESERVED if limit is None else _reserved(limit)) // 4)


def _reserved(limit: int) -> int:
    return min(RESERVED, limit // RESERVED_PART)


def _limit() -> int | None:
    """Return the soft limit, or None if unlimited."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _open() -> int:
    """Return the number of open descriptors."""
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208  # only the names are needed
    except OSError:
        return RESERVED
