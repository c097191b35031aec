"""The probe of Redis before the start: which results count as available, absent or refused."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis

from guidsvc.cache.redis.probe import probe_redis
from guidsvc.errors import StartError
from tests.support.backing_servers import Server, free_port
from tests.support.certificates import Certificate
from tests.support.stream_server import stream_server

SECONDS = 10.0
"""Far more than the two seconds that the probe may take, for a busy machine."""


async def refusal(url: str) -> str:
    """Return the reason why the probe refuses the Redis at this URL."""
    with pytest.raises(StartError) as error:
        await probe_redis(url)
    text = str(error.value)
    assert text.startswith("cache_url: ")
    assert "\n" not in text
    return text.removeprefix("cache_url: ")


@asynccontextmanager
async def server(
    respond: Callable[[asyncio.StreamWriter], None], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve connections with a function that writes or closes, within the block; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the client may reset the connection
            respond(writer)
            await reader.read()

    async with stream_server(serve, tls) as port:
        yield port


def stay_silent(_: asyncio.StreamWriter) -> None:
    """Accept, and never respond."""


async def test_redis_answers(own_redis: Server) -> None:
    assert await probe_redis(f"redis://127.0.0.1:{own_redis.port}/0")


async def test_password_is_required(own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.config_set("requirepass", "right")
    address = f"127.0.0.1:{own_redis.port}"

    assert (await refusal(f"redis://{address}/0")).startswith("Redis requires a password; write it")
    assert (await refusal(f"redis://:wrong@{address}/0")).startswith("Redis rejects the user or the password; correct")
    assert (await refusal(f"redis://nobody:right@{address}/0")).startswith("Redis rejects the user or the password")
    assert await probe_redis(f"redis://:right@{address}/0")


async def test_password_without_need_is_refused(own_redis: Server) -> None:
    assert "leave the password out" in await refusal(f"redis://:p@127.0.0.1:{own_redis.port}/0")


async def test_missing_database_is_refused(own_redis: Server) -> None:
    assert "no such database" in await refusal(f"redis://127.0.0.1:{own_redis.port}/99")


async def test_user_without_permission_is_refused(own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.execute_command("ACL", "SETUSER", "weak", "on", ">p", "~*", "+info", "+select")

    assert "grant it to the user" in await refusal(f"redis://weak:p@127.0.0.1:{own_redis.port}/0")


async def test_http_server_is_refused() -> None:
    async with server(lambda writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert "does not speak the Redis protocol" in await refusal(f"redis://127.0.0.1:{port}/0")


async def test_tls_mismatch_is_refused_both_ways(own_redis: Server, tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)

    assert await refusal(f"rediss://127.0.0.1:{own_redis.port}/0") == "the server speaks no TLS; use redis://"
    async with server(stay_silent, context) as port:
        assert await refusal(f"redis://127.0.0.1:{port}/0") == "the server speaks TLS; use rediss://"
        assert "name its CA with ?ssl_ca_certs=FILE" in await refusal(f"rediss://127.0.0.1:{port}/0")


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_absent_redis_is_no_refusal(scheme: str) -> None:
    assert not await probe_redis(f"{scheme}://127.0.0.1:{free_port()}/0")
    assert not await probe_redis(f"{scheme}://nowhere.invalid/0")


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_silent_server_counts_as_absent_after_a_time_limit(scheme: str) -> None:
    async with server(stay_silent) as port:
        began = time.monotonic()
        assert not await probe_redis(f"{scheme}://127.0.0.1:{port}/0")
        assert time.monotonic() - began < SECONDS


async def test_closing_server_counts_as_absent() -> None:
    async with server(lambda writer: writer.close()) as port:
        assert not await probe_redis(f"redis://127.0.0.1:{port}/0")


async def test_replica_counts_as_absent(own_redis: Server) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())

    assert not await probe_redis(f"redis://127.0.0.1:{own_redis.port}/0")


async def test_loading_redis_counts_as_absent() -> None:
    async with server(lambda writer: writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")) as port:
        assert not await probe_redis(f"redis://127.0.0.1:{port}/0")
