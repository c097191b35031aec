"""GuidService: create, read, update, delete and list records, over a RecordRepository and a clock.

A write reads the record, computes the new one by `guidsvc.domain.lifecycle`, and stores it by compare-and-swap. If it
loses a race, it retries from a fresh read. The records may be those of a database, or a cache around them; HTTP is
unknown here.
"""

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from copy import copy
from typing import Literal, NamedTuple, Protocol

from guidsvc.domain import lifecycle as rules
from guidsvc.domain import preconditions, selection
from guidsvc.domain.caller import ANYONE, READ, Caller, authorize
from guidsvc.domain.commands import ListQuery, PatchCommand, PutCommand
from guidsvc.domain.guid_generator import ClaimedDraw, GuidGenerator
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.preconditions import UNCONDITIONAL, Conditions
from guidsvc.domain.record import Record
from guidsvc.errors import (
    Contention,
    GuidsvcError,
    NotFound,
    OutcomeUnknown,
    PreconditionRequired,
    QuotaExceeded,
    StoreUnavailable,
)
from guidsvc.runtime import cancel_scope as errand
from guidsvc.runtime.clock import Clock
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.runtime.keyed_lock import KeyedLock
from guidsvc.runtime.temporary_space import Share
from guidsvc.services.paging import portions, size_of
from guidsvc.services.quota import NO_QUOTA, Quota
from guidsvc.services.write_attempt import begin_write
from guidsvc.store.cache_fence import FenceReader
from guidsvc.store.contract import WOULD_BLOCK, RecordRepository
from guidsvc.store.lease import LeaseClock, earliest
from guidsvc.store.overlay import open_overlay

ATTEMPTS = 100
"""Maximum number of attempts of a write that loses its races, before it fails as unavailable."""
BACKOFF = 0.001, 0.05
"""Longest pause before the first retry, doubled for each further retry, and its upper bound, in seconds."""

PAGE_BYTES, PAGE_PROBE = 1024 * 1024, 64
"""Approximate maximum size of a page, and number of records in its first read, when their size is unknown."""
PAGES = 16
"""Maximum number of pages read concurrently, to bound memory; further requests wait."""
PART_BYTES, PART_PROBE = 64 * 1024, 16
"""The same for one part of a walk."""


class Read(NamedTuple):
    """The result of a get: the record, and whether it differs from the version that the client has."""

    record: Record
    modified: bool


class Written(NamedTuple):
    """The result of a put: the new state of the record, and whether it was created."""

    record: Record
    created: bool


class Page(NamedTuple):
    """A page of a list, ordered by GUID, and the GUID after which the next page starts; None on the last page."""

    records: Sequence[Record]
    next: str | None


Action = Literal["create", "update", "delete"]
Outcome = Literal["done", "found", "unknown"]
"""The outcome of a write: `found` if an earlier attempt of the same request had created the record, `unknown` if the
store did not confirm the write."""


class ChangeAudit(Protocol):
    """The audit log of changes of records."""

    def __call__(self, action: Action, record: Record, caller: Caller, outcome: Outcome, /) -> None:
        """Log an action of a caller, with the new record, or the deleted one."""


