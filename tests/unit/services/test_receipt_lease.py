"""The lease of a receipt: a renewal never claims a receipt again that was released, or whose response is stored."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from guidsvc.domain.receipt import Receipt
from guidsvc.services.receipts.lease import LeasedReceipt, LeaseTerm
from guidsvc.store import open_store
from guidsvc.store.contract import Database
from guidsvc.store.lease import LeaseClock
from tests.conftest import FakeClock
from tests.support.gated_store import run_ready_tasks

SECONDS = 10.0


class GatedReceipts:
    """The receipts of a store, whose writes wait until the gate is open."""

    def __init__(self, backend: Database) -> None:
        self._receipts = backend.receipts
        self.is_open = asyncio.Event()

    async def swap(self, old: Receipt | None, new: Receipt | None) -> bool:
        await self.is_open.wait()
        return await self._receipts.swap(old, new)


@pytest.fixture
async def backend(sqlite_url: str) -> AsyncIterator[Database]:
    async with open_store(sqlite_url, exclusive=False) as store:
        yield store


async def end_incomplete(lease: LeasedReceipt) -> None:
    """Store a response with unknown parts, which the next request executes again."""
    assert await lease.complete(b"answer", None, is_final=False)


@pytest.mark.parametrize("end", [LeasedReceipt.release, end_incomplete])
async def test_renewal_that_waited_claims_no_receipt_again(
    backend: Database, clock: FakeClock, end: Callable[[LeasedReceipt], Awaitable[None]]
) -> None:
    """Otherwise the next request with the key would be rejected for the duration of a lease."""
    receipts, term = GatedReceipts(backend), LeaseTerm(clock, LeaseClock(backend.fence), SECONDS)
    claimed = Receipt(
        key="0" * 64,
        fingerprint="1" * 64,
        attempt=1,
        leased_until=term.until,
        seed="2" * 32,
        claimed=clock(),
        purge_at=clock.seconds + 100,
    )
    await backend.receipts.swap(None, claimed)
    lease = LeasedReceipt(receipts, claimed, term, term.deadline)  # type: ignore[arg-type]  # it only swaps
    ending = asyncio.ensure_future(end(lease))
    await run_ready_tasks(10)
    renewal = asyncio.create_task(lease.renew())
    await run_ready_tasks(10)
    receipts.is_open.set()
    await asyncio.gather(ending, renewal)

    stored = await backend.receipts.get(claimed.key)
    assert stored is not None
    assert stored.leased_until == 0
