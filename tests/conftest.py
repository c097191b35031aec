"""The fixtures, from the outside in.

client          over a real socket, to the service on SQLite and memory; with the marker all_backends, on all
                combinations of store and cache; with each_backend, on two that hold each store and each cache
server          what reads HTTP: our own connection layer; Tornado's server too where a test is marked both_servers
serving         the service in this process, on either, on any settings, with a clock of ours: `async with serving(...)`
store           the records of an empty store: each implementation of the contract, and each cache, in turn
database        the database that `store` is of, or caches
sqlite_url      an empty SQLite file
mongo_url       an empty database in the MongoDB-protocol server of the session, or in GUIDSVC_TEST_MONGO_URL
redis_url       an empty Redis: the server of the session, or GUIDSVC_TEST_REDIS_URL (which is flushed!)
own_redis       a Redis for this test alone, to be killed, paused and flushed
own_mongo       a MongoDB-protocol server for this test alone
way             a proxy before it that withholds commands
certificate     a certificate for 127.0.0.1 and its key, in files, that can be renewed
clock           the time, which stands still until the test moves it
waiting_reads   a Redis for this test alone, and the plain reads that the service has begun in it
short_sessions  lets the service look keys up again after 0.2 s instead of 2 s
quiet           fails a test that logs above INFO what it has not announced with `expected_logs`
"""

import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymongo
import pytest
import redis
from pydantic import BaseModel

from guidsvc.bootstrap import app
from guidsvc.cache import open_cache
from guidsvc.config import Settings
from guidsvc.monitoring.logs import log_config as logs
from guidsvc.services import statistics
from guidsvc.store import open_store
from guidsvc.store.contract import Database, RecordRepository
from tests.support.backing_servers import Server, mongo_server, redis_server
from tests.support.certificates import Certificate
from tests.support.http_client import Client
from tests.support.patience import CACHE_DEFAULTS, MONGO_DEFAULTS, MONGO_PATIENT_MS, PATIENT_TIMING

pytest_plugins = [
    "tests.support.late_work",
    "tests.support.mongo_proxy",
    "tests.support.sessions",
    "tests.support.suite_hooks",
    "tests.support.waiting_reads",
]
# So that a failure shows the values.
pytest.register_assert_rewrite("tests.support.assertions", "tests.support.metrics", "tests.support.stored_records")

STORES = ["sqlite", "mongo", "local-cache", "shared-cache"]
Serving = Callable[..., AbstractAsyncContextManager[Client]]


class FakeClock:
    """A clock that stands still: Unix milliseconds. It starts at the real time, which Redis and MongoDB go by."""

    def __init__(self) -> None:
        self.now = time.time_ns() // 1_000_000 // 1000 * 1000

    def __call__(self) -> int:
        return self.now

    def advance(self, *, seconds: float) -> None:
        """Move on."""
        self.now += round(seconds * 1000)

    @property
    def seconds(self) -> int:
        """The time in whole Unix seconds."""
        return self.now // 1000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GUIDSVC_") and not name.startswith("GUIDSVC_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("MAKELEVEL", raising=False)  # messages name `make run` if make has started the service
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is buffered is written again, and fails, at the end


STORE_FAULTS = {"store unavailable", "request failed", "fault of the service"}
BACKGROUND_WORK = "expiry schedule", "event log trim", "receipt purge", "event sequencer"
"""The beginnings of lines of background work: it fails at any time while a test keeps the store from answering."""


class ExpectedLogs:
    """The log lines above INFO that a test provokes: parts of them, as in `expected_logs.add("redis unavailable")`.

    Where a request may fail for want of a store, so may the background work.
    """

    def __init__(self) -> None:
        self._parts: set[str] = set()

    def add(self, *parts: str) -> None:
        """Announce lines that hold these words."""
        self._parts.update(parts)

    def unexpected(self, records: list[logging.LogRecord]) -> list[str]:
        """Return the lines above INFO that nobody announced."""
        told = [record.getMessage() for record in records if record.levelno > logging.INFO]
        parts = [*self._parts, *(BACKGROUND_WORK if self._parts & STORE_FAULTS else ())]
        return [line for line in told if not any(part in line for part in parts)]


@pytest.fixture
def expected_logs() -> ExpectedLogs:
    return ExpectedLogs()


