"""Writes of records: compare-and-swap within the quota, retried after a lost race, and noted in the audit log."""

import asyncio
import random
from typing import NamedTuple

from guidsvc.domain import lifecycle
from guidsvc.domain.caller import Caller, authorize
from guidsvc.domain.record import Record
from guidsvc.errors import Contention, GuidsvcError, NotFound, QuotaExceeded
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.clock import Clock
from guidsvc.runtime.fairness.decoding_turns import DecodingTurns, MergeBudget
from guidsvc.runtime.keyed_lock import KeyedLock
from guidsvc.services.quota import Quota
from guidsvc.services.writes.change_audit import Action, ChangeAudit, Outcome, action_of, is_unknown, origin_of
from guidsvc.services.writes.write_attempt import CURRENT, begin_write, take_back_write
from guidsvc.services.writes.write_chain import WriteChains
from guidsvc.services.writes.write_turns import Change, Make, QueuedWrite, WriteTurns
from guidsvc.store.contract import RecordRepository, Swap
from guidsvc.store.lease import LeaseClock, earliest

ATTEMPTS = 100
"""Maximum number of attempts of a write that loses its races, before it fails as unavailable."""
BACKOFF = 0.001, 0.05
"""Longest pause before the first retry, doubled for each further retry, and its upper bound, in seconds."""


class Written(NamedTuple):
    """The result of a put: the new state of the record, and whether it was created."""

    record: Record
    created: bool


