"""The quota: no owner has more live records than so many, however many processes create them at once.

A record comes to life when it is created, or renewed. Before it is written it is reserved in its owner's ledger, by
compare and swap; the reservation is taken back when it is known what became of the write, and is over by itself if its
process dies. All that wait in a process for one owner are admitted in one swap.

    reservations        those in the ledger that hold
    live                the records that are, without those that are reserved: a record is counted once, here or there
    room                quota - live - reservations, counted after the ledger was read
    swap the ledger     lost: somebody else was admitted meanwhile, so all of it is done again
    write the record    by whoever was admitted; others see the reservation until they can see the record

Where there is no room but for reservations, of which some may come to nothing, it is waited for what becomes of them;
refused is who would be refused by what is there. A record that is live, but would not be when its update has been
written, is reserved as well, and never refused: it has its place. A refusal is never for a lost race, and what is not
known to be a refusal is not told as one.

A process may stand still between its reservation and its write. So the store rejects the write when the first half of
the reservation's time is over; the second half is for hosts whose clocks disagree. It likewise rejects an update that
extends a record's life without a reservation, because the record would outlive the lease.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import copy_context
from math import inf
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from guidsvc.domain import lifecycle as rules
from guidsvc.domain.quota_ledger import LEASE_MS, LedgerUpdate, QuotaLedger, ReservationRequest, living
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, OutcomeUnknown, QuotaExceeded, StoreUnavailable, Unavailable
from guidsvc.runtime.background import spawn_detached
from guidsvc.runtime.batching import Batcher
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import LedgerRepository
from guidsvc.store.lease import LeaseClock, Timer

GROUP = 1_000
"""At most so many records are admitted in one swap."""
ATTEMPTS = 100
"""How often a swap that loses its race is tried again."""
WAIT_SECONDS = 1.0
"""How long it is waited for what becomes of the reservations of others."""
RELEASE_SECONDS = 0.05
"""Reservations are taken back after so long; or before, in the same swap, if somebody is admitted."""
TRIES = 35
"""So often is tried to take them back: for about as long as they hold."""
USE_SECONDS = LEASE_MS / 2000
"""A write must be done within so long from the moment when its reservation was asked for."""
CLOSE_SECONDS = 2.0
"""So long is tried at the end to take back what is left."""
_PAUSE, _LONGEST = 0.01, 1.0  # seconds

_log = structlog.get_logger(__name__)


class Quota(Protocol):
    """Says whether a record may come to life."""

    def reserve(self, old: Record | None, new: Record | None) -> AbstractAsyncContextManager[int | None]:
        """Let `new` take the place of `old`, inside; QuotaExceeded if the owner has as many live records as it may.

        Yields the `not_after` of the swap; None if it may come at any time.
        """

    def dry_run(self) -> "Quota":
        """Return one that says the same of what is only rehearsed, and reserves nothing."""


class _NoQuota:
    """Says that all may."""

    def reserve(self, old: Record | None, new: Record | None) -> AbstractAsyncContextManager[int | None]:  # noqa: ARG002
        return _FREE

    def dry_run(self) -> Quota:
        return self


_FREE: nullcontext[None] = nullcontext()
NO_QUOTA = _NoQuota()


@asynccontextmanager
async def open_quota(ledgers: LedgerRepository, *, clock: Clock, quota: int) -> AsyncIterator[Quota]:
    """Keep a quota, inside; none if it is 0. At the end all reservations are taken back whose writes are done."""
    if not quota:
        yield NO_QUOTA
        return
    kept = LedgerQuota(ledgers, clock=clock, quota=quota)
    try:
        yield kept
    finally:
        await kept.aclose()


class LedgerQuota:
    """A quota that all keep who share the ledgers of a store."""

    def __init__(
        self,
        ledgers: LedgerRepository,
        *,
        clock: Clock,
        quota: int,
        wait_seconds: float = WAIT_SECONDS,
        release_seconds: float = RELEASE_SECONDS,
        timer: Timer = time.monotonic,
    ) -> None:
        self._ledgers = ledgers
        self._lease_clock = LeaseClock(ledgers, timer=timer)
        self._clock = clock
        self._quota = quota
        self._wait_seconds = wait_seconds
        self._release_seconds = release_seconds
        self._accounts: WeakValueDictionary[str, _Account] = WeakValueDictionary()  # those that somebody uses
        self._releases: set[asyncio.Task[None]] = set()
        self._context = copy_context()  # of nobody's request

    @asynccontextmanager
    async def reserve(self, old: Record | None, new: Record | None) -> AsyncIterator[int | None]:
        """As `Quota` says. What was written, or surely not, is taken back soon; what may have been, when it is over."""
        begun, now = self._lease_clock.timer(), self._clock()
        if new is None or not _lives_longer(old, new, now):
            yield None
            return
        if _is_live(old, now + LEASE_MS):
            yield await self._lease_clock.not_after(begun + USE_SECONDS)
            return
        account = self._account(new.owner)
        wish = ReservationRequest.of(new.guid, old)
        try:
            not_after = await self._admit(account, wish)
        except BaseException:
            self._end(account, wish)
            raise
        try:
            yield not_after
        except Unavailable:
            self._end(account, wish)
            raise
        self._end(account, wish)

    def dry_run(self) -> Quota:
        return DryRunQuota(self._ledgers, clock=self._clock, quota=self._quota)

    async def aclose(self) -> None:
        """Return when what can be taken back at once has been; what cannot is over by itself."""
        if self._releases:
            _, late = await asyncio.wait(self._releases, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _account(self, owner: str) -> "_Account":
        account = self._accounts.get(owner)
        if account is None:
            make = self._context.copy().run
            account = make(_Account, owner, self._ledgers, self._lease_clock, self._clock, self._quota)
            self._accounts[owner] = account
        return account

    async def _admit(self, account: "_Account", wish: ReservationRequest) -> int:
        """Reserve a place; return until when, by the store's clock, the record may be written."""
        loop = asyncio.get_running_loop()
        begun, deadline = loop.time(), inf
        while (not_after := await account.admit(wish)) is None:
            if begun >= deadline:
                raise QuotaExceeded(self._quota)
            deadline = min(deadline, loop.time() + self._wait_seconds)  # a slow store is not what was waited for
            await asyncio.sleep(random.uniform(_PAUSE / 2, _PAUSE * 2))  # noqa: S311  # nosec B311  # no secret
            begun = loop.time()
        return not_after

    def _end(self, account: "_Account", wish: ReservationRequest) -> None:
        """Have a reservation taken back."""
        account.ended.add(wish.name)
        if not account.is_releasing:
            account.is_releasing = True
            task = spawn_detached(self._release(account))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _release(self, account: "_Account") -> None:
        """Take back what has ended, beside the requests; what cannot be in a while is over by itself."""
        failures = 0
        try:
            while account.ended and failures < TRIES:
                await asyncio.sleep(min(self._release_seconds * 2**failures, _LONGEST))
                failures = 0 if await account.release() else failures + 1
        finally:
            account.is_releasing = False


