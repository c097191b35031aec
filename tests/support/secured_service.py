"""A service with access control, clients with API keys, and the rows of its store."""

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

WAIT_SECONDS = 60.0
"""Time limit of what must happen, such as the end of a session."""


class Credential(NamedTuple):
    """An API key and its text, which contains the secret."""

    key: ApiKey
    text: str

    @property
    def headers(self) -> dict[str, str]:
        """The header that authenticates with the key."""
        return {"Authorization": f"Bearer {self.text}"}


class KeyClient:
    """A client of the service that authenticates with an API key."""

    def __init__(self, client: Client, credential: Credential) -> None:
        self._client = client
        self.credential = credential

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        """Send a request with the key."""
        headers = self.credential.headers | options.pop("headers", {})
        return await self._client.ask(method, path, headers=headers, **options)


class SecuredService(NamedTuple):
    """A service with access control, and the store with its keys."""

    client: Client
    store_url: str
    clock: FakeClock

    async def create_key(self, owner: str = "alice", scopes: str = "read write delete", **fields: Any) -> Credential:
        """Create a key."""
        key, text = keys.generate(owner, scopes.split(), self.clock(), **fields)
        async with open_keys(self.store_url) as key_repository:
            assert await key_repository.swap(None, key)
        return Credential(key, text)

    async def key_client(self, owner: str = "alice", scopes: str = "read write delete") -> KeyClient:
        """Return a client with a new key."""
        return KeyClient(self.client, await self.create_key(owner, scopes))

    async def update_key(self, credential: Credential, **changes: Any) -> None:
        """Change fields of a stored key."""
        async with open_keys(self.store_url) as key_repository:
            is_changed = False
            while not is_changed:  # the service may record the use of the key at the same time
                old = await key_repository.get(credential.key.id)
                assert old is not None
                new = old.model_copy(update=changes | {"version": old.version + 1})
                is_changed = await key_repository.swap(old, new)


async def wait_for_status(status: int, client: KeyClient, path: str) -> Reply:
    """Repeat a GET until its response has this status."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            reply = await client.ask("GET", path)
            if reply.status == status:
                return reply
            await asyncio.sleep(0.05)


VOLATILE = {"log", "leases"}
"""Collections of MongoDB that change without requests: events move to the log from the member `g` of records."""


def stored_rows(url: str) -> Iterator[object]:
    """Yield all rows or documents of a store."""
    if url.startswith("sqlite"):
        with closing(connect(path_of_url(url))) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                yield from database.execute(f"SELECT * FROM {table}").fetchall()
        return
    with pymongo.MongoClient[dict[str, object]](url) as mongo:
        database_ = mongo.get_default_database()
        for name in sorted({*database_.list_collection_names()} - VOLATILE):
            yield from database_[name].find(projection={"g": 0})
