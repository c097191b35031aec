"""The account of an owner: requests for reservations and releases, which share the swaps of the ledger."""

import asyncio
import random
from collections.abc import Sequence

import structlog

from guidsvc.domain.quota_ledger import LEASE_MS, LedgerUpdate, QuotaLedger, ReservationRequest
from guidsvc.errors import Contention, GuidsvcError, OutcomeUnknown, StoreUnavailable
from guidsvc.runtime.batching import Batcher
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import Database
from guidsvc.store.lease import LeaseClock

GROUP = 1_000
"""Maximum number of records admitted in one swap."""
ATTEMPTS = 100
"""Maximum number of attempts of a swap that loses its races."""
PAUSE_SECONDS = 0.01
"""Maximum pause before the first retry of a swap; that of later ones grows up to five times as long."""
USE_SECONDS = LEASE_MS / 2000
"""Maximum time from the request of a reservation to the write under it."""

_log = structlog.get_logger(__name__)


class QuotaAccount:
    """The pending requests and ended reservations of an owner in this process."""

    def __init__(self, owner: str, database: Database, lease_clock: LeaseClock, clock: Clock, quota: int) -> None:
        self._owner = owner
        self._database = database
        self._lease_clock = lease_clock
        self._clock = clock
        self._quota = quota
        self._requests: Batcher[ReservationRequest | None, int | None] = Batcher(self._run, limit=GROUP, in_flight=1)
        self.ended: set[str] = set()
        """Names of reservations to release."""
        self.is_releasing = False

    async def admit(self, request: ReservationRequest) -> int | None:
        """Reserve a place; return the deadline of the write by the store's clock.

        Return None if a place may become free when reservations end; else raise QuotaExceeded.
        """
        return await self._requests.ask(request)

    async def release(self) -> bool:
        """Release ended reservations, if any; return False if the store fails."""
        try:
            if self.ended:
                await self._requests.ask(None)
        except GuidsvcError as error:
            _log.info("reservations not released", owner=self._owner, error=str(error))
            return False
        return True

    async def _run(self, requests: list[ReservationRequest | None]) -> Sequence[int | Exception | None]:
        """Answer a batch of requests; None only releases ended reservations."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(0, min(PAUSE_SECONDS * attempt, 5 * PAUSE_SECONDS)))  # noqa: S311  # nosec B311  # no secret
            results = await self._try([request for request in requests if request is not None])
            if results is not None:
                return [None if request is None else results[request.name] for request in requests]
        raise Contention(f"the ledger of {self._owner!r} was changed concurrently {ATTEMPTS} times in a row; retry")

    async def _try(self, requests: list[ReservationRequest]) -> dict[str, int | Exception | None] | None:
        """Try one swap; return the deadline or rejection of each request by name, or None if the race was lost."""
        ended = frozenset(self.ended)
        not_after = await self._lease_clock.not_after(self._lease_clock.timer() + USE_SECONDS) if requests else None
        old, now = await self._database.ledgers.get(self._owner), self._clock()
        update = LedgerUpdate(old, requests, ended=ended, quota=self._quota, now=now)
        if not update.has_room:
            update.count(await self._database.records.count_linearizable(update.others(self._owner)))
        new = update.after(self._owner)
        if new is not None and not await self._swap(old, new):
            return None
        self.ended -= ended
        results = update.results.items()
        return {name: not_after if result is True else result or None for name, result in results}

    async def _swap(self, old: QuotaLedger | None, new: QuotaLedger) -> bool:
        try:
            return await self._database.ledgers.swap(old, new)
        except OutcomeUnknown as error:  # only the reservation is unknown: no record was written
            raise StoreUnavailable(f"the ledger of {self._owner!r}: {error}") from error