class _Account:
    """What an owner wishes for, and has done with, in this process."""

    def __init__(
        self, owner: str, ledgers: LedgerRepository, lease_clock: LeaseClock, clock: Clock, quota: int
    ) -> None:
        self._owner = owner
        self._ledgers = ledgers
        self._lease_clock = lease_clock
        self._clock = clock
        self._quota = quota
        self._wishes: Batcher[ReservationRequest | None, int | None] = Batcher(self._run, limit=GROUP, in_flight=1)
        self.ended: set[str] = set()
        """Reservations that nobody needs any more."""
        self.is_releasing = False

    async def admit(self, wish: ReservationRequest) -> int | None:
        """Reserve a place, and return until when, by the store's clock, its record may be written.

        None if there is no place, but may be as soon as others are done; QuotaExceeded if not.
        """
        return await self._wishes.ask(wish)

    async def release(self) -> bool:
        """Take back what has ended, if that is not done yet; return whether the store let us."""
        try:
            if self.ended:
                await self._wishes.ask(None)
        except GuidsvcError as error:
            _log.info("reservations not taken back", owner=self._owner, error=str(error))
            return False
        return True

    async def _run(self, wishes: list[ReservationRequest | None]) -> Sequence[int | Exception | None]:
        """Answer wishes; None is a wish for nothing, but that what has ended be taken back."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(0, min(_PAUSE * attempt, 5 * _PAUSE)))  # noqa: S311  # nosec B311  # no secret
            answers = await self._try([wish for wish in wishes if wish is not None])
            if answers is not None:
                return [None if wish is None else answers[wish.name] for wish in wishes]
        raise StoreUnavailable(f"the ledger of {self._owner!r} was changed by others {ATTEMPTS} times in a row")

    async def _try(self, wishes: list[ReservationRequest]) -> dict[str, int | Exception | None] | None:
        """Answer wishes, by their names, with until when they are granted; None if the ledger was changed meanwhile."""
        ended = frozenset(self.ended)
        not_after = await self._lease_clock.not_after(self._lease_clock.timer() + USE_SECONDS) if wishes else None
        old, now = await self._ledgers.ledger(self._owner), self._clock()
        page = LedgerUpdate(old, wishes, ended=ended, quota=self._quota, now=now)
        if not page.has_room:
            page.count(await self._ledgers.count_linearizable(page.others(self._owner)))
        new = page.after(self._owner)
        if new is not None and not await self._swap(old, new):
            return None
        self.ended -= ended
        return {name: not_after if answer is True else answer or None for name, answer in page.answers.items()}

    async def _swap(self, old: QuotaLedger | None, new: QuotaLedger) -> bool:
        try:
            return await self._ledgers.swap_ledger(old, new)
        except OutcomeUnknown as error:  # of the reservation: no record was written
            raise StoreUnavailable(f"the ledger of {self._owner!r}: {error}") from error


class DryRunQuota:
    """A quota over what is rehearsed: what there is, and what the rehearsal has made of it so far."""

    def __init__(self, ledgers: LedgerRepository, *, clock: Clock, quota: int) -> None:
        self._ledgers = ledgers
        self._clock = clock
        self._quota = quota
        self._live: dict[str, int] = {}

    @asynccontextmanager
    async def reserve(self, old: Record | None, new: Record | None) -> AsyncIterator[None]:
        """As `Quota` says."""
        now, either = self._clock(), new or old
        more = _is_live(new, now) - _is_live(old, now)
        if either is None or not more:
            yield None
            return
        owner = either.owner
        if owner not in self._live:
            live = await self._ledgers.count_linearizable(living(owner, now))
            self._live.setdefault(owner, live)
        if more > 0 and self._live[owner] >= self._quota:
            raise QuotaExceeded(self._quota)
        self._live[owner] += more
        try:
            yield None
        except BaseException:
            self._live[owner] -= more
            raise

    def dry_run(self) -> Quota:
        return self


def _is_live(record: Record | None, now: int) -> bool:
    return record is not None and rules.is_live(record, now)


def _lives_longer(old: Record | None, new: Record, now: int) -> bool:
    """Whether a record will be live, and for longer than it is."""
    return rules.is_live(new, now) and (old is None or old.expire < new.expire)
