"""Creation of records under generated GUIDs, retried where a GUID is in use.

If the outcome of a creation is unknown, the error contains the GUID: the caller does not know it otherwise.
"""

from guidsvc.domain import lifecycle
from guidsvc.domain.caller import Caller, authorize
from guidsvc.domain.commands import WriteCommand
from guidsvc.domain.guid_generator import GuidGenerator
from guidsvc.domain.leases.expiry import Draw, dated
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.domain.preconditions import Conditions
from guidsvc.domain.record import Record
from guidsvc.errors import Contention, OutcomeUnknown, PreconditionFailed, QuotaExceeded
from guidsvc.runtime.clock import Clock
from guidsvc.services.writes.record_writer import RecordWriter, back_off
from guidsvc.store.contract import RecordRepository


class RecordCreator:
    """Creates records under generated GUIDs. A creation that fails `attempts` times in a row raises Contention."""

    def __init__(
        self,
        records: RecordRepository,
        writer: RecordWriter,
        *,
        clock: Clock,
        generator: GuidGenerator,
        attempts: int,
        draw: Draw,
    ) -> None:
        self._records = records
        self._writer = writer
        self._clock = clock
        self._generator = generator
        self._attempts = attempts
        self._draw = draw

    async def create(
        self, change: WriteCommand, conditions: Conditions, caller: Caller, policy: RetentionPolicy
    ) -> Record:
        """Create a record under a generated GUID; raise InvalidRequest if the change lacks a required member."""
        for attempt in range(self._attempts):
            if attempt:
                await back_off(attempt)
            record = self._first_record(self._generator(self._clock()), change, conditions, caller, policy)
            try:
                if await self._writer.swap("create", None, record, caller):
                    return record
            except OutcomeUnknown as error:
                raise OutcomeUnknown(str(error), guid=record.guid) from error
        raise Contention(f"{self._attempts} generated GUIDs were already in use, or created too late; retry")

    async def create_claimed(
        self,
        change: WriteCommand,
        conditions: Conditions,
        caller: Caller,
        policy: RetentionPolicy,
        generator: GuidGenerator,
    ) -> Record:
        """Create a record under a GUID that each attempt generates; return it if an earlier attempt has created it.

        A creation that came too late is retried under the same GUID: a later attempt would not find another one.
        """
        guid, stored = generator(self._clock()), None
        for attempt in range(self._attempts):
            if attempt:
                await back_off(attempt)
            record = self._first_record(guid, change, conditions, caller, policy, stored)
            rejection: QuotaExceeded | None = None
            try:
                if await self._writer.swap("create", stored, record, caller):
                    return record
            except QuotaExceeded as error:
                rejection = error
            except OutcomeUnknown as error:
                raise OutcomeUnknown(str(error), guid=guid) from error
            stored = await self._records.get_for_update(guid)
            current = lifecycle.existing(stored, self._clock())
            if (before := authorize(current, caller)) is not None:
                self._writer.note("create", before, caller, "found")
                return before
            if rejection is not None:
                raise rejection
            if current is not None:
                guid, stored = generator(self._clock()), None
        raise Contention(f"{self._attempts} generated GUIDs were already in use, or created too late; retry")

    def _first_record(
        self,
        guid: str,
        change: WriteCommand,
        conditions: Conditions,
        caller: Caller,
        policy: RetentionPolicy,
        predecessor: Record | None = None,
    ) -> Record:
        """Make the first record of a generated GUID, or the first after `predecessor`, which is no longer retained."""
        if not conditions.hold(None):
            raise PreconditionFailed(guid, None, None, is_generated=True)
        after, owner = predecessor.version if predecessor else 0, caller.owner
        now = self._clock()
        asked = change
        if change.ttl is not None:
            asked = dated(change, now, now, policy.limits, self._draw)
        return lifecycle.create(guid, asked, now, policy, after=after, owner=owner)
