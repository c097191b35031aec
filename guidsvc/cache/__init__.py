"""Caches: decorators of the records repository that never serve a stale record.

Guarantee: once a write of a GUID has been acknowledged, no later read sees an older value, and no read goes back
from a newer value to an older one. Writing first and invalidating afterwards cannot guarantee this, because an
unreachable cache would stay stale. So a write first removes its key from the cache, then goes to the store, and
is then acknowledged. A cached record may have expired: the caller must check before serving it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from guidsvc.connection_urls import scheme_of, unsupported
from guidsvc.errors import StartError
from guidsvc.optional_imports import requires_extra
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.telemetry.metrics import CacheMetrics

_REDIS_SCHEMES = {"redis", "rediss", "unix"}


class Cache(RecordRepository, Protocol):
    """A repository that caches the records of another one."""

    async def check(self) -> None:
        """Return if the cache itself answers, else raise CacheUnavailable. `Database.ping` checks the store."""


def is_private(url: str) -> bool:
    """Return whether the cache lives in this process alone, so that no other process may write its records."""
    return url == "memory://"


def is_off(url: str, size_bytes: int) -> bool:
    """Return whether no record is cached anywhere: each read goes to the store. Redis caches at any size."""
    return is_private(url) and size_bytes == 0


def validate_cache_url(url: str) -> None:
    """Raise StartError if no cache can be opened by this URL, without connecting."""
    if url == "memory://":
        return
    if scheme_of(url) not in _REDIS_SCHEMES:
        raise StartError(f"cache_url: unsupported cache {unsupported(url)}; use memory:// or redis://host:6379/0")
    with requires_extra("redis", "cache_url"):
        from guidsvc.cache.redis.pool import validate_redis_url
    validate_redis_url(url)


@asynccontextmanager
async def open_cache(
    url: str, database: Database, *, clock: Clock, size_bytes: int, meter: CacheMetrics | None = None
) -> AsyncIterator[Cache]:
    """Wrap the records of a database in the cache that a URL names, `memory://` or `redis://...`.

    StartError if that is impossible.

    `size_bytes` bounds the memory of the records cached in this process. An unreachable Redis does not raise
    StartError: reads go to the store until Redis answers.
    """
    validate_cache_url(url)
    if url == "memory://":
        from guidsvc.cache.memory import MemoryCache

        cache = MemoryCache(database.records, clock=clock, size_bytes=size_bytes, meter=meter)
        database.on_claim(cache.begin_anew)
        yield cache
    else:
        from guidsvc.cache.redis.cache import open_redis_cache

        async with open_redis_cache(url, database, clock=clock, size_bytes=size_bytes, meter=meter) as shared:
            yield shared
