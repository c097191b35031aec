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
    """The receipts of a store that cannot count, or not soon: a real store is that slow only with millions of them."""

    def __init__(self, store: Database, answer: asyncio.Future[ReceiptUsage] | None = None) -> None:
        self._answer = answer
        self.get, self.swap, self.purge = store.receipts.get, store.receipts.swap, store.receipts.purge
        self.counts = 0

    async def usage(self, prefix: str) -> ReceiptUsage:
        self.counts += 1
        if self._answer is not None:
            return await self._answer
        raise StoreUnavailable("timed out")


async def test_failed_count_is_logged_once_a_minute(
    sqlite_url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add(FAULT)
    async with open_store(sqlite_url, exclusive=False) as store:
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


async def test_request_does_not_wait_for_a_long_count(sqlite_url: str, clock: FakeClock) -> None:
    answer: asyncio.Future[ReceiptUsage] = asyncio.get_running_loop().create_future()
    async with open_store(sqlite_url, exclusive=False) as store:
        receipts = SlowCount(store, answer)
        room = ReceiptRoom(receipts, clock=clock, total_bytes=100 * RECEIPT_BYTES, count_wait_seconds=0.01)
        await room.reserve("a")
        await room.reserve("a")
        assert receipts.counts == 2, "one count at a time of the owner, and one of all"

        answer.set_result(ReceiptUsage(100, 0))
        assert await reserved_until_full(room) < 50, "the count is used, not only what this process wrote"


async def reserved_until_full(room: ReceiptRoom) -> int:
    """Reserve room, and return how often that was possible."""
    for number in range(1000):
        try:
            await room.reserve("a")
        except ReceiptsFull:
            return number
        await asyncio.sleep(0)
    return 1000


def lines(caplog: pytest.LogCaptureFixture) -> int:
    """Return the number of warnings about failed counts."""
    return sum(FAULT in each.getMessage() for each in caplog.records if each.levelno == logging.WARNING)


@pytest.mark.parametrize(
    ("worked", "waited", "valid_ms"),
    [pytest.param(0.0, 2.0, 60_000, marks=pytest.mark.slow), (2.0, 0.0, 200_000), (60.0, 0.0, 600_000)],
)
async def test_count_is_valid_by_its_work_not_its_wait(
    sqlite_url: str, clock: FakeClock, worked: float, waited: float, valid_ms: int
) -> None:
    class Waiting(SlowCount):
        async def usage(self, prefix: str) -> ReceiptUsage:
            self.counts += 1
            await asyncio.sleep(waited)
            add_work(worked)
            return ReceiptUsage(0, 0)

    async with open_store(sqlite_url, exclusive=False) as store:
        receipts = Waiting(store)
        room = ReceiptRoom(receipts, clock=clock, count_wait_seconds=10)
        await room.reserve("a")
        assert receipts.counts == 2, "of the owner, and of all"
        clock.now += valid_ms - 1
        await room.reserve("a")
        assert receipts.counts == 2
        clock.now += 1
        await room.reserve("a")
        assert receipts.counts == 4
