"""The storage limit of receipts while the store cannot count them."""

import asyncio
import logging

import pytest

from guidsvc.domain.receipt import ReceiptUsage
from guidsvc.errors import ReceiptsFull, StoreUnavailable
from guidsvc.services.receipts.quota import COUNT_EVERY_MS, RECEIPT_BYTES, ReceiptRoom
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.work_time import add_work
from tests.conftest import ExpectedLogs, FakeClock

FAULT = "receipts not counted"


class SlowCount:
    """The receipts of a store whose count fails or is slow. A real store is that slow only with millions of them."""

    def __init__(self, store: Database, usage: asyncio.Future[ReceiptUsage] | None = None) -> None:
        self._usage = usage
        self.get, self.swap, self.purge = store.receipts.get, store.receipts.swap, store.receipts.purge
        self.counts = 0

    async def usage(self, prefix: str) -> ReceiptUsage:
        self.counts += 1
        if self._usage is not None:
            return await self._usage
        raise StoreUnavailable("timed out")


async def test_failed_count_is_logged_once_a_minute(
    sqlite_url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(FAULT)
    async with open_store(sqlite_url, exclusive=False) as store:
        receipts = SlowCount(store)
        room = ReceiptRoom(receipts, clock=clock, total_bytes=22 * RECEIPT_BYTES)
        for _ in range(10):
            await room.reserve("a")
        assert lines(caplog) == receipts.counts == 2, "one count of the owner, and one of all"

        clock.advance(seconds=COUNT_EVERY_MS / 1000)
        await room.reserve("a")
        assert lines(caplog) == receipts.counts == 4
        with pytest.raises(ReceiptsFull):
            await room.reserve("a")


async def test_request_does_not_wait_for_a_long_count(sqlite_url: str, clock: FakeClock) -> None:
    usage: asyncio.Future[ReceiptUsage] = asyncio.get_running_loop().create_future()
    async with open_store(sqlite_url, exclusive=False) as store:
        receipts = SlowCount(store, usage)
        room = ReceiptRoom(receipts, clock=clock, total_bytes=100 * RECEIPT_BYTES, count_wait_seconds=0.01)
        await room.reserve("a")
        await room.reserve("a")
        assert receipts.counts == 2, "one concurrent count of the owner, and one of all"

        usage.set_result(ReceiptUsage(100, 0))
        assert await reserved_until_full(room) < 50, "the count is used, not only the receipts of this process"


async def reserved_until_full(room: ReceiptRoom) -> int:
    """Reserve until the room is full; return the number of reservations."""
    for number in range(1000):
        try:
            await room.reserve("a")
        except ReceiptsFull:
            return number
        await asyncio.sleep(0)
    return 1000


def lines(caplog: pytest.LogCaptureFixture) -> int:
    """Return the number of warnings about failed counts."""
    return sum(FAULT in logged.getMessage() for logged in caplog.records if logged.levelno == logging.WARNING)


@pytest.mark.parametrize(
    ("work_seconds", "wait_seconds", "valid_ms"),
    [pytest.param(0.0, 2.0, 60_000, marks=pytest.mark.slow), (2.0, 0.0, 200_000), (60.0, 0.0, 600_000)],
)
async def test_count_is_valid_by_its_work_not_its_wait(
    sqlite_url: str, clock: FakeClock, work_seconds: float, wait_seconds: float, valid_ms: int
) -> None:
    class Waiting(SlowCount):
        async def usage(self, prefix: str) -> ReceiptUsage:
            self.counts += 1
            await asyncio.sleep(wait_seconds)
            add_work(work_seconds)
            return ReceiptUsage(0, 0)

    async with open_store(sqlite_url, exclusive=False) as store:
        receipts = Waiting(store)
        room = ReceiptRoom(receipts, clock=clock, count_wait_seconds=10)
        await room.reserve("a")
        assert receipts.counts == 2, "one count of the owner, and one of all"
        clock.now += valid_ms - 1
        await room.reserve("a")
        assert receipts.counts == 2
        clock.now += 1
        await room.reserve("a")
        assert receipts.counts == 4
