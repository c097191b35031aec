"""What is counted as used is an upper bound of what SQLite takes, whatever the size of a row."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from guidsvc.domain.receipt import Receipt
from guidsvc.runtime.temporary_space import MIB, TemporarySpace
from guidsvc.services.receipts.quota import RECEIPT_BYTES
from guidsvc.store import open_store
from guidsvc.store.overlay import open_overlay
from guidsvc.store.sqlite.store import path_of_url
from tests.conftest import FakeClock
from tests.support.factories import record

SIZES = [100, 700, 701, 850, 1_000, 2_000, 3_900, 4_100, 15_000]
FREE_PART = 1.15
"""Pages of the file that shares them are not full."""


def file_bytes(path: Path) -> int:
    """Return the size of a SQLite file, with its log."""
    with closing(sqlite3.connect(path)) as connection:
        ((pages,), (page_bytes,)) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
        )
        return int(pages * page_bytes)


@pytest.mark.parametrize("size", SIZES)
async def test_receipts_take_no_more_than_is_counted(sqlite_url: str, clock: FakeClock, size: int) -> None:
    async with open_store(sqlite_url, exclusive=True) as store:
        before = file_bytes(path_of_url(sqlite_url))
        template = Receipt(
            key="0",
            fingerprint="f" * 64,
            attempt=1,
            leased_until=clock(),
            seed="0" * 32,
            claimed=clock(),
            purge_at=clock.seconds,
        )
        receipts = [
            template.model_copy(update={"key": f"{number:064x}", "answer": "a" * size}) for number in range(600)
        ]
        await asyncio.gather(*(store.receipts.swap(None, each) for each in receipts))
        usage = await store.receipts.usage("")
        used_bytes = usage.number * RECEIPT_BYTES + usage.answer_bytes
        assert usage.number == len(receipts)
        assert file_bytes(path_of_url(sqlite_url)) - before <= FREE_PART * used_bytes


@pytest.mark.parametrize("size", SIZES)
async def test_overlay_takes_no_more_than_its_share(sqlite_url: str, clock: FakeClock, size: int) -> None:
    async with open_store(sqlite_url, exclusive=True) as store:
        with TemporarySpace().share() as share, open_overlay(store.records, share) as overlay:
            for number in range(600):
                written = record(clock(), guid=f"{number * 7919 % 600:032X}", metadata=f'{{"a":"{"x" * size}"}}')
                assert await overlay.swap(None, written)
            assert overlay._written is not None
            ((pages,),) = overlay._written.execute("PRAGMA page_count").fetchall()
            assert pages * 4096 <= share.used_bytes < 64 * MIB
