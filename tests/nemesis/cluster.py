"""The hosts, each with workers and its own proxies to Redis and to the store, and the servers behind them."""

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
"""Without a supervisor each process is a host."""
QUOTA = 120
"""The maximum of live records: fewer than the load would create of its known GUIDs."""
OPTIONS = [
    "--no-access-log",
    "--log-level",
    "warning",
    "--quota",
    str(QUOTA),
    *(["--workers", str(WORKERS)] if SUPERVISED else []),
]
REPORTS_LEVEL = "cache_status" in Settings.model_fields
"""Whether a reply can name the cache that served it."""
DATABASE = "nemesis"
POLL_MS, FINAL_MS = 2_000, 60_000
"""The time limits of reads of MongoDB: during the run, when it may be paused, and after it."""
REVIVE_SECONDS = 0.2
SYNC_AT_ONCE = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
"""Options of Redis that make a replica copy its master's data within milliseconds."""


class Host:
    """A service with its workers; it is restarted when it ends, as by an orchestrator."""

    def __init__(self, folder: Path, store_url: str, cache_url: str, proxies: dict[str, Proxy]) -> None:
        self.port = free_port()
        self.name = folder.name
        self.proxies = proxies
        """Its proxies, by the server behind them."""
        self.restarts = 0
        options = ["--store-url", store_url, "--cache-url", cache_url, "--port", str(self.port), *OPTIONS]
        options += ["--cache-status"] if REPORTS_LEVEL else []
        self._command = [sys.executable, str(ROOT / "pdapt.py"), *options]
        self._folder = folder
        self._service: Service | None = None

    async def start(self) -> None:
        """Start the service; raise AssertionError if that fails."""
        self._service = await asyncio.to_thread(Service, self._command, self.port, self._folder)

    async def restart_when_ended(self) -> None:
        """Restart the service whenever it has ended, until cancelled."""
        while True:
            await asyncio.sleep(REVIVE_SECONDS)
            if self._service is None or self._service.process.poll() is None:
                continue
            self.restarts += 1
            with suppress(AssertionError):  # the store is unreachable: try again
                await asyncio.to_thread(self._service.start)

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        assert self._service is not None
        pid = self._service.process.pid
        if not SUPERVISED:
            return [pid]
        return children_of(pid)

    def stop(self) -> None:
        """Stop the service and its workers, if they are running."""
        if self._service is not None and self._service.process.poll() is None:
            for pid in self.workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._service.stop(signal.SIGTERM if SUPERVISED else signal.SIGKILL)  # SIGTERM stops the workers, too


class Database(Protocol):
    """Access to a store past the service."""

    server: Server | None
    """The server, or None."""

    def url(self, port: int | None) -> str:
        """Return the URL for the service: through a proxy on this port if there is a server."""

    own_url: str
    """The URL of the store without a proxy."""

    def records(self) -> dict[str, tuple[int, str]]:
        """Return the version and the user of each GUID."""

    def versions(self) -> dict[str, int]:
        """Return the version of each GUID, including deleted ones."""

    def live(self) -> int:
        """Return the number of records, none of which expires; raise OSError if the store does not reply."""

    def fence(self) -> int:
        """Return the generation of the fence, or 0 without a fence; raise OSError if the store does not reply."""


class Sqlite:
    """One file for all hosts."""

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
        with suppress(sqlite3.OperationalError):  # the table does not exist yet
            return int(self._rows("SELECT count(*) FROM records WHERE expire >= 0")[0][0])
        return 0

    def fence(self) -> int:
        with suppress(sqlite3.OperationalError):  # the table does not exist yet
            return max((int(gen) for (gen,) in self._rows("SELECT gen FROM fence")), default=0)
        return 0

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, timeout=10)) as file:
            return file.execute(query).fetchall()


class Mongo:
    """A database on a server with MongoDB's protocol."""

    def __init__(self, server: Server) -> None:
        self.server: Server | None = server
        self.own_url = self.url(server.port)

    def versions(self) -> dict[str, int]:
        return {each["_id"]: each["version"] for each in self._documents("records", FINAL_MS)}

    def url(self, port: int | None) -> str:
        # A direct connection: otherwise the server would announce its own address, which bypasses the proxy.
        return f"mongodb://127.0.0.1:{port}/{DATABASE}?directConnection=true"

    def records(self) -> dict[str, tuple[int, str]]:
        documents = self._documents("records", FINAL_MS)
        return {each["_id"]: (each["version"], each["user"]) for each in documents if each["expire"] >= 0}

    def live(self) -> int:
        return sum(each["expire"] >= 0 for each in self._available("records"))

    def fence(self) -> int:
        return max((int(each["gen"]) for each in self._available("fence")), default=0)

    def _available(self, collection: str) -> list[dict[str, Any]]:
        try:
            return self._documents(collection, POLL_MS)
        except PyMongoError as error:
            raise OSError from error

    def _documents(self, collection: str, timeout_ms: int) -> list[dict[str, Any]]:
        with pymongo.MongoClient[dict[str, Any]](self.own_url, timeoutMS=timeout_ms) as client:
            return list(client[DATABASE][collection].find(batch_size=10_000))  # in one reply, so it is a snapshot


@dataclass(frozen=True)
class Cluster:
    """All hosts and servers."""

    hosts: list[Host]
    redis: Server
    replica: Server
    """Another Redis, unknown to the hosts; the first one becomes its replica, and a master again."""
    database: Database


@asynccontextmanager
async def cluster(folder: Path, store: str, rng: random.Random) -> AsyncIterator[Cluster]:
    """Run all hosts and servers in this folder within the block, on `sqlite` or `mongo`."""
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server(_new_folder(folder / "redis"), *SYNC_AT_ONCE))
        replica = stack.enter_context(redis_server(_new_folder(folder / "replica"), *SYNC_AT_ONCE))
        database: Database = Sqlite(folder / "nemesis.db")
        if store == "mongo":
            database = Mongo(stack.enter_context(mongo_server(_new_folder(folder / "mongo"), "--lazy-ttl")))
        hosts = []
        for number in range(HOSTS):
            proxies = {"redis": await stack.enter_async_context(proxy(redis.port, rng))}
            if database.server is not None:
                proxies["mongo"] = await stack.enter_async_context(proxy(database.server.port, rng))
            store_url = database.url(proxies["mongo"].port if "mongo" in proxies else None)
            cache_url = f"redis://127.0.0.1:{proxies['redis'].port}/0"
            host = Host(_new_folder(folder / f"host{number}"), store_url, cache_url, proxies)
            stack.callback(host.stop)
            await host.start()
            await stack.enter_async_context(running(host.restart_when_ended()))
            hosts.append(host)
        yield Cluster(hosts, redis, replica, database)


@asynccontextmanager
async def running(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run the work within the block, and cancel it at the end. An error in it fails the run."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder
