"""What is counted as used is an upper bound of what SQLite takes, whatever the size of a row."""

import asyncio
import sqlite3
from contextlib import closing
from itertools import cycle
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


@pytest.mark.parametrize(
    "sizes", [[100], [1_150], [1_700], [1_950], [3_900], [4_300], [15_900], [100, 3_850], [1_700, 2_300]], ids=str
)
@pytest.mark.parametrize("owner", ["", "o" * 200], ids=["no-owner", "long-owner"])
async def test_event_log_takes_no_more_than_is_counted(
    sqlite_url: str, clock: FakeClock, sizes: list[int], owner: str
) -> None:
    """In SQLite, an entry of a little more than half a page leaves the rest of its page empty."""
    async with open_store(sqlite_url, exclusive=True) as store:
        old = record(clock(), owner=owner)
        assert await store.records.swap(None, old)
        file_before, (counted_before, _) = file_bytes(path_of_url(sqlite_url)), await store.events.size()
        for number, size in zip(range(200), cycle(sizes), strict=False):
            metadata = f'{{"a":"{number:03}{"x" * size}"}}'
            new = old.model_copy(update={"metadata": metadata, "version": old.version + 1})
            assert await store.records.swap(old, new)
            old = new
        counted_bytes = (await store.events.size())[0] - counted_before
        assert file_bytes(path_of_url(sqlite_url)) - file_before <= FREE_PART * counted_bytes


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
