"""GuidService: create, read, update, delete and list records, over a RecordRepository and a clock.

A write reads the record, computes the new one by `guidsvc.domain.lifecycle`, and stores it by compare-and-swap. If it
loses a race, it retries from a fresh read. The records may be those of a database, or a cache around them; HTTP is
unknown here.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from random import randrange
from typing import NamedTuple

from guidsvc.domain import lifecycle, preconditions
from guidsvc.domain.caller import ANYONE, READ, Caller, authorize
from guidsvc.domain.commands import ListQuery, PatchCommand, PutCommand, RenewCommand, WriteCommand
from guidsvc.domain.guid_generator import GuidGenerator
from guidsvc.domain.leases.expiry import Draw, dated
from guidsvc.domain.leases.limits import UNLIMITED
from guidsvc.domain.leases.renewal import Renewal, renew_at
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.preconditions import UNCONDITIONAL, Conditions, check_change
from guidsvc.domain.record import Record
from guidsvc.errors import NotFound, StoreUnavailable
from guidsvc.runtime.clock import Clock
from guidsvc.runtime.fairness.decoding_turns import DecodingTurns
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore
from guidsvc.runtime.temporary_space import Share
from guidsvc.services.leases.renewer import LeaseRenewer, RenewalTerms
from guidsvc.services.listing import Page, RecordListing
from guidsvc.services.quota import NO_QUOTA, Quota
from guidsvc.services.writes.change_audit import ChangeAudit
from guidsvc.services.writes.group_writer import GroupWriter
from guidsvc.services.writes.record_creator import RecordCreator
from guidsvc.services.writes.record_writer import ATTEMPTS, Written
from guidsvc.store.contract import WOULD_BLOCK, RecordRepository
from guidsvc.store.contract import BegunGet as BegunGet  # noqa: PLC0414  # for those who may not import the store
from guidsvc.store.lease import LeaseClock
from guidsvc.store.overlay import open_overlay


class Read(NamedTuple):
    """The result of a get: the record, and whether it differs from the version that the client has."""

    record: Record
    modified: bool


class GuidService:
    """The operations on records, on behalf of a caller (`ANYONE` by default).

    With `strict`, changing an existing record without a condition raises PreconditionRequired. Conditions that do not
    hold raise PreconditionFailed; the check and the write are one atomic step.

    Records of other owners appear absent: `authorize` follows every load. Scopes must be checked before the call.

    If an `audit` is given, each write is logged there before the method returns. `draw` chooses from a `spread`.
    """

    def __init__(  # noqa: PLR0913  # its collaborators, by name
        self,
        records: RecordRepository,
        lease_clock: LeaseClock,
        *,
        clock: Clock,
        generator: GuidGenerator,
        policy: RetentionPolicy,
        strict: bool = False,
        attempts: int = ATTEMPTS,
        quota: Quota = NO_QUOTA,
        audit: ChangeAudit | None = None,
        draw: Draw = randrange,
        renewals: MutableMapping[str, int] | None = None,
        decoding_turns: DecodingTurns | None = None,
    ) -> None:
        self._records = records
        self._lease_clock = lease_clock
        self._clock = clock
        self._generator = generator
        self._policy = policy
        self._strict = strict
        self._attempts = attempts
        self._quota = quota
        self._draw = draw
        self.decoding_turns = DecodingTurns() if decoding_turns is None else decoding_turns
        """The turns of requests, too, for decoding their bodies."""
        self._writer = GroupWriter(
            records,
            lease_clock,
            clock=clock,
            quota=quota,
            audit=audit,
            attempts=attempts,
            decoding_turns=self.decoding_turns,
        )
        self._creator = RecordCreator(
            records, self._writer, clock=clock, generator=generator, attempts=attempts, draw=draw
        )
        outcomes = Counter[str]() if renewals is None else renewals
        self.renewer = LeaseRenewer(records, self._writer, clock=clock, outcomes=outcomes)
        self._listing = RecordListing(records, clock)
        self._caller = ANYONE
        self.is_dry_run = False
        """Whether the writes of this service are discarded."""

    def acting_for(self, caller: Caller) -> "GuidService":
        """Return this service, acting for the caller."""
        if caller is self._caller:
            return self
        acting = copy(self)
        acting._caller = caller  # noqa: SLF001  # an instance of this class
        if caller.limits != UNLIMITED:
            acting._policy = self._policy.limited(caller.limits)  # noqa: SLF001  # as above
        return acting

    @property
    def _hides_unchanged(self) -> bool:
        """Whether a record that a write leaves as it is must look changed: in a dry run of a caller that may not read.

        Otherwise the results of later operations would tell whether the caller has guessed what is stored.
        """
        return self.is_dry_run and not self.may_read

    @property
    def may_read(self) -> bool:
        """Whether responses may show the caller records that it has not just created."""
        return self._caller.may(READ)

    def may_show(self, created: Record) -> bool:
        """Whether the response to `create` may show its record. Others may have changed one that was found."""
        return self.may_read or lifecycle.is_first_version(created)

    def now(self) -> int:
        """Return the time by which records expire, in Unix milliseconds."""
        return self._clock()

    def lives_for(self, record: Record, seconds: int) -> bool:
        """Whether the record stays live for at least this number of seconds."""
        return record.expire * 1000 - self._clock() >= seconds * 1000

    def get_nowait(self, guid: str, caller: Caller | None = None) -> Record | None:
        """Return or raise what `get` would, without blocking; None if the store would block."""
        record = self._records.get_nowait(guid)
        if record is WOULD_BLOCK:
            return None
        record = authorize(record, self._caller if caller is None else caller)
        now = self._clock()
        if record is not None and lifecycle.is_live(record, now):
            return record
        return lifecycle.require_live(guid, record, now)

    def get_at_hand(
        self, guid: str, conditions: Conditions = UNCONDITIONAL, valid_for: int | None = None
    ) -> Read | None:
        """Return or raise what `get` would, without blocking; None if the store would block or is unavailable."""
        try:
            record = self.get_nowait(guid)
        except StoreUnavailable:
            return None
        return None if record is None else self._read(guid, record, conditions, valid_for)

    def begin_get(self, guid: str, caller: str) -> BegunGet | None:
        """Begin to read a record that `get_nowait` did not find; None if only `get` can. It authorizes nobody.

        `caller` is the name under which the caller takes its turns.
        """
        return self._records.begin_get(guid, caller)

    async def get(
        self,
        guid: str,
        conditions: Conditions = UNCONDITIONAL,
        valid_for: int | None = None,
        begun: BegunGet | None = None,
    ) -> Read:
        """Return the live record of a GUID; raise NotFound or Expired if it has none.

        Raise ExpiresTooSoon if it does not stay live for `valid_for` seconds.
        Raise PreconditionFailed if `if_match` does not hold. A record that `if_none_match` excludes is unmodified.
        """
        found = await (self._records.get(guid) if begun is None else begun.finish())
        record = authorize(found, self._caller)
        return self._read(guid, lifecycle.require_live(guid, record, self._clock()), conditions, valid_for)

    def _read(self, guid: str, record: Record, conditions: Conditions, valid_for: int | None) -> Read:
        if valid_for is not None:
            lifecycle.require_valid_for(record, valid_for, self._clock())
        if conditions is UNCONDITIONAL:
            return Read(record, modified=True)
        preconditions.check_preconditions(guid, record, Conditions(if_match=conditions.if_match))
        return Read(record, modified=conditions.hold(record))

    async def put(self, guid: str, change: PutCommand, conditions: Conditions = UNCONDITIONAL) -> Written:
        """Create the GUID, or merge the change into its record. Renew the record if it has expired.

        Raise Expired if the record was revoked and the change names no expiry, or if the change must not revive it.
        Raise InvalidRequest if the GUID is unknown and the change lacks a required member.
        """
        make = partial(self._made, guid, change, conditions)
        old, new = await self._writer.write(guid, make, self._caller, while_live=change.revive is False)
        return Written(new, created=old is None)

    def _made(  # a put, and what `Make` gets
        self, guid: str, change: PutCommand, conditions: Conditions, old: Record | None, now: int, after: int
    ) -> Record:
        """Make the record of a put; see `Make`."""
        if conditions is not UNCONDITIONAL or (self._strict and old is not None):
            check_change(guid, old, conditions, strict=self._strict, is_shown=self.may_read)
        asked = change
        if change.ttl is not None:
            asked = dated(change, now, now if old is None else old.created, self._policy.limits, self._draw)
        if old is None:
            return lifecycle.create(guid, asked, now, self._policy, after=after, owner=self._caller.owner)
        new = lifecycle.update(old, asked, now, self._policy)
        return lifecycle.touch(old, new, now, self._policy) if self._hides_unchanged else new

    async def put_together(
        self, puts: Sequence[tuple[str, PutCommand, Conditions]]
    ) -> list[Written | Exception | None]:
        """Put records of different GUIDs in one transaction, as far as the store can.

        Return what each `put` would return or raise; None for one that was not done, and must be done by `put`.
        """

        def make(place: int, old: Record | None, now: int, after: int) -> Record:
            return self._made(*puts[place], old, now, after)

        results = await self._writer.write_together([guid for guid, _, _ in puts], make, self._caller)
        return [Written(each[1], each[0] is None) if isinstance(each, tuple) else each for each in results]

    async def create(
        self, change: WriteCommand, conditions: Conditions = UNCONDITIONAL, *, generator: GuidGenerator | None = None
    ) -> Record:
        """Create a record under a generated GUID; raise InvalidRequest if the change lacks a required member.

        With a `generator`, the request may be a repetition: a record that exists under its GUID is the result.
        """
        if generator is not None:
            return await self._creator.create_claimed(change, conditions, self._caller, self._policy, generator)
        return await self._creator.create(change, conditions, self._caller, self._policy)

    async def patch(self, guid: str, patch: PatchCommand, conditions: Conditions = UNCONDITIONAL) -> Record:
        """Apply a merge patch to the record of a GUID; raise NotFound if it has none.

        Raise Expired if the record is not live and the patch names no expiry.
        """

        def make(old: Record | None, now: int, after: int) -> Record:  # noqa: ARG001  # it never creates
            if old is None:
                raise NotFound(guid)
            check_change(guid, old, conditions, strict=self._strict, is_shown=self.may_read)
            return lifecycle.patch(old, patch, now, self._policy)

        merged_bytes = 0 if patch.metadata is None else patch.merged_bytes
        _, new = await self._writer.write(guid, make, self._caller, merged_bytes=merged_bytes)
        return new

    async def renew(self, guid: str, asked: RenewCommand, conditions: Conditions = UNCONDITIONAL) -> Renewal:
        """Move the expiry of the record of a GUID, never back; raise NotFound if it has none.

        Raise Expired for a record that is not live, unless it is to be revived; LifeLimitReached if the limits grant
        too little. A renewal that `if_below` excludes is answered from the cache.
        """
        return await self.renewer.renew(guid, self.renewal_terms(asked, conditions))

    def renewal_terms(self, asked: RenewCommand, conditions: Conditions) -> RenewalTerms:
        """Return the terms of a renewal by the caller."""
        hides_unchanged = self._hides_unchanged
        return RenewalTerms(asked, conditions, self._caller, self._policy, self._strict, hides_unchanged)

    async def delete(self, guid: str, conditions: Conditions = UNCONDITIONAL) -> None:
        """Delete the record of a GUID, live or expired; raise NotFound if it has none."""

        def make(old: Record | None, now: int, after: int) -> Record:  # noqa: ARG001  # it never creates
            if old is None:
                raise NotFound(guid)
            check_change(guid, old, conditions, strict=self._strict, is_shown=self.may_read)
            return lifecycle.delete(old, now)

        try:
            await self._writer.write(guid, make, self._caller)
        except NotFound as error:
            raise NotFound(guid, is_deletion=True) from error

    def list_slots(self, query: ListQuery, *, has_total: bool = False) -> FairSemaphore:
        """Return the slots of which a request must hold one for `find` and `count`. Take it before any other slot."""
        return self._listing.slots(query, self._caller, has_total=has_total)

    async def find(self, query: ListQuery, queue_name: str | None = None) -> Page:
        """Return one page of a list; it ends early at PAGE_BYTES.

        Callers take turns by their `queue_name`, by default their owner. So do they in `walk` and `count`.
        """
        return await self._listing.find(query, self._caller, queue_name)

    def walk(self, query: ListQuery, queue_name: str | None = None) -> AsyncIterator[Sequence[Record]]:
        """Yield the records that a query selects, in parts of PART_BYTES, up to its limit, if any."""
        return self._listing.walk(query, self._caller, queue_name)

    def is_restricted(self, query: ListQuery) -> bool:
        """Whether a list holds the records of one owner or user only, so that it cannot be streamed by expiry."""
        return self._listing.is_restricted(query, self._caller)

    async def count(self, query: ListQuery, queue_name: str | None = None) -> int:
        """Count the records that a query selects."""
        return await self._listing.count(query, self._caller, queue_name)

    @contextmanager
    def dry_run(self, share: Share | None = None) -> Iterator["GuidService"]:
        """Yield a service whose writes go to a temporary overlay and are discarded at the end of the block.

        Writes that exceed the request's share of temporary space raise SpaceUsed or Overloaded.
        """
        with open_overlay(self._records, share) as records:
            service = GuidService(  # without an audit: nothing is done
                records,
                self._lease_clock,
                clock=self._clock,
                generator=self._generator,
                policy=self._policy,
                strict=self._strict,
                attempts=self._attempts,
                quota=self._quota.dry_run(),
                draw=self._draw,
                decoding_turns=self.decoding_turns,
            )
            service.is_dry_run = True
            yield service.acting_for(self._caller)

    def full(self, record: Record) -> bytes:
        """Return the full JSON of a record, with what depends on the time and the limits of the caller.

        It has the owner if the caller is an admin.
        """
        now = self._clock()
        times = {"renew_at": renew_at(record), "max_expire": self._policy.limits.max_expire(now, record.created)}
        return record.full_json(lifecycle.state_of(record, now), times, with_owner=self._caller.is_admin)
