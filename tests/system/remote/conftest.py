"""The fixtures of the commands over HTTP: services, most of them for all tests of a module."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.backing_servers import Service, pdapt, service
from tests.support.command_line import CommandLine


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Service]:
    """A service with an empty store."""
    folder = tmp_path / "store"
    folder.mkdir()
    with service(folder) as started:
        yield started


@pytest.fixture
def cli(running: Service, tmp_path: Path) -> CommandLine:
    """Commands against the service without access control."""
    return CommandLine(tmp_path, running.url)


class Guarded(NamedTuple):
    """A service with access control, and the key of an admin."""

    service: Service
    key: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    key = pdapt(folder, "keys", "create", "--new-store", "--owner", "operations", "--scopes", "admin").stdout.strip()
    with service(folder, "--access", "keys") as started:
        yield Guarded(started, key)
