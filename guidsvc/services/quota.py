"""Quota enforcement: a limit on the live records of an owner, which holds across concurrent processes.

A record becomes live when it is created or renewed. Before that write, it is reserved in its owner's ledger by
compare-and-swap. The reservation is released when the outcome of the write is known, and expires if its process dies.
Concurrent requests of a process for one owner share one swap.

    reservations        unexpired entries of the ledger
    live                live records in the store without a reservation, so that each record counts once
    room                quota - live - reservations, counted after the ledger was read
    swap the ledger     if the race is lost, another process was admitted meanwhile: retry from the start
    write the record    after admission; others see the reservation until they can see the record

If only reservations use up the room, a request waits up to WAIT_SECONDS for them to end, as some may be released. It is
rejected at once if live records alone fill the quota. A live record that may expire before its update is written is
reserved too, but never rejected: it has its place. A lost race never causes a rejection.

A process may be suspended between its reservation and its write. So the store rejects the write after the first half of
the lease; the second half allows for clock differences between hosts. Updates that extend a live record without a
reservation have the same deadline, because the record could expire before a later write.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import copy_context
from math import inf
from typing import Protocol
from weakref import WeakValueDictionary

from guidsvc.domain import lifecycle
from guidsvc.domain.quota_ledger import LEASE_MS, ReservationRequest, living
from guidsvc.domain.record import Record
from guidsvc.errors import QuotaExceeded, Unavailable
from guidsvc.runtime.background import spawn_detached
from guidsvc.runtime.clock import Clock
from guidsvc.services.quota_account import USE_SECONDS, QuotaAccount
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.lease import LeaseClock

WAIT_SECONDS = 1.0
"""Maximum wait for reservations of others to end."""
RELEASE_SECONDS = 0.05
"""Delay before ended reservations are released; an earlier admission releases them in its own swap."""
TRIES = 35
"""Maximum number of consecutive failures to release: with the pauses, about the lifetime of a reservation."""
CLOSE_SECONDS = 2.0
"""Maximum time that shutdown waits for releases."""
_PAUSE, _LONGEST = 0.01, 1.0  # seconds


class Quota(Protocol):
    """The limit on the live records of an owner."""

    def reserve(self, old: Record | None, new: Record | None) -> AbstractAsyncContextManager[int | None]:
        """Admit the replacement of `old` by `new` inside the block; raise QuotaExceeded if the quota is used up.

        Yields the `not_after` for the swap, or None if it has no deadline.
        """

    def note_deletion(self, owner: str) -> None:
        """Note a deletion for which `reserve` was not called: it makes room for the next creation of the owner."""

    def dry_run(self) -> "Quota":
        """Return a quota for a dry run, which applies the same limit and reserves nothing."""


class _NoQuota:
    """A quota without a limit."""

    def reserve(self, old: Record | None, new: Record | None) -> AbstractAsyncContextManager[int | None]:  # noqa: ARG002
        return _FREE

    def note_deletion(self, owner: str) -> None:
        pass

    def dry_run(self) -> Quota:
        return self


_FREE: nullcontext[None] = nullcontext()
NO_QUOTA = _NoQuota()


@asynccontextmanager
async def open_quota(database: Database, *, lease_clock: LeaseClock, clock: Clock, quota: int) -> AsyncIterator[Quota]:
    """Open a quota; 0 means no limit. On exit, release the reservations whose writes have ended."""
    if not quota:
        yield NO_QUOTA
        return
    ledger_quota = LedgerQuota(database, lease_clock=lease_clock, clock=clock, quota=quota)
    try:
        yield ledger_quota
    finally:
        await ledger_quota.aclose()


class LedgerQuota:
    """A quota enforced by all processes that share the ledgers of a store."""

    def __init__(
        self,
        database: Database,
        *,
        lease_clock: LeaseClock,
        clock: Clock,
        quota: int,
        wait_seconds: float = WAIT_SECONDS,
        release_seconds: float = RELEASE_SECONDS,
    ) -> None:
        self._database = database
        self._lease_clock = lease_clock
        self._clock = clock
        self._quota = quota
        self._wait_seconds = wait_seconds
        self._release_seconds = release_seconds
        self._accounts: WeakValueDictionary[str, QuotaAccount] = WeakValueDictionary()  # those in use
        self._releases: set[asyncio.Task[None]] = set()
        self._context = copy_context()  # outside of any request

    @asynccontextmanager
    async def reserve(self, old: Record | None, new: Record | None) -> AsyncIterator[int | None]:
        """Implement `Quota.reserve`. Release the reservation once the outcome is known; else let it expire."""
        begun, now = self._lease_clock.timer(), self._clock()
        if new is None or not _lives_longer(old, new, now):
            yield None
            return
        if _is_live(old, now + LEASE_MS):
            yield await self._lease_clock.not_after(begun + USE_SECONDS)
            return
        account = self._account(new.owner)
        request = ReservationRequest.of(new.guid, old)
        try:
            not_after = await self._admit(account, request)
        except BaseException:
            self._end(account, request)
            raise
        try:
            yield not_after
        except Unavailable:
            self._end(account, request)
            raise
        self._end(account, request)

    def note_deletion(self, owner: str) -> None:
        """Do nothing: each admission counts the live records."""

    def dry_run(self) -> Quota:
        return DryRunQuota(self._database.records, clock=self._clock, quota=self._quota)

    async def aclose(self) -> None:
        """Wait up to CLOSE_SECONDS for pending releases; the remaining reservations expire."""
        if self._releases:
            _, late = await asyncio.wait(self._releases, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _account(self, owner: str) -> QuotaAccount:
        account = self._accounts.get(owner)
        if account is None:
            run_in_context = self._context.copy().run
            account = run_in_context(QuotaAccount, owner, self._database, self._lease_clock, self._clock, self._quota)
            self._accounts[owner] = account
        return account

    async def _admit(self, account: QuotaAccount, request: ReservationRequest) -> int:
        """Reserve a place; return the deadline of the write by the store's clock."""
        loop = asyncio.get_running_loop()
        begun, deadline = loop.time(), inf
        while (not_after := await account.admit(request)) is None:
            if begun >= deadline:
                raise QuotaExceeded(self._quota)
            deadline = min(deadline, loop.time() + self._wait_seconds)  # excludes the first answer of a slow store
            await asyncio.sleep(random.uniform(_PAUSE / 2, _PAUSE * 2))  # noqa: S311  # nosec B311  # no secret
            begun = loop.time()
        return not_after

    def _end(self, account: QuotaAccount, request: ReservationRequest) -> None:
        """Schedule the release of a reservation."""
        account.ended.add(request.name)
        if not account.is_releasing:
            account.is_releasing = True
            task = spawn_detached(self._release(account))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _release(self, account: QuotaAccount) -> None:
        """Release ended reservations in the background; after TRIES failures, let them expire."""
        failures = 0
        try:
            while account.ended and failures < TRIES:
                await asyncio.sleep(min(self._release_seconds * 2**failures, _LONGEST))
                failures = 0 if await account.release() else failures + 1
        finally:
            account.is_releasing = False


