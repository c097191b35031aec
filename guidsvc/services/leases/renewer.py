"""LeaseRenewer: renews leases, and answers from the cache the renewals that change nothing."""

from collections.abc import MutableMapping
from typing import NamedTuple

from guidsvc.domain import lifecycle
from guidsvc.domain.caller import READ, Caller, authorize
from guidsvc.domain.commands import RenewCommand
from guidsvc.domain.leases.errors import LifeLimitReached
from guidsvc.domain.leases.renewal import Renewal, is_needed, renew
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.preconditions import UNCONDITIONAL, Conditions, check_change
from guidsvc.domain.record import Record
from guidsvc.errors import Expired, NotFound, PreconditionFailed, StoreUnavailable
from guidsvc.runtime.clock import Clock
from guidsvc.services.writes.record_writer import RecordWriter
from guidsvc.store.contract import WOULD_BLOCK, RecordRepository


class RenewalTerms(NamedTuple):
    """The terms of a renewal, and the rights and rules of its caller."""

    asked: RenewCommand
    conditions: Conditions
    caller: Caller
    policy: RetentionPolicy
    strict: bool
    """Whether a condition is required."""
    hides_unchanged: bool
    """Whether a record that stays as it is must look changed; see `GuidService`."""

    @property
    def may_read(self) -> bool:
        """Whether responses and errors may show the record."""
        return self.caller.may(READ)


class LeaseRenewer:
    """Renews leases, and counts the outcomes."""

    def __init__(
        self, records: RecordRepository, writer: RecordWriter, *, clock: Clock, outcomes: MutableMapping[str, int]
    ) -> None:
        self._records = records
        self._writer = writer
        self._clock = clock
        self._outcomes = outcomes

    async def renew(self, guid: str, terms: RenewalTerms) -> Renewal:
        """Move the expiry of the record of a GUID, never back; see `GuidService.renew`."""
        if terms.asked.if_below is not None and not terms.hides_unchanged:
            unneeded = self._unneeded(await self._records.get(guid), terms)
            if unneeded is not None:
                self.count_unchanged()
                return unneeded
        try:
            return self._counted(await self._write(guid, terms))
        except (Expired, LifeLimitReached) as error:
            self._outcomes["expired" if isinstance(error, Expired) else "limited"] += 1
            raise
        except NotFound as error:
            raise NotFound(guid, is_renewal=True) from error
        except PreconditionFailed as error:
            raise PreconditionFailed(
                guid, error.version, error.wire, is_excluded=error.is_excluded, is_renewal=True
            ) from error

    def at_hand(self, guid: str, terms: RenewalTerms) -> Renewal | None:
        """Return what `renew` would if the cache shows that it would change nothing; else None. It counts nothing."""
        if terms.asked.if_below is None:
            return None
        try:
            record = self._records.get_nowait(guid)
        except StoreUnavailable:
            return None
        return None if record is WOULD_BLOCK else self._unneeded(record, terms)

    def peek(self, guid: str, caller: Caller) -> tuple[Record, int] | None:
        """Return the record of a GUID, and the milliseconds until it expires; None if it is absent or needs waiting.

        It may have expired.
        """
        record = self._records.get_nowait(guid)
        if record is None or record is WOULD_BLOCK or authorize(record, caller) is None:
            return None
        return record, record.expire * 1000 - self._clock()

    def count_unchanged(self) -> None:
        """Count a renewal that was answered from the cache."""
        self._outcomes["unchanged"] += 1

    def _unneeded(self, stored: Record | None, terms: RenewalTerms) -> Renewal | None:
        """Return the outcome of a renewal that a live record does not need; None if the write must decide."""
        record, now = authorize(stored, terms.caller), self._clock()
        if record is None or not lifecycle.is_live(record, now) or is_needed(record, terms.asked, now):
            return None
        conditions = terms.conditions
        if (terms.strict and not conditions) or not (conditions is UNCONDITIONAL or conditions.hold(record)):
            return None
        return renew(record, terms.asked, now, terms.policy)

    async def _write(self, guid: str, terms: RenewalTerms) -> Renewal:
        outcomes: list[Renewal] = []

        def make(old: Record | None, now: int, after: int) -> Record:  # noqa: ARG001  # it never creates
            if old is None:
                raise NotFound(guid)
            check_change(guid, old, terms.conditions, strict=terms.strict, is_shown=terms.may_read)
            outcomes.append(renew(old, terms.asked, now, terms.policy, is_shown=terms.may_read))
            new = outcomes[-1].record
            return lifecycle.touch(old, new, now, terms.policy) if terms.hides_unchanged else new

        _, new = await self._writer.write(guid, make, terms.caller, while_live=not terms.asked.revive)
        return outcomes[-1]._replace(record=new)

    def _counted(self, renewal: Renewal) -> Renewal:
        outcome = "unchanged" if not renewal.renewed else "capped" if renewal.capped else "renewed"
        self._outcomes[outcome] += 1
        return renewal
