"""Fixtures of the store tests: the SQLite file, and the fixtures of the event log tests on MongoDB."""

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
    """The file of a SQLite store."""
    return tmp_path / "guidsvc.db"


@pytest.fixture
def now() -> int:
    """The time of MongoDB's clock, which decides whether a record is due."""
    return time.time_ns() // 1_000_000


@pytest.fixture
async def store(mongo_url: str) -> AsyncIterator[MongoStore]:
    """A store on MongoDB; tests of other stores override it."""
    async with open_mongo(mongo_url) as opened:
        yield opened


@pytest.fixture
def documents(mongo_url: str) -> Iterator[Documents]:
    """The collections of the store."""
    with pymongo.MongoClient[dict[str, Any]](mongo_url) as client:
        yield client.get_default_database()
