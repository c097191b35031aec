"""The fixtures of the commands over HTTP: services, most of them for all tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backing_servers import Service, service
from tests.support.command_line import CommandLine
from tests.support.guarded_service import GuardedService, guarded_service


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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedService]:
    with guarded_service(tmp_path_factory.mktemp("guarded")) as started:
        yield started