class GuidService:
    """The operations on records, on behalf of a caller (`ANYONE` by default).

    With `strict`, changing an existing record without a condition raises PreconditionRequired. Conditions that do not
    hold raise PreconditionFailed; the check and the write are one atomic step.

    Records of other owners appear absent: `authorize` follows every load. Scopes must be checked before the call.

    If an `audit` is given, each write is logged there before the method returns.
    """

    def __init__(  # noqa: PLR0913  # its collaborators, by name
        self,
        records: RecordRepository,
        fence: FenceReader,
        *,
        clock: Clock,
        draw: GuidGenerator,
        terms: RetentionPolicy,
        strict: bool = False,
        attempts: int = ATTEMPTS,
        quota: Quota = NO_QUOTA,
        audit: ChangeAudit | None = None,
    ) -> None:
        self._records = records
        self._fence = fence
        self._audit = audit
        self._clock = clock
        self._draw = draw
        self._terms = terms
        self._strict = strict
        self._attempts = attempts
        self._quota = quota
        self._turns = KeyedLock()
        self._pages = FairSemaphore(PAGES)
        self._lease_clock = LeaseClock(fence)
        self._caller = ANYONE

    def acting_for(self, caller: Caller) -> "GuidService":
        """Return this service, acting for the caller."""
        if caller is self._caller:
            return self
        acting = copy(self)
        acting._caller = caller  # noqa: SLF001  # it is one of us
        return acting

    @property
    def may_read(self) -> bool:
        """Whether responses may show the caller records that it has not just created."""
        return self._caller.may(READ)

    def get_nowait(self, guid: str, caller: Caller | None = None) -> Record | None:
        """Return or raise what `get` would, without blocking; None if the store would block."""
        record = self._records.get_nowait(guid)
        if record is WOULD_BLOCK:
            return None
        record = authorize(record, self._caller if caller is None else caller)
        now = self._clock()
        if record is not None and rules.is_live(record, now):
            return record
        return rules.require_live(guid, record, now)

    def get_at_hand(self, guid: str, conditions: Conditions = UNCONDITIONAL) -> Read | None:
        """Return or raise what `get` would, without blocking; None if the store would block or is unavailable."""
        try:
            record = self.get_nowait(guid)
        except StoreUnavailable:
            return None
        return None if record is None else _read(guid, record, conditions)

    async def get(self, guid: str, conditions: Conditions = UNCONDITIONAL) -> Read:
        """Return the live record of a GUID; raise NotFound or Expired if it has none.

        Raise PreconditionFailed if `if_match` does not hold. A record that `if_none_match` excludes is unmodified.
        """
        record = authorize(await self._records.get(guid), self._caller)
        return _read(guid, rules.require_live(guid, record, self._clock()), conditions)

    async def put(self, guid: str, change: PutCommand, conditions: Conditions = UNCONDITIONAL) -> Written:
        """Create the GUID, or merge the change into its record. Renew the record if it has expired.

        Raise Expired if the record was revoked and the change names no expiry.
        Raise InvalidRequest if the GUID is unknown and the change lacks a required member.
        """

        def make(old: Record | None, now: int, after: int) -> Record:
            self._demand(guid, old, conditions)
            if old is None:
                return rules.created(guid, change, now, self._terms, after=after, owner=self._caller.owner)
            return rules.updated(old, change, now, self._terms)

        old, new = await self._write(guid, make)
        return Written(new, created=old is None)

    async def create(
        self, change: PutCommand, conditions: Conditions = UNCONDITIONAL, *, draw: ClaimedDraw | None = None
    ) -> Record:
        """Create a record under a generated GUID; raise InvalidRequest if the change lacks a required member.

        With a `draw`, the request may be a repetition: a record that exists under its GUID is the result.
        """
        if draw is not None:
            return await self._create_claimed(change, conditions, draw)
        for attempt in range(self._attempts):
            if attempt:
                await _back_off(attempt)
            record = self._first(self._draw(self._clock()), change, conditions)
            if await self._swap("create", None, record):
                return record
        raise Contention(f"{self._attempts} generated GUIDs were already in use, or created too late; retry")

    async def _create_claimed(self, change: PutCommand, conditions: Conditions, draw: ClaimedDraw) -> Record:
        """Create a record while the claim of its request holds; return it if an earlier attempt has created it.

        A creation that came too late is retried under the same GUID: a later attempt would not find another one.
        """
        guid, stored = draw(self._clock()), None
        for attempt in range(self._attempts):
            if attempt:
                await _back_off(attempt)
            record = self._first(guid, change, conditions, stored)
            refusal: QuotaExceeded | None = None
            try:
                if await self._swap("create", stored, record, not_after=await draw.not_after()):
                    return record
            except QuotaExceeded as error:
                refusal = error
            stored = await self._records.get_for_update(guid)
            taken = rules.existing(stored, self._clock())
            if (before := authorize(taken, self._caller)) is not None:
                self._note("create", before, "found")
                return before
            if refusal is not None:
                raise refusal
            if taken is not None:
                guid, stored = draw(self._clock()), None
        raise Contention(f"{self._attempts} generated GUIDs were already in use, or created too late; retry")

    def _first(self, guid: str, change: PutCommand, conditions: Conditions, gone: Record | None = None) -> Record:
        """Make the first record of a generated GUID, or the first after one that is gone."""
        preconditions.check_preconditions(guid, None, conditions)
        after, owner = gone.version if gone else 0, self._caller.owner
        return rules.created(guid, change, self._clock(), self._terms, after=after, owner=owner)

    async def patch(self, guid: str, patch: PatchCommand, conditions: Conditions = UNCONDITIONAL) -> Record:
        """Apply a merge patch to the record of a GUID; raise NotFound if it has none.

        Raise Expired if the record is not live and the patch names no expiry.
        """

        def make(old: Record | None, now: int, after: int) -> Record:  # noqa: ARG001  # it never creates
            if old is None:
                raise NotFound(guid)
            self._demand(guid, old, conditions)
            return rules.patched(old, patch, now, self._terms)

        _, new = await self._write(guid, make)
        return new

    async def delete(self, guid: str, conditions: Conditions = UNCONDITIONAL) -> None:
        """Delete the record of a GUID, live or expired; raise NotFound if it has none."""

        def make(old: Record | None, now: int, after: int) -> Record:  # noqa: ARG001  # it never creates
            if old is None:
                raise NotFound(guid)
            self._demand(guid, old, conditions)
            return rules.deleted(old, now)

        await self._write(guid, make)

    async def find(self, query: ListQuery) -> Page:
        """Return one page of a list; it ends early at PAGE_BYTES."""
        page: list[Record] = []
        size = 0
        parts = self._portions(query, query.page + 1, most_bytes=PAGE_BYTES, probe=PAGE_PROBE)
        async with self._pages.place(self._caller.owner), aclosing(parts):
            async for part in parts:
                for record in part:
                    size += size_of(record)
                    if page and (size > PAGE_BYTES or len(page) == query.page):
                        return Page(self._selected(query, page), page[-1].guid)
                    page.append(record)
        return Page(self._selected(query, page), None)

    async def walk(self, query: ListQuery) -> AsyncIterator[Sequence[Record]]:
        """Yield the records that a query selects, in parts of PART_BYTES, up to its limit, if any.

        No reference to a part is held while the consumer works on it.
        """
        limit = sys.maxsize if query.limit is None else query.limit
        parts = self._portions(query, limit, most_bytes=PART_BYTES, probe=PART_PROBE)
        async with aclosing(parts):
            while (part := await anext(parts, None)) is not None:
                handover = [self._selected(query, part)]
                del part
                yield handover.pop()

    async def count(self, query: ListQuery) -> int:
        """Count the records that a query selects."""
        return await self._records.count(self._selection(query))

    @contextmanager
    def dry_run(self, share: Share | None = None) -> Iterator["GuidService"]:
        """Yield a service whose writes go to a temporary overlay and are discarded at the end of the block.

        Writes that exceed the request's share of temporary space raise SpaceUsed or Overloaded.
        """
        with open_overlay(self._records, share) as records:
            service = GuidService(  # without an audit: nothing is done
                records,
                self._fence,
                clock=self._clock,
                draw=self._draw,
                terms=self._terms,
                strict=self._strict,
                attempts=self._attempts,
                quota=self._quota.dry_run(),
            )
            yield service.acting_for(self._caller)

    def full(self, record: Record, caller: Caller | None = None) -> bytes:
        """Return the full JSON of a record, with its current state, and its owner if the caller is an admin."""
        with_owner = (self._caller if caller is None else caller).is_admin
        return record.full_json(rules.state_of(record, self._clock()), with_owner=with_owner)

    def _portions(
        self, query: ListQuery, limit: int, *, most_bytes: int, probe: int
    ) -> AsyncGenerator[Sequence[Record]]:
        """Yield the records that a query selects, in portions."""

        def find(after: str, count: int) -> Awaitable[Sequence[Record]]:
            return self._records.find(self._selection(query), after, count)

        return portions(find, query.cursor or "", limit, most_bytes=most_bytes, probe=probe)

    def _selected(self, query: ListQuery, found: Sequence[Record]) -> Sequence[Record]:
        """Return the records that still match: some may have expired since they were read."""
        return list(filter(self._selection(query).holds, found))

    def _selection(self, query: ListQuery) -> selection.Selection:
        """Return the filter of a query as of now. Admins may select any owner or all; others only their own."""
        owner = query.owner if self._caller.is_admin else self._caller.owner
        return selection.selection(query, self._clock(), owner)

    async def _write(
        self, guid: str, make: Callable[[Record | None, int, int], Record]
    ) -> tuple[Record | None, Record]:
        """Replace a record by the result of `make`, atomically; return the old and the new record.

        `make` receives the record (None if absent), the time, and the version that a new record must exceed. After a
        lost race it is called again with the fresh record. An exception that it raises ends the write.

        A creation has a deadline: until then, the tombstone of any record that came between is still stored.
        """
        async with self._turns.acquire(guid):
            for attempt in range(self._attempts):
                if attempt:
                    await _back_off(attempt)
                begun = self._lease_clock.timer()
                stored, now = await self._records.get_for_update(guid), self._clock()
                old = rules.existing(stored, now)
                if old is not None and authorize(old, self._caller) is None:
                    raise NotFound(guid)
                new = make(old, now, stored.version if stored else 0)
                deadline = begun + rules.CREATION_SECONDS
                not_after = None if stored is not None else await self._lease_clock.not_after(deadline)
                try:
                    if new is old or await self._swap(_action(old, new), stored, new, not_after=not_after):
                        return old, new
                except QuotaExceeded:
                    if not await self._has_changed(guid, stored):
                        raise
        raise Contention(f"GUID {guid} was changed concurrently {self._attempts} times in a row; retry")

    async def _has_changed(self, guid: str, read: Record | None) -> bool:
        """Return whether the record has changed since it was read. If so, it may count against the quota already."""
        now = await self._records.get_for_update(guid)
        return (now and now.version) != (read and read.version)

    async def _swap(self, action: Action, old: Record | None, new: Record, *, not_after: int | None = None) -> bool:
        """Swap in the store. Once sent, the write is shielded from cancellation and completes, in the cache too.

        Raise QuotaExceeded if the record would become live and its owner's quota is used up. Return False, with
        nothing changed, if the race is lost, or if `not_after` or the end of the reservation has passed.
        """
        async with self._quota.reserve(old, new) as place_until:
            errand.checkpoint()
            with errand.shielded():
                return await self._noted(action, old, new, earliest(place_until, not_after))

    async def _noted(self, action: Action, old: Record | None, new: Record, not_after: int | None) -> bool:
        """Swap in the store, and log the write if it was done or its outcome is unknown."""
        record = new if old is None or not new.is_deleted else old
        begin_write()
        try:
            swapped = await self._records.swap(old, new, not_after=not_after)
        except BaseException as error:
            if isinstance(error, OutcomeUnknown) or not isinstance(error, GuidsvcError):
                self._note(action, record, "unknown")
            raise
        if swapped:
            self._note(action, record, "done")
        return swapped

    def _note(self, action: Action, record: Record, outcome: Outcome) -> None:
        if self._audit is not None:
            self._audit(action, record, self._caller, outcome)

    def _demand(self, guid: str, old: Record | None, conditions: Conditions) -> None:
        if old is not None and self._strict and not conditions:
            raise PreconditionRequired(guid)
        preconditions.check_preconditions(guid, old, conditions, is_shown=self.may_read)


def _action(old: Record | None, new: Record) -> Action:
    """Classify a swap as create, update or delete. The caller passes None for a record past its retention."""
    if old is None:
        return "create"
    return "delete" if new.is_deleted else "update"


async def _back_off(attempt: int) -> None:
    """Wait for a random time before a retry, so that the same writers do not collide again."""
    first, most = BACKOFF
    await asyncio.sleep(random.uniform(0, min(first * 2**attempt, most)))  # noqa: S311  # nosec B311  # no secret


def _read(guid: str, record: Record, conditions: Conditions) -> Read:
    preconditions.check_preconditions(guid, record, Conditions(if_match=conditions.if_match))
    return Read(record, modified=conditions.hold(record))
