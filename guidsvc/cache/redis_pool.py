"""redis-py as this folder uses it: pools that a URL names, which try nothing twice, and a limit to how long it takes.

The time-outs of redis-py itself are not used where `within` is: they count the time in which our own loop was busy.
"""

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from guidsvc.connection_urls import connect_with_redacted_errors

CONNECT_SECONDS = 1.0
"""For the connection itself, with TLS and all; after it, Redis must prove that it answers within the time-out."""
TURNS = 100
"""So many turns of the loop is an answer given that has arrived, to get in parts to whoever waits for it."""

REPLICA = "it is a replica, which cannot be a cache; name its master"

_Done = TypeVar("_Done")
_Pool = TypeVar("_Pool", bound=ConnectionPool)


def pool_of(url: str, kind: type[_Pool], **options: Any) -> _Pool:
    """Return a pool of connections, none of which is made; StartError if the URL makes no sense."""

    def make(url: str) -> _Pool:
        parts = urlsplit(url)
        if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+", parts.path):
            raise ValueError(f"{parts.path} is no number of a Redis database")
        pool = kind.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            driver_info=None,  # to tell it takes a right of its own
            **options,
        )
        pool.make_connection()  # type: ignore[no-untyped-call]  # which is made and not connected: an option that no connection knows shows here
        return pool

    return connect_with_redacted_errors("cache_url", url, make, ValueError, TypeError, RedisError, OSError)


async def within(seconds: float, work: Coroutine[Any, Any, _Done]) -> _Done:
    """Return what the work returns; TimeoutError, and the work is cancelled, if it takes longer than this.

    Not counted is the time in which our own loop was busy: an answer that is there when the time is up is taken.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(TURNS):
            if not task.done():
                await asyncio.sleep(0)
    finally:
        late = task.cancel()
    if late:
        await asyncio.gather(task, return_exceptions=True)
        raise TimeoutError(f"no answer within {seconds} s")
    return task.result()


def reason(error: BaseException) -> str:
    """Return what an error says, or what it is where it says nothing.

    Redis quotes the arguments of a command that it does not know, where it was renamed: a password, or a record.
    """
    return str(error).partition(", with args beginning with")[0] or type(error).__name__


def demand_master(info: bytes) -> None:
    """Raise RedisError if this Redis cannot be a cache, by what INFO says of its replication."""
    if b"role:master\r\n" not in info:
        raise RedisError(REPLICA)
    if b"master_replid:" not in info:
        raise RedisError("INFO replication tells no master_replid")


def run_id(info: bytes) -> str:
    """Find the name that a Redis gives itself at each start, in what INFO says."""
    found = re.search(rb"^run_id:(\w+)", info, re.MULTILINE)
    if found is None:
        raise RedisError("INFO server tells no run_id")
    return found[1].decode()
