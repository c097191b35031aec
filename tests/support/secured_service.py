"""A service with access control, those who hold keys to it, and what its store holds."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from sqlite3 import connect
from typing import Any, NamedTuple

import pymongo

from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import ApiKey
from guidsvc.store import open_keys
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import FakeClock
from tests.support.http_client import Client, Reply


class Held(NamedTuple):
    """A key that somebody holds."""

    key: ApiKey
    text: str

    @property
    def headers(self) -> dict[str, str]:
        """What shows it."""
        return {"Authorization": f"Bearer {self.text}"}


class Asker:
    """A client of the service that shows a key."""

    def __init__(self, client: Client, held: Held) -> None:
        self._client = client
        self._held = held

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        """Ask with the key."""
        headers = self._held.headers | options.pop("headers", {})
        return await self._client.ask(method, path, headers=headers, **options)


class Guarded(NamedTuple):
    """A service with access control, and where its keys are."""

    client: Client
    store_url: str
    clock: FakeClock

    async def give(self, owner: str = "alice", scopes: str = "read write delete", **more: Any) -> Held:
        """Make a key."""
        key, text = keys.generate(owner, scopes.split(), self.clock(), **more)
        async with open_keys(self.store_url) as kept:
            assert await kept.swap(None, key)
        return Held(key, text)

    async def asker(self, owner: str = "alice", scopes: str = "read write delete") -> Asker:
        """Return somebody with a key of their own."""
        return Asker(self.client, await self.give(owner, scopes))

    async def change(self, held: Held, **changed: Any) -> None:
        """Change what is kept of a key."""
        async with open_keys(self.store_url) as kept:
            is_changed = False
            while not is_changed:  # the service may note at the same time that the key was used
                old = await kept.get(held.key.id)
                assert old is not None
                new = old.model_copy(update=changed | {"version": old.version + 1})
                is_changed = await kept.swap(old, new)


async def until(status: int, asker: Asker, path: str) -> Reply:
    """Ask until that is answered."""
    async with asyncio.timeout(5):
        while True:
            reply = await asker.ask("GET", path)
            if reply.status == status:
                return reply
            await asyncio.sleep(0.05)


MOVING = {"log", "leases"}
"""Collections of MongoDB that change when no request does: events move to the log from the member `g` of records."""


def everything(url: str) -> Iterator[object]:
    """Yield all that a store holds."""
    if url.startswith("sqlite"):
        with closing(connect(path_of_url(url))) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                yield from database.execute(f"SELECT * FROM {table}").fetchall()
        return
    with pymongo.MongoClient[dict[str, object]](url) as mongo:
        database_ = mongo.get_default_database()
        for name in sorted({*database_.list_collection_names()} - MOVING):
            yield from database_[name].find(projection={"g": 0})
