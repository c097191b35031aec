"""Caches: each is a Store that wraps a Store, and is never stale.

The promise: once a write of a GUID has been acknowledged, no read that starts afterwards sees anything older,
and no read goes back from a newer value to an older one. Writing first and invalidating after cannot keep it
(an unreachable cache would stay wrong), so a write first takes its key out of the cache, then goes to the
store, then is acknowledged. What a cache holds may have expired: whoever serves a record checks that.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from guidsvc.connection_urls import scheme_of, unsupported
from guidsvc.errors import StartError
from guidsvc.optional_imports import requires_extra
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import Backend, Store
from guidsvc.telemetry.metrics import CacheMetrics


class Cache(Store, Protocol):
    """A store that remembers what another holds."""

    async def check(self) -> None:
        """Return if the cache itself answers; CacheUnavailable if it does not. `ping` is of the store behind it."""


def is_private(url: str) -> bool:
    """Whether the cache that a URL names is in this process alone, so that no other may write its records."""
    return url == "memory://"


@asynccontextmanager
async def open_cache(
    url: str, store: Backend, *, clock: Clock, size_bytes: int, meter: CacheMetrics | None = None
) -> AsyncIterator[Cache]:
    """Open the cache that a URL names, `memory://` or `redis://...`, around a store; StartError if it cannot be.

    `size_bytes` bounds the memory of the records that are kept in this process. A Redis that does not answer is no
    StartError: reads go to the store until it does.
    """
    scheme = scheme_of(url)
    if url == "memory://":
        from guidsvc.cache.memory import MemoryCache

        cache = MemoryCache(store, clock=clock, size_bytes=size_bytes, meter=meter)
        store.on_claim(cache.begin_anew)
        yield cache
    elif scheme in {"redis", "rediss", "unix"}:
        with requires_extra("redis", "cache_url"):
            from guidsvc.cache.redis_cache import open_redis_cache

        async with open_redis_cache(url, store, clock=clock, size_bytes=size_bytes, meter=meter) as shared:
            yield shared
    else:
        raise StartError(f"cache_url: this is no cache: {unsupported(url)}; use memory:// or redis://host:6379/0")
