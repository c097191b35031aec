"""Fixtures of the tests of the stores: the file of SQLite, and what the tests of the event log on MongoDB need."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from guidsvc.store.mongo.store import MongoStore, open_mongo
from tests.support.mongo_documents import Documents


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a store on SQLite."""
    return tmp_path / "guidsvc.db"


@pytest.fixture
def now() -> int:
    """The time by the clock of MongoDB, which decides what is due."""
    return time.time_ns() // 1_000_000


@pytest.fixture
async def store(patient_mongo_url: str) -> AsyncIterator[MongoStore]:
    """A store on MongoDB. The tests of other stores have their own."""
    async with open_mongo(patient_mongo_url) as opened:
        yield opened


@pytest.fixture
def documents(mongo_url: str) -> Iterator[Documents]:
    """The collections of the store."""
    with pymongo.MongoClient[dict[str, Any]](mongo_url) as client:
        yield client.get_default_database()
