"""Checks before the start, beyond the settings: whether the cache answers, and whether a key exists.

Each check runs on a thread with a separate event loop, because a name server that does not answer would block the end
of an event loop. A check that takes too long is abandoned.
"""

import asyncio
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from guidsvc.bootstrap.auth import is_controlled
from guidsvc.cache import is_private
from guidsvc.config import Settings
from guidsvc.errors import GuidsvcError, NoStore, StartError
from guidsvc.store import open_keys
from guidsvc.time_limit import within

CACHE_SECONDS = 2.0
KEYS_SECONDS = 2.5
"""Time limits of the checks, in seconds."""


class Preflight(NamedTuple):
    """The findings; None if unknown or not applicable."""

    cache_answers: bool | None
    has_keys: bool | None
    unknown_host: str | None = None
    """The host of Redis, if it has no address: then only a correction of the URL or of the DNS will help."""


UNKNOWN = Preflight(None, None)


def inspect(settings: Settings) -> Preflight:
    """Check the cache and the keys. Raise StartError if Redis refuses this service."""
    answers = _cache_answers(settings.cache_url)
    unknown_host = _unknown_host(settings.cache_url) if answers is False else None
    return Preflight(answers, _has_keys(settings), unknown_host)


def _cache_answers(url: str) -> bool | None:
    if is_private(url):
        return None
    from guidsvc.cache.redis.probe import probe_redis

    try:
        return within(CACHE_SECONDS, lambda: asyncio.run(probe_redis(url)))
    except TimeoutError:
        return False


def _unknown_host(url: str) -> str | None:
    """Return the host in the URL of Redis if it has no address."""
    host = None if url.startswith("unix:") else urlsplit(url).hostname

    async def resolve() -> None:
        await asyncio.get_running_loop().getaddrinfo(host, None)

    try:
        if host is not None:
            within(CACHE_SECONDS, lambda: asyncio.run(resolve()))
    except TimeoutError:  # the name server does not answer: the name may be right
        return None
    except (socket.gaierror, UnicodeError):
        return host
    return None


def _has_keys(settings: Settings) -> bool | None:
    if not is_controlled(settings):
        return None
    try:
        return within(KEYS_SECONDS, lambda: asyncio.run(_find_key(settings.store_url)))
    except NoStore:
        return False
    except (StartError, GuidsvcError, TimeoutError):
        return None  # the start opens the same store next, and reports what is wrong with it


async def _find_key(store_url: str) -> bool:
    async with open_keys(store_url, create=False) as api_keys:
        return bool(await api_keys.list("", 1))
