"""The storage limit of receipts while the store cannot count them."""

import logging

import pytest

from guidsvc.domain.receipt import ReceiptUsage
from guidsvc.errors import ReceiptsFull, StoreUnavailable
from guidsvc.services.receipt_quota import COUNT_EVERY_MS, RECEIPT_BYTES, ReceiptRoom
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from tests.conftest import ExpectedLogs, FakeClock

FAULT = "receipts not counted"


class SlowCount:
    """The receipts of a store that cannot count: a real store does so only with millions of receipts."""

    def __init__(self, store: Database) -> None:
        self.get, self.swap, self.purge = store.receipts.get, store.receipts.swap, store.receipts.purge
        self.counts = 0

    async def usage(self, prefix: str) -> ReceiptUsage:
        self.counts += 1
        raise StoreUnavailable("timed out")


async def test_a_failed_count_is_logged_once_a_minute_and_the_limit_uses_the_last_count(
    sqlite_url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(FAULT)
    async with open_store(sqlite_url, clock=clock, exclusive=False) as store:
        receipts = SlowCount(store)
        room = ReceiptRoom(receipts, clock=clock, total_bytes=11 * RECEIPT_BYTES)
        for _ in range(10):
            await room.reserve("a")
        assert lines(caplog) == receipts.counts == 2, "one for the owner, and one for all"

        clock.advance(seconds=COUNT_EVERY_MS / 1000)
        await room.reserve("a")
        assert lines(caplog) == receipts.counts == 4
        with pytest.raises(ReceiptsFull):
            await room.reserve("a")


def lines(caplog: pytest.LogCaptureFixture) -> int:
    """Return the number of warnings about failed counts."""
    return sum(FAULT in each.getMessage() for each in caplog.records if each.levelno == logging.WARNING)
