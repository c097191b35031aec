"""GuidService: what can be done with GUIDs, over a Store and a clock.

The service reads, lets `rules` make the new record, and puts it in with the store's compare-and-swap; a race
that is lost is run again from a fresh read. It does not know whether its store is a database or a cache
around one, and nothing of HTTP.
"""

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from copy import copy
from typing import Literal, NamedTuple, Protocol, TypeVar

from guidsvc.domain import lifecycle as rules
from guidsvc.domain import preconditions, selection
from guidsvc.domain.caller import ANYONE, READ, Caller, authorize
from guidsvc.domain.commands import ListQuery, PatchCommand, PutCommand
from guidsvc.domain.guid_generator import ClaimedDraw, GuidGenerator
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.preconditions import UNCONDITIONAL, Conditions
from guidsvc.domain.record import Record
from guidsvc.errors import (
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
from guidsvc.store.contract import WOULD_BLOCK, Store
from guidsvc.store.lease import earliest
from guidsvc.store.overlay import open_overlay

ATTEMPTS = 100
"""How often a write that loses its race is tried again before it is given up as unavailable."""
BACKOFF = 0.001, 0.05
"""Seconds: the longest pause before the second attempt, and before any."""

PAGE_BYTES, PAGE_PROBE = 1024 * 1024, 64
"""A page ends early when its records have about so many bytes; so many records are read before their size is known."""
PAGES = 16
"""So many pages are read at a time; more wait, so that their records do not fill the memory."""
PART_BYTES, PART_PROBE = 64 * 1024, 16
"""The same of a part of a selection that is walked."""

_New = TypeVar("_New", bound=Record | None)


class Read(NamedTuple):
    """What a get found: a record, and whether it is another than the reader said it knows."""

    record: Record
    modified: bool


class Written(NamedTuple):
    """What a put made: the record as it now is, and whether it is new."""

    record: Record
    created: bool


class Page(NamedTuple):
    """A page of a list, in the order of the GUIDs, and the GUID after which the next begins; None if it is the last."""

    records: Sequence[Record]
    next: str | None


Action = Literal["create", "update", "delete"]
Outcome = Literal["done", "found", "unknown"]
"""Of a write: it was done; what it was to create was there, as the same request, made before, had created it; or it was
sent, and nobody knows."""


class ChangeAudit(Protocol):
    """Notes what is done to records."""

    def __call__(self, action: Action, record: Record, caller: Caller, outcome: Outcome, /) -> None:
        """Note what a caller did to a record: it as it now is, or was when it was deleted."""


class GuidService:
    """Reads and writes records by the rules.

    With `strict` a change of an existing record without a condition raises PreconditionRequired. Whatever has
    conditions raises PreconditionFailed if they do not hold, judged in the same atomic step as the write.

    It acts for a caller, `ANYONE` if for nobody else: what is another's is to them as if it were not there, which is
    judged after every load (`authorize`). Whether they may do what they ask for is judged before.

    Where there is an `audit`, each write is noted there before it is told.
    """

    def __init__(  # noqa: PLR0913  # its collaborators, by name
        self,
        store: Store,
        *,
        clock: Clock,
        draw: GuidGenerator,
        terms: RetentionPolicy,
        strict: bool = False,
        attempts: int = ATTEMPTS,
        quota: Quota = NO_QUOTA,
        audit: ChangeAudit | None = None,
    ) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._draw = draw
        self._terms = terms
        self._strict = strict
        self._attempts = attempts
        self._quota = quota
        self._turns = KeyedLock()
        self._pages = FairSemaphore(PAGES)
        self._deleted = _Highest()  # version that was ever deleted here: a new record starts above it
        self._caller = ANYONE

    def acting_for(self, caller: Caller) -> "GuidService":
        """Return the same service, as it acts for a caller."""
        if caller is self._caller:
            return self
        acting = copy(self)
        acting._caller = caller  # noqa: SLF001  # it is one of us
        return acting

    @property
    def may_read(self) -> bool:
        """Whether the caller may be shown records that it has not created just now."""
        return self._caller.may(READ)

    def get_nowait(self, guid: str, caller: Caller | None = None) -> Record | None:
        """Return the live record of a GUID if it is at hand, as `get` would; None if it has to be waited for."""
        record = self._store.get_nowait(guid)
        if record is WOULD_BLOCK:
            return None
        record = authorize(record, self._caller if caller is None else caller)
        now = self._clock()
        if record is not None and rules.is_live(record, now):
            return record
        return rules.require_live(guid, record, now)

    def get_at_hand(self, guid: str, conditions: Conditions = UNCONDITIONAL) -> Read | None:
        """Return, or raise, what `get` would, if that is known without having to wait; else None."""
        try:
            record = self.get_nowait(guid)
        except StoreUnavailable:
            return None
        return None if record is None else _read(guid, record, conditions)

    async def get(self, guid: str, conditions: Conditions = UNCONDITIONAL) -> Read:
        """Return the live record of a GUID; NotFound or Expired if it has none.

        PreconditionFailed if it is not one that `if_match` demands; one that `if_none_match` excludes is not modified.
        """
        record = authorize(await self._store.get(guid), self._caller)
        return _read(guid, rules.require_live(guid, record, self._clock()), conditions)

    async def put(self, guid: str, change: PutCommand, conditions: Conditions = UNCONDITIONAL) -> Written:
        """Create the GUID, or merge the change into its record, renewing it where it has expired by itself.

        Expired if the record was revoked and the change names no expiry.
        InvalidRequest if the GUID is unknown and the change lacks what a new one needs.
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
        """Create a record under a GUID that is drawn now; InvalidRequest if the change lacks what it needs.

        With a `draw` of its own the request may have been made before: a record that there is already is its own.
        """
        if draw is not None:
            return await self._create_claimed(change, conditions, draw)
        for attempt in range(self._attempts):
            if attempt:
                await _back_off(attempt)
            record = self._first(self._draw(self._clock()), change, conditions)
            if await self._swap("create", None, record):
                return record
        raise StoreUnavailable(f"{self._attempts} GUIDs were drawn, and each was taken already, or created too late")

    async def _create_claimed(self, change: PutCommand, conditions: Conditions, draw: ClaimedDraw) -> Record:
        """Create a record as long as the claim of its request holds; return it if an earlier attempt has created it.

        A creation that was too late is tried again under the same GUID: another would be found by no later attempt.
        """
        guid = draw(self._clock())
        for attempt in range(self._attempts):
            if attempt:
                await _back_off(attempt)
            record = self._first(guid, change, conditions)
            refusal: QuotaExceeded | None = None
            try:
                if await self._swap("create", None, record, not_after=await draw.not_after()):
                    return record
            except QuotaExceeded as error:
                refusal = error
            taken = await self._store.get_for_update(guid)
            if (before := authorize(taken, self._caller)) is not None:
                self._note("create", before, "found")
                return before
            if refusal is not None:
                raise refusal
            if taken is not None:
                guid = draw(self._clock())
        raise StoreUnavailable(f"{self._attempts} times a GUID was taken already, or its creation came too late")

    def _first(self, guid: str, change: PutCommand, conditions: Conditions) -> Record:
        """Make the first record of a GUID that was drawn."""
        preconditions.check_preconditions(guid, None, conditions)
        after, owner = self._deleted.version, self._caller.owner
        return rules.created(guid, change, self._clock(), self._terms, after=after, owner=owner)

    async def patch(self, guid: str, patch: PatchCommand, conditions: Conditions = UNCONDITIONAL) -> Record:
        """Apply a merge patch to the record of a GUID; NotFound if it has none.

        Expired if it is not live and the patch names no expiry.
        """

        def make(old: Record | None, now: int, after: int) -> Record:  # noqa: ARG001  # it never creates
            if old is None:
                raise NotFound(guid)
            self._demand(guid, old, conditions)
            return rules.patched(old, patch, now, self._terms)

        _, new = await self._write(guid, make)
        return new

    async def delete(self, guid: str, conditions: Conditions = UNCONDITIONAL) -> None:
        """Delete the record of a GUID, live or expired; NotFound if it has none."""

        def make(old: Record | None, now: int, after: int) -> None:  # noqa: ARG001  # whenever it is
            if old is None:
                raise NotFound(guid)
            self._demand(guid, old, conditions)

        old, _ = await self._write(guid, make)
        if old is not None:
            self._deleted.version = max(self._deleted.version, old.version)

    async def find(self, query: ListQuery) -> Page:
        """Return the page of a list that a query asks for; it ends early at PAGE_BYTES."""
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
        """Yield all that a query selects, in parts of PART_BYTES, and no more than its limit, where it names one.

        None of it is held here while the caller works on a part.
        """
        limit = sys.maxsize if query.limit is None else query.limit
        parts = self._portions(query, limit, most_bytes=PART_BYTES, probe=PART_PROBE)
        async with aclosing(parts):
            while (part := await anext(parts, None)) is not None:
                handover = [self._selected(query, part)]
                del part
                yield handover.pop()

    async def count(self, query: ListQuery) -> int:
        """Count all that a query selects."""
        return await self._store.count(self._selection(query))

    @contextmanager
    def dry_run(self, share: Share | None = None) -> Iterator["GuidService"]:
        """Yield a service that does, inside, what this one would do, and changes nothing that others see.

        SpaceUsed, or Overloaded, from whatever writes more than there is room for in the share of the request.
        """
        with open_overlay(self._store, share) as store:
            service = GuidService(  # without an audit: nothing is done
                store,
                clock=self._clock,
                draw=self._draw,
                terms=self._terms,
                strict=self._strict,
                attempts=self._attempts,
                quota=self._quota.dry_run(),
            )
            yield service.acting_for(self._caller)

    def full(self, record: Record, caller: Caller | None = None) -> bytes:
        """Return the record in full, as the caller may see it: its state by now, and, for an admin, its owner."""
        with_owner = (self._caller if caller is None else caller).is_admin
        return record.full_json(rules.state_of(record, self._clock()), with_owner=with_owner)

    def _portions(
        self, query: ListQuery, limit: int, *, most_bytes: int, probe: int
    ) -> AsyncGenerator[Sequence[Record]]:
        """Return what a query selects, in portions."""

        def find(after: str, count: int) -> Awaitable[Sequence[Record]]:
            return self._store.find(self._selection(query), after, count)

        return portions(find, query.cursor or "", limit, most_bytes=most_bytes, probe=probe)

    def _selected(self, query: ListQuery, found: Sequence[Record]) -> Sequence[Record]:
        """Return those of the records found that are still selected: time has gone on since."""
        return list(filter(self._selection(query).holds, found))

    def _selection(self, query: ListQuery) -> selection.Selection:
        """Say which records a query asks for now: an admin's are of all owners, or of one; of others, their own."""
        owner = query.owner if self._caller.is_admin else self._caller.owner
        return selection.selection(query, self._clock(), owner)

    async def _write(self, guid: str, make: Callable[[Record | None, int, int], _New]) -> tuple[Record | None, _New]:
        """Put what `make` makes of a record in its place, in one atomic step; return the record as it was, and is.

        `make` is given the record, or None if there is none, the time, and a version that a new one must exceed. If
        another was faster it is called again, with what the other made. What it raises ends the write.
        """
        async with self._turns.acquire(guid):
            for attempt in range(self._attempts):
                if attempt:
                    await _back_off(attempt)
                stored, now = await self._store.get_for_update(guid), self._clock()
                old = rules.existing(stored, now)
                if old is not None and authorize(old, self._caller) is None:
                    raise NotFound(guid)
                new = make(old, now, max(self._deleted.version, stored.version if stored else 0))
                unchanged = new is not None and new is old
                try:
                    if unchanged or await self._swap(_action(old, new), stored, new):
                        return old, new
                except QuotaExceeded:
                    if not await self._has_changed(guid, stored):
                        raise
        raise StoreUnavailable(f"GUID {guid} was changed by others {self._attempts} times in a row")

    async def _has_changed(self, guid: str, read: Record | None) -> bool:
        """Return whether another process has changed a record since it was read: it may have its place by now."""
        now = await self._store.get_for_update(guid)
        return (now and now.version) != (read and read.version)

    async def _swap(
        self, action: Action, old: Record | None, new: Record | None, *, not_after: int | None = None
    ) -> bool:
        """Swap in the store. It is not cut off, whoever has gone: what has been sent is finished, in the cache too.

        QuotaExceeded if that would bring a record to life, and its owner has as many as it may have. False, and nothing
        is changed, also if the store gets to it after `not_after`, or after the end of the reservation.
        """
        async with self._quota.reserve(old, new) as place_until:
            errand.checkpoint()
            with errand.shielded():
                return await self._noted(action, old, new, earliest(place_until, not_after))

    async def _noted(self, action: Action, old: Record | None, new: Record | None, not_after: int | None) -> bool:
        """Swap in the store, and note what was done, or may have been."""
        record: Record = new or old  # type: ignore[assignment]  # the contract: one of them is a record
        begin_write()
        try:
            swapped = await self._store.swap(old, new, not_after=not_after)
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


class _Highest:
    """The highest version of some."""

    version = 0


def _action(old: Record | None, new: Record | None) -> Action:
    """Say what makes this of that, as clients see it: one past its retention is none."""
    if old is None:
        return "create"
    return "delete" if new is None else "update"


async def _back_off(attempt: int) -> None:
    """Wait a random while before another attempt, so that those who raced do not race again."""
    first, most = BACKOFF
    await asyncio.sleep(random.uniform(0, min(first * 2**attempt, most)))  # noqa: S311  # nosec B311  # no secret


def _read(guid: str, record: Record, conditions: Conditions) -> Read:
    preconditions.check_preconditions(guid, record, Conditions(if_match=conditions.if_match))
    return Read(record, modified=conditions.hold(record))
