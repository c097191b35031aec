"""The privileges of the service in Redis and MongoDB are exactly the documented ones, and both work over TLS."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from guidsvc.cache.redis.counters import open_counters
from guidsvc.cache.redis.link import RedisLink, open_link
from guidsvc.cache.timings import CacheTimings
from guidsvc.errors import CacheUnavailable, StartError
from guidsvc.store.mongo.store import open_mongo
from tests.conftest import ExpectedLogs, FakeClock
from tests.support.backing_servers import ROOT, Server, guarded_mongo_server, redis_server
from tests.support.certificates import Certificate
from tests.support.factories import GUID, record
from tests.support.gated_store import GatedStore
from tests.support.http_client import hang_up
from tests.support.redis_cache import TIMING, open_cache, wait_until_idle, wait_until_on
from tests.support.stream_server import copy_stream, stream_server

PASSWORD = "s3cret-s3cret"
(LINE,) = re.findall(r"^user guidsvc .*$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
USER = LINE.replace("PASSWORD", PASSWORD).split()
LEASED = replace(TIMING, lease=CacheTimings().lease)
"""The lease in use. A lease of a millisecond is lost in the resolution of Redis, and reads would go to the store."""
ADMIN = ["user", "admin", "on", "nopass", "~*", "&*", "+@all"]


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[Server]:
    """A Redis with the documented user and an administrator, and no other user."""
    users = ["user", "default", "off"], USER, ADMIN
    with redis_server(tmp_path, *(argument for user in users for argument in (f"--{user[0]}", *user[1:]))) as server:
        yield server


@pytest.fixture
def admin(guarded_redis: Server) -> Iterator[redis.Redis]:
    with redis.Redis(port=guarded_redis.port, username="admin", password="") as client:
        client.config_resetstat()
        yield client


async def test_documented_privileges_are_those_used(
    guarded_redis: Server, admin: redis.Redis, clock: FakeClock
) -> None:
    gated = GatedStore()
    async with AsyncExitStack() as stack:
        address = f"guidsvc:{PASSWORD}@127.0.0.1:{guarded_redis.port}"
        first, second = [await stack.enter_async_context(open_cache(address, gated, clock, LEASED)) for _ in range(2)]
        await wait_until_on(first, second)
        created = record(clock())
        assert await first.swap(None, created)
        for cache in (first, second, second):
            assert await cache.get(GUID) == created
            await wait_until_idle(cache)
        changed = record(clock(), user="another", version=created.version + 1)
        assert await second.swap(created, changed)
        for cache in (first, second):
            assert await cache.get(GUID) == changed
            await wait_until_idle(cache)
        assert await first.swap(changed, None)
        assert await second.get(GUID) is None
        await first.check()
        counters = await stack.enter_async_context(open_counters(f"redis://{address}", timeout_seconds=30))
        assert counters is not None
        assert [await counters.add("a", 1, 60) for _ in range(2)] == [1, 2]

    assert admin.acl_log() == []
    used = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    granted = {option[1:] for option in USER if option.startswith("+")}
    assert used - {"auth", "hello", "config|resetstat", "acl|log", "client|setinfo"} == granted
    assert admin.dbsize() == len(list(admin.scan_iter("gs:*"))) > 0


def test_documented_user_may_do_nothing_else(guarded_redis: Server) -> None:
    with redis.Redis(port=guarded_redis.port, username="guidsvc", password=PASSWORD) as client:
        assert client.ping()
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "GET other", "SET other 1", "EVAL return 0", "ACL LIST"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
    with redis.Redis(port=guarded_redis.port) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


def test_valkey_in_compose_has_the_documented_user() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    command: list[str] = compose["services"]["valkey"]["command"]
    start = command.index("--user")
    users = " ".join(command[start:]).split("--user ")[1:]

    assert [user.split() for user in users] == [
        ["default", "off"],
        LINE.replace("PASSWORD", "${VALKEY_PASSWORD:-guidsvc}").split()[1:],
    ]


# Over TLS


@asynccontextmanager
async def behind_tls(port: int, certificate: Certificate) -> AsyncIterator[int]:
    """Serve TLS on another port within the block, in front of this one: the Valkey of the tests has no TLS."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await copy_stream(reader, writer)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(pump(reader, upstream_writer), pump(upstream_reader, writer))
        finally:
            await hang_up(upstream_writer)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)
    async with stream_server(forward, context) as tls_port:
        yield tls_port


@asynccontextmanager
async def open_redis_link(url: str) -> AsyncIterator[RedisLink]:
    """Open a link within the block."""
    async with open_link(url, name="tls", timing=TIMING) as link:
        yield link


async def test_redis_tls_connection_verifies_the_certificate(
    guarded_redis: Server, certificate: Certificate, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("redis unavailable")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    foreign_certificate = Certificate(stranger)
    async with behind_tls(guarded_redis.port, certificate) as port:
        address, ca_option = f"guidsvc:{PASSWORD}@127.0.0.1:{port}/0", f"ssl_ca_certs={certificate.ca}"
        async with open_redis_link(f"rediss://{address}?{ca_option}") as link:
            await link.wait_up(10)
            await link.check()
        for rejected_url in (
            f"rediss://{address}",
            f"rediss://{address}?ssl_ca_certs={foreign_certificate.ca}",
            f"rediss://{address.replace('127.0.0.1', 'localhost')}?{ca_option}",
            f"rediss://{address.replace(PASSWORD, 'wrong')}?{ca_option}",
            f"redis://{address}",
        ):
            async with open_redis_link(rejected_url) as link:
                with pytest.raises(CacheUnavailable):
                    await link.check()


async def test_mongodb_tls_connection_verifies_certificate_as_a_user(
    certificate: Certificate, tmp_path: Path, clock: FakeClock
) -> None:
    folder, stranger = tmp_path / "mongo", tmp_path / "stranger"
    for path in (folder, stranger):
        path.mkdir()
    foreign_certificate = Certificate(stranger)
    files = ["--tls-cert-file", str(certificate.cert), "--tls-key-file", str(certificate.key)]
    with guarded_mongo_server(folder, "guidsvc", PASSWORD, *files) as server:
        address, ca_option = (
            f"mongodb://guidsvc:{PASSWORD}@127.0.0.1:{server.port}/guidsvc",
            f"tlsCAFile={certificate.ca}",
        )
        async with open_mongo(f"{address}?tls=true&{ca_option}", exclusive=True) as store:
            created = record(clock())
            assert await store.records.swap(None, created)
            assert await store.records.get(GUID) == created
        for rejected_url in (
            address,
            f"{address}?tls=true",
            f"{address}?tls=true&tlsCAFile={foreign_certificate.ca}",
            f"{address.replace('127.0.0.1', 'localhost')}?tls=true&{ca_option}",
            f"{address.replace(PASSWORD, 'wrong')}?tls=true&{ca_option}",
        ):
            with pytest.raises(StartError, match="MongoDB cannot be used"):
                async with open_mongo(rejected_url):
                    pass
