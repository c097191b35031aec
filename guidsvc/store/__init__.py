"""The entry points of the store package: open the store that a URL names.

A store holds records and enforces no business rule. Every change of a record is one compare-and-swap, so no
check-then-act race is possible, even with concurrent writers.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guidsvc.connection_urls import redact, scheme_of, unsupported
from guidsvc.domain.events.schedule import DEFAULT_POLICY, EventPolicy
from guidsvc.errors import StartError
from guidsvc.optional_imports import requires_extra
from guidsvc.store.contract import ApiKeyRepository, Database
from guidsvc.telemetry.metrics import StoreMetrics

MONGO_SCHEMES = {"mongodb", "mongodb+srv"}


def validate_store_url(url: str) -> None:
    """Raise StartError if no store can be opened by this URL, without connecting or opening a file."""
    scheme = scheme_of(url)
    if scheme == "sqlite":
        from guidsvc.store.sqlite.store import path_of_url

        path_of_url(url)
    elif scheme in MONGO_SCHEMES:
        with requires_extra("mongo", "store_url"):
            from guidsvc.store.mongo.store import validate_mongo_url
        validate_mongo_url(url)
    else:
        raise StartError(
            f"store_url: unsupported store {unsupported(url)}; use {_sqlite_url(url)} or mongodb://host/name"
        )


def _sqlite_url(text: str) -> str:
    """Return the URL of a SQLite store: of the file if the text is a path, else of any."""
    is_path = re.fullmatch(r"[\w./+-]*[./][\w./+-]*", text) is not None
    return f"sqlite:///{text}" if is_path else "sqlite:///path"


@asynccontextmanager
async def open_store(
    url: str,
    *,
    exclusive: bool,
    meter: StoreMetrics | None = None,
    events: EventPolicy = DEFAULT_POLICY,
    create: bool = True,
) -> AsyncIterator[Database]:
    """Open the store that a URL names, `sqlite:///path` or `mongodb://...`, and close it at the end.

    `exclusive` means that no other process may write the same records, because this process caches them. SQLite
    enforces it on one host. StartError if the store cannot be used, or if `create` is False and its SQLite file does
    not exist.
    """
    validate_store_url(url)
    if scheme_of(url) == "sqlite":
        from guidsvc.store.sqlite.store import open_sqlite, path_of_url

        path = path_of_url(url)
        async with open_sqlite(path, exclusive=exclusive, meter=meter, events=events, create=create) as sqlite:
            yield sqlite
    else:
        from guidsvc.store.mongo.store import open_mongo

        async with open_mongo(url, exclusive=exclusive, meter=meter, events=events) as mongo:
            yield mongo


@asynccontextmanager
async def open_keys(url: str, *, create: bool = True) -> AsyncIterator[ApiKeyRepository]:
    """Open only the API keys of a store; this works while a service has the store open exclusively.

    StartError if the store cannot be used; NoStore if it does not exist and `create` is False.
    """
    if url.startswith("sqlite:"):
        from guidsvc.store.sqlite.store import open_keys_of, path_of_url

        async with open_keys_of(path_of_url(url), create=create) as keys:
            yield keys
    else:
        if not create and scheme_of(url) in MONGO_SCHEMES:
            with requires_extra("mongo", "store_url"):
                from guidsvc.store.mongo.store import require_mongo

            await require_mongo(url)
        off = EventPolicy("off")  # it does not use the log, so it must neither invalidate cursors nor wait for others
        async with open_store(url, exclusive=False, events=off) as store:
            yield store.api_keys


def location_of(url: str) -> str:
    """Return the location of a store for display: an absolute path, or a URL without its password."""
    if not url.startswith("sqlite:"):
        return redact(url)
    from guidsvc.store.sqlite.store import path_of_url

    return str(path_of_url(url))
