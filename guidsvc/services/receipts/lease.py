"""The lease of a receipt: while it holds, this process alone executes the request, and may store its response."""

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog

from guidsvc.domain.receipt import Receipt
from guidsvc.errors import LeaseExpired, OutcomeUnknown, Unavailable
from guidsvc.runtime.background import SingleFlight, in_thread
from guidsvc.runtime.clock import Clock
from guidsvc.services.receipts.quota import pack
from guidsvc.store.contract import ReceiptRepository
from guidsvc.store.lease import LeaseClock
from guidsvc.utf8 import utf8_bytes

RENEW_SECONDS = 4.0
"""A lease with less time left is renewed before a write, which may take the store some seconds."""
CLOCKS_SECONDS = 1.0
"""Allowed difference between the clocks of hosts: the holder of a lease treats it as expired this much earlier."""
MAX_ANSWER_BYTES = 64 * 1024
"""Maximum size of a stored response, compressed. A larger one is replaced by a shorter form."""

_log = structlog.get_logger(__name__)

ShorterForms = Callable[[], Iterable[bytes]]
"""Returns shorter forms of the last response, longest first.

The first that fits is stored if the full response is too large. It is called in a thread."""


class LeaseTerm(NamedTuple):
    """The duration of a lease: others measure it by the clock, the holder by its own continuous clock."""

    clock: Clock
    lease_clock: LeaseClock
    seconds: float

    @property
    def until(self) -> int:
        """The end of a lease written now, in Unix milliseconds."""
        return self.clock() + round(self.seconds * 1000)

    @property
    def deadline(self) -> float:
        """The time by the timer until which the holder may use a lease written from now on."""
        return self.lease_clock.timer() + self.seconds - CLOCKS_SECONDS


class LeasedReceipt:
    """The claimed receipt of a request that is being executed."""

    def __init__(self, receipts: ReceiptRepository, receipt: Receipt, term: LeaseTerm, deadline: float) -> None:
        self._receipts = receipts
        self._receipt = receipt
        self._term = term
        self._deadline = deadline
        self._has_ended = False
        """Whether the lease is released, or the response is stored: a renewal would claim the receipt again."""
        self._is_lost = False
        """Whether another process has changed the receipt, so that this one can never write it again."""
        self._renewal = SingleFlight(self.renew)
        self._lock = asyncio.Lock()

    async def not_after(self) -> int:
        """Return the end of the lease, as `RecordRepository.swap` expects it; renew the lease first if it ends soon.

        Raise LeaseExpired if it has ended.
        """
        if self._seconds_left < RENEW_SECONDS and not self._is_lost:
            await self._renewal.run()
        if self._seconds_left <= 0:
            raise LeaseExpired("the lease of this Idempotency-Key has ended; send the request again")
        return await self._term.lease_clock.not_after(self._deadline)

    @property
    def _seconds_left(self) -> float:
        return self._deadline - self._term.lease_clock.timer()

    @property
    def stored_bytes(self) -> int:
        """The size of the response in the receipt; 0 if it has none."""
        return utf8_bytes(self._receipt.answer or "")

    async def complete(self, answer: bytes, shorter: ShorterForms | None, *, is_final: bool = True) -> int | None:
        """Store the response, or the first shorter form that fits, and return the stored size.

        If it is not final, the lease ends: the next request can claim the receipt, and execute the unknown parts again.
        Return None if no form fits, or if the write may have failed. In the first case, the receipt is released.
        """
        packed = await _pack(answer)
        if not _is_storable(packed):
            shorter_packed = None if shorter is None else await in_thread(_pack_shorter, shorter)
            if shorter_packed is None:
                _log.error("response does not fit into its receipt", key=self._receipt.key, size_bytes=len(answer))
                await self.release()
                return None
            packed = shorter_packed
        members = {"answer": packed} if is_final else {"answer": packed, "leased_until": 0}
        async with self._lock:
            self._has_ended = await self._put(**members)
        return utf8_bytes(packed) if self._has_ended else None

    async def renew(self) -> None:
        """Extend the lease, unless it has ended. A renewal may have waited for the write that ended it."""
        async with self._lock:
            deadline = self._term.deadline
            if not (self._has_ended or self._is_lost) and await self._put(leased_until=self._term.until):
                self._deadline = deadline

    async def release(self) -> None:
        """End the lease, so that the next request can claim the receipt."""
        async with self._lock:
            self._has_ended = True
            await self._put(leased_until=0)

    async def delete(self) -> bool:
        """Delete the receipt; return whether it was deleted."""
        async with self._lock:
            self._has_ended = True
            return await self._swap(None)

    async def _put(self, **members: object) -> bool:
        """Change members of the receipt. The caller holds the lock."""
        new = self._receipt.model_copy(update={"attempt": self._receipt.attempt + 1, **members})
        if not await self._swap(new):
            return False
        self._receipt = new
        return True

    async def _swap(self, new: Receipt | None) -> bool:
        try:
            swapped = await self._receipts.swap(self._receipt, new)
        except (Unavailable, OutcomeUnknown) as error:
            _log.warning("receipt not written", key=self._receipt.key, error=str(error))
            return False
        self._is_lost = not swapped
        return swapped


async def _pack(answer: bytes) -> str:
    return pack(answer) if len(answer) <= MAX_ANSWER_BYTES else await in_thread(pack, answer)


def _pack_shorter(shorter: ShorterForms) -> str | None:
    """Return the first of these forms that fits into a receipt, or None."""
    return next(filter(_is_storable, map(pack, shorter())), None)


def _is_storable(packed: str) -> bool:
    return utf8_bytes(packed) <= MAX_ANSWER_BYTES
