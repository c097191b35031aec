"""How this package uses redis-py: connection pools without retries, pipelines of commands, and time limits.

`within` replaces the time-outs of redis-py, which also count the time in which our own event loop was busy.
"""

import asyncio
import re
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, OutOfMemoryError, RedisError

from guidsvc.cache.redis.lua_scripts import SCRIPTS
from guidsvc.cache.redis.reply_parser import BoundedParser
from guidsvc.connection_urls import connect_with_redacted_errors

CONNECT_SECONDS = 1.0
"""Time limit for connecting, TLS included. Afterwards Redis must answer a probe within the normal time limit."""
LOOP_ITERATIONS = 100
"""Event-loop iterations that an answer which has arrived gets to reach its awaiting task."""

REPLICA = "the server is a replica, which cannot be a cache; name its master"

Command = tuple[str | bytes | int, ...]
"""A command of Redis and its arguments."""

_Result = TypeVar("_Result")
_Pool = TypeVar("_Pool", bound=ConnectionPool)


def pool_of(url: str, kind: type[_Pool], **options: Any) -> _Pool:
    """Return an unconnected connection pool; StartError if the URL is invalid."""

    def make(url: str) -> _Pool:
        parts = urlsplit(url)
        if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+", parts.path):
            raise ValueError(
                f"{parts.path} is not the number of a Redis database; write one, as in redis://host:6379/0"
            )
        pool = kind.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            driver_info=None,  # sending it would need an additional permission
            parser_class=BoundedParser,
            **options,
        )
        pool.make_connection()  # type: ignore[no-untyped-call]  # not connected: it only detects unknown options
        return pool

    return connect_with_redacted_errors("cache_url", url, make, ValueError, TypeError, RedisError, OSError)


def validate_redis_url(url: str) -> None:
    """Raise StartError if the URL is invalid."""
    pool_of(url, ConnectionPool)


async def within(seconds: float, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of the work; cancel it and raise TimeoutError if it takes longer than this.

    Time in which our own event loop was busy does not count: an answer that has arrived by then is accepted.
    """
    limit = _TimeLimit(seconds)
    try:
        return await work
    except asyncio.CancelledError as error:
        if not limit.has_cancelled or limit.end() > 0:
            raise
        raise TimeoutError(f"no answer within {seconds} s") from error
    finally:
        limit.end()


class _TimeLimit:
    """Cancels the current task after some seconds, and some iterations of the event loop, unless it ends before."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # nosec B101  # only coroutines wait
        self.task = task
        self.has_cancelled = self._has_ended = False
        self._handle: asyncio.Handle = self._loop.call_later(seconds, self._run_out, LOOP_ITERATIONS)

    def end(self) -> int:
        """End the limit, and take its cancellation back; return how many of others are left. May be called twice."""
        self._handle.cancel()
        if self.has_cancelled and not self._has_ended:
            self._has_ended = True
            self.task.uncancel()
        return self.task.cancelling()

    def _run_out(self, iterations: int) -> None:
        if iterations:
            self._handle = self._loop.call_soon(self._run_out, iterations - 1)
        else:
            self.has_cancelled = self.task.cancel()


def reason(error: BaseException) -> str:
    """Return the message of an error, or its type if the message is empty.

    Redis quotes the arguments of an unknown (renamed) command, which may be a password or a record: cut them off.
    """
    return str(error).partition(", with args beginning with")[0] or type(error).__name__


def demand_master(info: bytes) -> None:
    """Raise RedisError if INFO replication shows that this Redis cannot be a cache."""
    if b"role:master\r\n" not in info:
        raise RedisError(REPLICA)
    if b"master_replid:" not in info:
        raise RedisError("INFO replication has no master_replid")


def run_id(info: bytes) -> str:
    """Extract the run id, which Redis draws at each start, from INFO server."""
    match = re.search(rb"^run_id:(\w+)", info, re.MULTILINE)
    if match is None:
        raise RedisError("INFO server has no run_id")
    return match[1].decode()


async def greet(connection: Connection) -> tuple[bytes, bytes]:
    """Connect, load the scripts, and return the `server` and `replication` sections of INFO."""
    await connection.connect()  # type: ignore[no-untyped-call]
    await pipeline(connection, [("SCRIPT", "LOAD", script.source) for script in SCRIPTS])
    server, replication = await info_sections(connection, "server", "replication")
    return server, replication


async def info_sections(connection: Connection, *names: str) -> list[bytes]:
    """Return sections of INFO."""
    sections = await pipeline(connection, [("INFO", name) for name in names])
    if not all(isinstance(each, bytes) for each in sections):
        raise InvalidResponse("the reply to INFO is no text")
    return sections


async def pipeline(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """Send the commands as one, and return their replies in order; raise the first error reply.

    An out-of-memory error is returned as the reply to its command, because the other replies remain valid.
    """
    if not commands:
        return []
    if connection._parser.has_unread:  # type: ignore[attr-defined]  # noqa: SLF001  # that of `pool_of`
        raise InvalidResponse("there was a reply too many")
    # Not by redis-py, which makes a call of Python for each argument. The stub of hiredis only knows one argument.
    packed = b"".join(pack_command(command) for command in commands)  # type: ignore[arg-type]
    await connection.send_packed_command(packed, check_health=False)
    return [await _reply(connection) for _ in commands]


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except OutOfMemoryError as error:
        return error
