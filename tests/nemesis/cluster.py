"""The hosts, each with workers and its own ways to Redis and to the store, and the servers behind them."""

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pymongo
from pymongo.errors import PyMongoError

from guidsvc.config import Settings
from tests.support.backing_servers import ROOT, Server, Service, children_of, free_port, mongo_server, redis_server
from tests.support.network_proxy import Proxy, proxy

SUPERVISED = "workers" in Settings.model_fields
HOSTS, WORKERS = (2, 2) if SUPERVISED else (4, 1)
"""Without a supervisor each process stands for a host."""
QUOTA = 120
"""Live records at the most: fewer than the load would make of its known GUIDs."""
OPTIONS = [
    "--no-access-log",
    "--log-level",
    "warning",
    "--quota",
    str(QUOTA),
    *(["--workers", str(WORKERS)] if SUPERVISED else []),
]
TELLS_LEVEL = "cache_status" in Settings.model_fields
"""Whether a reply can say which cache it came from."""
DATABASE = "nemesis"
REVIVE_SECONDS = 0.2
SYNC_AT_ONCE = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
"""Options of Redis: a replica has its master's data within some milliseconds."""


class Host:
    """A service with its workers. What ends is started again, as an orchestrator does it."""

    def __init__(self, folder: Path, store_url: str, cache_url: str, ways: dict[str, Proxy]) -> None:
        self.port = free_port()
        self.name = folder.name
        self.ways = ways
        """Its proxies, by what is behind them."""
        self.restarts = 0
        options = ["--store-url", store_url, "--cache-url", cache_url, "--port", str(self.port), *OPTIONS]
        options += ["--cache-status"] if TELLS_LEVEL else []
        self._command = [sys.executable, str(ROOT / "pdapt.py"), *options]
        self._folder = folder
        self._service: Service | None = None

    async def start(self) -> None:
        """Start it; AssertionError if it cannot be."""
        self._service = await asyncio.to_thread(Service, self._command, self.port, self._folder)

    async def keep(self) -> None:
        """Start it again whenever it has ended, until cancelled."""
        while True:
            await asyncio.sleep(REVIVE_SECONDS)
            if self._service is None or self._service.process.poll() is None:
                continue
            self.restarts += 1
            with suppress(AssertionError):  # the store cannot be reached: it is tried again
                await asyncio.to_thread(self._service.start)

    def workers(self) -> list[int]:
        """Return the processes that serve."""
        assert self._service is not None
        pid = self._service.process.pid
        if not SUPERVISED:
            return [pid]
        return children_of(pid)

    def end(self) -> None:
        """End it, and all its workers, if it is there."""
        if self._service is not None and self._service.process.poll() is None:
            for pid in self.workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            if SUPERVISED:
                self._service.stop()  # which ends its workers
            else:
                self._service.kill()


class Database(Protocol):
    """What there is of a store beside the service."""

    server: Server | None
    """Its server, if it has one."""

    def url(self, port: int | None) -> str:
        """Return where the service finds it: through a proxy on this port, if it has a server."""

    own_url: str
    """The URL of the store itself, past all proxies."""

    def records(self) -> dict[str, tuple[int, str]]:
        """Return the version and the user of each GUID."""

    def versions(self) -> dict[str, int]:
        """Return the version of each GUID, also of those that are deleted."""

    def live(self) -> int:
        """Return how many records there are, of which none expires; OSError if it does not answer."""

    def fence(self) -> int:
        """Return the generation of the fence; 0 if it has none. OSError if it does not answer."""


class Sqlite:
    """One file for all."""

    server: Server | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self.own_url = self.url(None)

    def versions(self) -> dict[str, int]:
        return dict(self._rows("SELECT guid, version FROM records"))

    def url(self, port: int | None) -> str:
        return f"sqlite:///{self._path}"

    def records(self) -> dict[str, tuple[int, str]]:
        rows = self._rows("SELECT guid, version, user FROM records WHERE expire >= 0")
        return {guid: (version, user) for guid, version, user in rows}

    def live(self) -> int:
        with suppress(sqlite3.OperationalError):  # before there was any
            return int(self._rows("SELECT count(*) FROM records WHERE expire >= 0")[0][0])
        return 0

    def fence(self) -> int:
        with suppress(sqlite3.OperationalError):  # before there was any
            return max((int(gen) for (gen,) in self._rows("SELECT gen FROM fence")), default=0)
        return 0

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, timeout=10)) as file:
            return file.execute(query).fetchall()


class Mongo:
    """A database in a server of MongoDB's protocol."""

    def __init__(self, server: Server) -> None:
        self.server: Server | None = server
        self.own_url = self.url(server.port)

    def versions(self) -> dict[str, int]:
        return {each["_id"]: each["version"] for each in self._documents("records")}

    def url(self, port: int | None) -> str:
        # A direct connection: the server would tell its own address, past the proxy.
        return f"mongodb://127.0.0.1:{port}/{DATABASE}?directConnection=true"

    def records(self) -> dict[str, tuple[int, str]]:
        return {
            each["_id"]: (each["version"], each["user"]) for each in self._documents("records") if each["expire"] >= 0
        }

    def live(self) -> int:
        return sum(each["expire"] >= 0 for each in self._available("records"))

    def fence(self) -> int:
        return max((int(each["gen"]) for each in self._available("fence")), default=0)

    def _available(self, collection: str) -> list[dict[str, Any]]:
        try:
            return self._documents(collection)
        except PyMongoError as error:
            raise OSError from error

    def _documents(self, collection: str) -> list[dict[str, Any]]:
        with pymongo.MongoClient[dict[str, Any]](self.own_url, timeoutMS=2000) as client:
            return list(client[DATABASE][collection].find(batch_size=10_000))  # in one reply: as of one moment


@dataclass(frozen=True)
class Cluster:
    """All of it."""

    hosts: list[Host]
    redis: Server
    replica: Server
    """Another Redis, which no host knows; the first is made its replica, and back."""
    database: Database


@asynccontextmanager
async def cluster(folder: Path, store: str, rng: random.Random) -> AsyncIterator[Cluster]:
    """Run all of it, inside, in a folder of its own, on `sqlite` or `mongo`."""
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server(_made(folder / "redis"), *SYNC_AT_ONCE))
        replica = stack.enter_context(redis_server(_made(folder / "replica"), *SYNC_AT_ONCE))
        database: Database = Sqlite(folder / "nemesis.db")
        if store == "mongo":
            database = Mongo(stack.enter_context(mongo_server(_made(folder / "mongo"), "--lazy-ttl")))
        hosts = []
        for number in range(HOSTS):
            ways = {"redis": await stack.enter_async_context(proxy(redis.port, rng))}
            if database.server is not None:
                ways["mongo"] = await stack.enter_async_context(proxy(database.server.port, rng))
            store_url = database.url(ways["mongo"].port if "mongo" in ways else None)
            cache_url = f"redis://127.0.0.1:{ways['redis'].port}/0"
            host = Host(_made(folder / f"host{number}"), store_url, cache_url, ways)
            stack.callback(host.end)
            await host.start()
            await stack.enter_async_context(going_on(host.keep()))
            hosts.append(host)
        yield Cluster(hosts, redis, replica, database)


@asynccontextmanager
async def going_on(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run the work, inside, and cancel it at the end. A fault in it fails the run."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