class RecordWriter:
    """Writes records. A write that loses `attempts` races in a row raises Contention."""

    def __init__(  # noqa: PLR0913  # its collaborators, by name
        self,
        records: RecordRepository,
        lease_clock: LeaseClock,
        *,
        clock: Clock,
        quota: Quota,
        audit: ChangeAudit | None,
        attempts: int,
        decoding_turns: DecodingTurns,
    ) -> None:
        self._records = records
        self._lease_clock = lease_clock
        self._clock = clock
        self._quota = quota
        self._audit = audit
        self._attempts = attempts
        self._locks = KeyedLock()
        self._turns = WriteTurns()
        self._decoding_turns = decoding_turns
        self._chains = WriteChains(records, self._turns, decoding_turns, clock=clock, quota=quota, audit=audit)

    async def write(
        self, guid: str, make: Make, caller: Caller, *, while_live: bool = False, merged_bytes: int = 0
    ) -> Change:
        """Replace a record by the result of `make`, atomically; return the old and the new record.

        `make` receives the record (None if absent), the time, and the version that a new record must exceed. After a
        lost race it is called again with the fresh record. An exception that it raises ends the write.

        A creation has a deadline: until then, the tombstone of any record that came between is still stored.
        With `while_live`, so has the change of a live record: it takes effect before that expires, or not at all.
        With `merged_bytes`, `make` merges a patch of this size into the metadata of the record: if the two are large,
        the write takes a turn. While it waits, `make` must hold the patch as text.
        """
        if not self._locks.is_held(guid):
            return await self._write(guid, make, caller, while_live=while_live, merged_bytes=merged_bytes)
        if not caller.is_admin:
            await self._reject_other_owner(guid, caller)
        queued = QueuedWrite(make, caller, while_live=while_live, merged_bytes=merged_bytes)
        async with self._turns.turn(guid, queued) as result:
            if result is not None:
                return result
            return await self._write(guid, make, caller, while_live=while_live, merged_bytes=merged_bytes)

    async def _write(self, guid: str, make: Make, caller: Caller, *, while_live: bool, merged_bytes: int) -> Change:
        async with self._locks.acquire(guid):
            for attempt in range(self._attempts):
                if attempt:
                    await back_off(attempt)
                begun = self._lease_clock.timer()
                stored = await self._records.get_for_update(guid)
                now = self._clock()
                old = lifecycle.existing(stored, now)
                if old is not None and authorize(old, caller) is None:
                    raise NotFound(guid)
                if merged_bytes and old is not None:
                    await MergeBudget(self._decoding_turns).spend(old.metadata, merged_bytes)
                    now = self._clock()
                    old = lifecycle.existing(old, now)
                new = make(old, now, stored.version if stored else 0)
                not_after: int | None = None
                if stored is None:
                    not_after = await self._lease_clock.not_after(begun + lifecycle.CREATION_SECONDS)
                elif while_live and new is not old and (left_ms := stored.expire * 1000 - now) > 0:
                    not_after = await self._lease_clock.store_time(begun + (left_ms - 1) / 1000)
                try:
                    if new is old or await self.swap(action_of(old, new), stored, new, caller, not_after=not_after):
                        return old, new
                except QuotaExceeded:
                    if not await self._has_changed(guid, stored):
                        raise
        raise Contention(f"GUID {guid} was changed concurrently {self._attempts} times in a row; retry")

    async def _reject_other_owner(self, guid: str, caller: Caller) -> None:
        """Raise NotFound for a record of another owner. Its writers must not wait for those who may not write it."""
        old = lifecycle.existing(await self._records.get(guid), self._clock())
        if old is not None and authorize(old, caller) is None:
            raise NotFound(guid)

    async def _has_changed(self, guid: str, read: Record | None) -> bool:
        """Return whether the record has changed since it was read. If so, it may count against the quota already."""
        now = await self._records.get_for_update(guid)
        return (now and now.version) != (read and read.version)

    async def swap(
        self, action: Action, old: Record | None, new: Record, caller: Caller, *, not_after: int | None = None
    ) -> bool:
        """Swap in the store. Once sent, the write is shielded from cancellation and completes, in the cache too.

        Raise QuotaExceeded if the record would become live and its owner's quota is used up. Return False, with
        nothing changed, if the race is lost, or if `not_after`, the end of the reservation or that of the claim of a
        request with an Idempotency-Key has passed. Raise LeaseExpired if that claim had ended before.
        """
        attempt = CURRENT.get()
        if attempt is not None:
            not_after = earliest(not_after, await attempt.not_after())
        counted = lifecycle.existing(old, self._clock())  # a tombstone holds no place
        async with self._quota.reserve(counted, new) as reserved_until:
            cancel_scope.checkpoint()
            until = earliest(reserved_until, not_after)
            links = await self._chains.plan(old, new)
            with cancel_scope.shielded():
                begin_write()
                try:
                    if links:
                        swap = Swap(old, new, until, origin_of(caller))
                        swapped = await self._chains.execute(swap, caller, links)
                    else:
                        swapped = await self._swap_and_audit(action, old, new, caller, until)
                except GuidsvcError as error:
                    if not is_unknown(error):
                        take_back_write()
                    raise
                if not swapped:
                    take_back_write()
                return swapped

    async def _swap_and_audit(
        self, action: Action, old: Record | None, new: Record, caller: Caller, not_after: int | None
    ) -> bool:
        """Swap in the store, and log the write if it was done or its outcome is unknown."""
        record = new if old is None or not new.is_deleted else old
        try:
            swapped = await self._records.swap(old, new, not_after=not_after, origin=origin_of(caller))
        except BaseException as error:
            if is_unknown(error):
                self.note(action, record, caller, "unknown")
            raise
        if swapped:
            self.note(action, record, caller, "done")
        return swapped

    def note(self, action: Action, record: Record, caller: Caller, outcome: Outcome) -> None:
        """Log an action in the audit log, if there is one."""
        if self._audit is not None:
            self._audit(action, record, caller, outcome)


async def back_off(attempt: int) -> None:
    """Wait for a random time before a retry, so that the same writers do not collide again."""
    first, longest = BACKOFF
    await asyncio.sleep(random.uniform(0, min(first * 2**attempt, longest)))  # noqa: S311  # nosec B311  # no secret