class DryRunQuota:
    """A quota for a dry run: counts the live records in the store, and those that the dry run adds or removes."""

    def __init__(self, records: RecordRepository, *, clock: Clock, quota: int) -> None:
        self._records = records
        self._clock = clock
        self._quota = quota
        self._live: dict[str, int] = {}

    @asynccontextmanager
    async def reserve(self, old: Record | None, new: Record | None) -> AsyncIterator[None]:
        """Implement `Quota.reserve`, without a deadline."""
        now, either = self._clock(), new or old
        change = _is_live(new, now) - _is_live(old, now)
        if either is None or not change:
            yield None
            return
        owner = either.owner
        if owner not in self._live:
            live = await self._records.count_linearizable(living(owner, now))
            self._live.setdefault(owner, live)
        if change > 0 and self._live[owner] >= self._quota:
            raise QuotaExceeded(self._quota)
        self._live[owner] += change
        try:
            yield None
        except BaseException:
            self._live[owner] -= change
            raise

    def note_deletion(self, owner: str) -> None:
        """Do nothing: in a dry run, `reserve` is called for each write."""

    def dry_run(self) -> Quota:
        return self


def _is_live(record: Record | None, now: int) -> bool:
    return record is not None and lifecycle.is_live(record, now)


def _lives_longer(old: Record | None, new: Record, now: int) -> bool:
    """Whether the new record is live, and expires later than the old one."""
    return lifecycle.is_live(new, now) and (old is None or old.expire < new.expire)
