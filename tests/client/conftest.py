"""The fixtures of the client: a service as a process of its own, and each client in turn.

running     the service without access control, for all tests of a pytest worker
guids       each client of it: the async one, and the sync one in threads
"""

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.backing_servers import Service, service
from tests.support.client_in_thread import KINDS, client_of

THREAD_SECONDS = 60.0


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _ended_leases() -> Iterator[None]:
    """Wait for the threads of leases. They may outlast their blocks, and what they log would fail a later test."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("lease "):
            thread.join(THREAD_SECONDS)
            assert not thread.is_alive(), f"the thread {thread.name} does not end"


@pytest.fixture
async def guids(kind: str, running: Service) -> AsyncIterator[Any]:
    async with client_of(kind, running.url) as client:
        yield client