@pytest.fixture(autouse=True)
def quiet(expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    assert expected_logs.unexpected(records) == []


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    logs.configure("info", "json")


@pytest.fixture(scope="session")
def mongo_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MongoDB server to make databases in."""
    named = os.environ.get("GUIDSVC_TEST_MONGO_URL")
    if named:
        yield named
    else:
        with mongo_server(tmp_path_factory.mktemp("mongo")) as server:
            yield f"mongodb://127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def _mongo_client(mongo_base: str) -> Iterator[pymongo.MongoClient[dict[str, object]]]:
    with pymongo.MongoClient[dict[str, object]](mongo_base) as client:
        yield client


@pytest.fixture
def mongo_url(
    mongo_base: str,
    _mongo_client: pymongo.MongoClient[dict[str, object]],
    expected_logs: ExpectedLogs,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A database of a store that waits for long: a busy machine delays the server."""
    expected_logs.add("store unavailable")
    monkeypatch.setitem(MONGO_DEFAULTS, "timeout_ms", MONGO_PATIENT_MS)
    monkeypatch.setattr(statistics, "COUNT_SECONDS", 60.0)
    name = f"guidsvc_test_{uuid.uuid4().hex}"
    yield f"{mongo_base.rstrip('/')}/{name}"
    _mongo_client.drop_database(name)


@pytest.fixture(scope="session")
def redis_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis to be flushed before each test."""
    named = os.environ.get("GUIDSVC_TEST_REDIS_URL")
    if named:
        place = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        yield urlsplit(named)._replace(path=f"/{place}").geturl()  # a database of its own for each who tests
    else:
        with redis_server(tmp_path_factory.mktemp("redis")) as server:
            yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(scope="session")
def _redis_client(redis_base: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_base) as client:
        yield client


@pytest.fixture
def redis_url(
    redis_base: str, _redis_client: redis.Redis, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> str:
    """An empty Redis for caches that wait for long: a busy machine delays the server."""
    expected_logs.add("redis unavailable", "cache disabled")  # even so, the machine may be so busy that Redis is late
    monkeypatch.setitem(CACHE_DEFAULTS, "timing", PATIENT_TIMING)
    _redis_client.flushdb()
    return redis_base


@pytest.fixture
def own_redis(tmp_path: Path, expected_logs: ExpectedLogs) -> Iterator[Server]:
    expected_logs.add("redis unavailable", "cache disabled")  # as for redis_url
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis_server(folder) as server:
        yield server


@pytest.fixture
def own_mongo(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "mongo"
    folder.mkdir()
    with mongo_server(folder) as server:
        yield server


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'guidsvc.db'}"


@pytest.fixture(params=STORES)
async def opened_store(
    request: pytest.FixtureRequest, clock: FakeClock
) -> AsyncIterator[tuple[Database, RecordRepository]]:
    url = request.getfixturevalue("mongo_url" if request.param == "mongo" else "sqlite_url")
    async with open_store(url, exclusive=False) as bare:
        if request.param in {"sqlite", "mongo"}:
            yield bare, bare.records
        else:
            cache_url = "memory://" if request.param == "local-cache" else request.getfixturevalue("redis_url")
            async with open_cache(cache_url, bare, clock=clock, size_bytes=1_000_000) as cache:
                yield bare, cache


@pytest.fixture
def store(opened_store: tuple[Database, RecordRepository]) -> RecordRepository:
    return opened_store[1]


@pytest.fixture
def database(opened_store: tuple[Database, RecordRepository]) -> Database:
    return opened_store[0]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """What reads HTTP: each server in turn."""
    return str(request.param)


class GivenSettings(Settings):
    """Settings from arguments alone. The search in variables and files would take a fifth of a short test."""

    def __init__(self, **values: Any) -> None:
        BaseModel.__init__(self, **values)


@pytest.fixture
def serving(clock: FakeClock, sqlite_url: str, server: str) -> Serving:
    @asynccontextmanager
    async def serve(**settings: object) -> AsyncIterator[Client]:
        chosen: dict[str, Any] = {
            "port": 0,
            "store_url": sqlite_url,
            "access_log": False,
            "hosts": "a,b,x",  # as raw requests name it
            "grace": 2,
            "queue_timeout": 30,  # of a burst nothing is refused, however slow the machine
            "request_timeout": 30,  # nor given up
            "server": server,
        } | settings
        async with app.serving(GivenSettings(**chosen), clock=clock) as port:
            client = Client(port)
            try:
                yield client
            finally:
                await client.aclose()

    return serve


@pytest.fixture
def combination(request: pytest.FixtureRequest) -> dict[str, str]:
    """The two URLs of each combination of store and cache."""
    store, cache = request.param.split("+")
    return {
        "store_url": request.getfixturevalue("mongo_url" if store == "mongo" else "sqlite_url"),
        "cache_url": "memory://" if cache == "memory" else request.getfixturevalue("redis_url"),
    }


@pytest.fixture
async def client(serving: Serving, combination: dict[str, str]) -> AsyncIterator[Client]:
    async with serving(**combination) as connected:
        yield connected
