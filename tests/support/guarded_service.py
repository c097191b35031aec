"""A running service with access control, and the key of an admin."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.backing_servers import Service, pdapt, service


class GuardedService(NamedTuple):
    """A service with access control, and the key of an admin."""

    service: Service
    key: str


@contextmanager
def guarded_service(folder: Path, *options: str) -> Iterator[GuardedService]:
    """Run a service with access control inside the block."""
    key = pdapt(folder, "keys", "create", "--new-store", "--owner", "operations", "--scopes", "admin").stdout.strip()
    with service(folder, "--access", "keys", *options) as started:
        yield GuardedService(started, key)
