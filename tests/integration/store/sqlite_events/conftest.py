"""Fixtures of the tests of the event log on SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from guidsvc.store.sqlite.store import SqliteStore, open_sqlite


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """A SQLite store with the clock of this host."""
    async with open_sqlite(path, exclusive=False) as opened:
        yield opened
