"""The fixtures of the client: a service as a process of its own, and each client in turn.

running     the service without access control, for all tests of a pytest worker
guids       each client of it: the async one, and the sync one in threads
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.backing_servers import Service, service
from tests.support.client_in_thread import KINDS, client_of


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def guids(kind: str, running: Service) -> AsyncIterator[Any]:
    async with client_of(kind, running.url) as client:
        yield client
