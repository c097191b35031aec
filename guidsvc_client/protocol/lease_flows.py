"""The flows of a lease: acquire, renew, release. docs/leases.md says why they are safe.

All renewals carry the version in `If-Match`, so they never renew the lease of a successor. All times are counted from
before the request, by a clock of this host.

After a lost response, the record may have a version that only the lost request knew. It is this block's if it has the
user and the metadata that the block wrote, with a random `holder`, a new one for each block. But the program that takes
over a lease may leave both: a PUT merges. So its expiry must be possible, too, and the last confirmed grant must not
have ended. A release removes the holder: a record that has it was not released. All else counts as lost.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from socket import gethostname
from typing import Any, Required, TypedDict
from uuid import uuid4

from guidsvc_client.clock import clock
from guidsvc_client.errors import GuidsvcError, LeaseHeld, LeaseLost
from guidsvc_client.models import FullRecord, Record
from guidsvc_client.problems import Expired, Forbidden, NotFound, OutcomeUnknown, PreconditionFailed
from guidsvc_client.protocol import calls
from guidsvc_client.protocol.call import Call, Flow, Pause, dump, send
from guidsvc_client.protocol.calls import PutChange
from guidsvc_client.protocol.retrying import is_temporary
from guidsvc_client.protocol.values import Duration, Guid, guid_of, seconds_of

HOLDER = "holder"
_RACES = 5
"""Number of times that a claim or a renewal may meet another version before it fails."""
_REJECTED = (PreconditionFailed, OutcomeUnknown)
_MAX_HOLDERS = 16
"""Number of the last blocks of a lease whose record the next one takes over. Another record must expire first."""


class LeaseOptions(TypedDict, total=False):
    """The options of a lease. `wait` is the time to wait while another holds it, or the service does not respond."""

    ttl: Required[Duration]
    user: str
    metadata: Mapping[str, Any]
    wait: Duration


@dataclass(frozen=True, slots=True)
class Plan:
    """The lease to acquire, and its options."""

    guid: str
    ttl_seconds: int
    user: str
    metadata: Mapping[str, Any]
    wait_seconds: float
    """Time to wait for a lease that another client holds, or for the service."""
    is_deleted: bool
    """Whether to delete the lease at its end. The lease of an election is revoked, so that its versions keep rising."""
    holders: tuple[str, ...] = ()
    """The holders of the last blocks of this lease, the current one at the end. All others have ended."""

    @property
    def change(self) -> PutChange:
        """The record of the lease."""
        return {"user": self.user, "ttl": self.ttl_seconds, "metadata": self._metadata_of(self.holders[-1])}

    def for_next_block(self) -> "Plan":
        """Return the plan of the next block, with a new holder: what outlasts this block does not recognise it."""
        return replace(self, holders=(*self.holders, uuid4().hex)[-_MAX_HOLDERS:])

    def may_take_over(self, record: Record) -> bool:
        """Return whether a record is as the current block or an earlier one wrote it, which needs it no more."""
        written = (self._metadata_of(holder) for holder in self.holders)
        return record.user == self.user and record.metadata in written

    def holds(self, record: Record) -> bool:
        """Return whether a record has the user and the holder of the current block."""
        return record.user == self.user and record.metadata.get(HOLDER) == self.holders[-1]

    def _metadata_of(self, holder: str) -> Mapping[str, Any]:
        return {**self.metadata, HOLDER: holder}


@dataclass(frozen=True, slots=True)
class Term:
    """A lease that is granted until `ends`, and should be renewed at `renews`, by the clock of this host.

    `version`, `expire` and `metadata` are those of its record, as far as they are confirmed.
    """

    version: int
    expire: int
    ends: float
    renews: float
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def after(self, record: Record, version: int) -> "Term":
        """Return this term as another version of the record shows it. Its end stays."""
        return replace(self, version=version, expire=record.expire, metadata=record.metadata)


def plan_of(guid: Guid | None, options: LeaseOptions) -> Plan:
    """Return the plan of a lease."""
    ttl_seconds = seconds_of(options["ttl"], "ttl")
    if ttl_seconds < 1:
        raise ValueError("the ttl of a lease is less than a second; pass a timedelta or seconds, such as 15")
    return Plan(
        guid=guid_of(guid or uuid4()),
        ttl_seconds=ttl_seconds,
        user=options.get("user") or gethostname(),
        metadata=json.loads(dump(options.get("metadata", {}))),  # as a record has it: with lists for tuples
        wait_seconds=seconds_of(options.get("wait", 0), "wait"),
        is_deleted=guid is None,
    )


def acquire(plan: Plan) -> Flow[Term]:
    """Create the lease, or take it over once it has expired. LeaseHeld if another client has it for too long."""
    gives_up = clock() + plan.wait_seconds
    while True:
        try:
            return (yield from _claim(plan))
        except GuidsvcError as error:
            pause = min(plan.ttl_seconds / 4, 1.0)
            if clock() + pause > gives_up or not (isinstance(error, LeaseHeld) or is_temporary(error)):
                raise
        yield Pause(pause)


def renew(
    plan: Plan, term: Term, *, is_in_doubt: bool, on_recognised: Callable[[Term], object] = lambda _: None
) -> Flow[Term]:
    """Renew the lease. LeaseLost if this block no longer has it, or if that is not certain.

    `is_in_doubt`: an earlier renewal, of which there was no response, may have taken effect.
    `on_recognised` gets the term whenever another version turns out to be this block's: its renewal may fail.
    """
    for _ in range(_RACES):
        asked = clock()
        try:
            renewal = yield from send(calls.renew(plan.guid, {"ttl": plan.ttl_seconds}, term.version))
        except _REJECTED as error:
            is_repeated = isinstance(error, OutcomeUnknown)
            term = _held_term(plan, term, error, is_in_doubt=is_in_doubt or is_repeated)
            is_in_doubt = False
            on_recognised(term)
        except (NotFound, Expired) as error:
            reason = "it was deleted" if isinstance(error, NotFound) else "a renewal came too late"
            raise LeaseLost(plan.guid, reason) from error
        else:
            ends = asked + renewal.granted
            renews = asked + _pause_seconds(renewal.granted, renewal.expire, renewal.renew_at)
            return Term(renewal.version or term.version, renewal.expire, ends, renews, term.metadata)
    raise LeaseLost(plan.guid, "other clients change its record all the time")


def release(plan: Plan, term: Term, *, is_in_doubt: bool) -> Flow[None]:
    """Revoke or delete the lease. LeaseLost if this block no longer had it.

    If there was no response to an attempt, and the holder is gone from the record, that attempt had success.
    `is_in_doubt`: a renewal, of which there was no response, may have taken effect.
    """
    is_deleted = plan.is_deleted
    for _ in range(_RACES):
        try:
            yield from send(_release_call(plan, term, is_deleted=is_deleted))
        except Forbidden:  # the key may not delete
            if not is_deleted:
                raise
            is_deleted = False
        except _REJECTED as error:
            if isinstance(error, OutcomeUnknown) and _is_released(plan, error.record):
                return  # by an attempt whose response was lost, and another client may have it since
            term = _held_term(plan, term, error, is_in_doubt=is_in_doubt)
        except NotFound as error:
            raise LeaseLost(plan.guid, "it was deleted") from error
        else:
            return


def _release_call(plan: Plan, term: Term, *, is_deleted: bool) -> Call[Any]:
    if is_deleted:
        return calls.delete(plan.guid, term.version)
    metadata = {name: value for name, value in term.metadata.items() if name != HOLDER}
    return calls.put(plan.guid, {"expire": 0, "metadata": metadata}, Record, term.version)


def _is_released(plan: Plan, record: Record | None) -> bool:
    """Return whether the holder of the block is gone from a record, as a release removes it."""
    return record is not None and record.metadata.get(HOLDER) != plan.holders[-1]


def _held_term(plan: Plan, term: Term, error: PreconditionFailed | OutcomeUnknown, *, is_in_doubt: bool) -> Term:
    """Return the term with the version that an error shows, if this block certainly holds that. Otherwise LeaseLost.

    A version with the same expiry has additions of another client, and no new holder. If a renewal is in doubt, its
    version has another expiry, and nothing else is new.
    """
    record, version = error.record, error.version
    if isinstance(error, OutcomeUnknown) and version is None:
        raise error  # the service does not know either
    if record is None or version is None or not plan.holds(record) or clock() >= term.ends:
        raise LeaseLost(plan.guid, "another client has it") from error
    is_renewal = is_in_doubt and record.metadata == term.metadata
    if record.expire != term.expire and not (is_renewal and _may_be_renewed_to(plan, term, record.expire)):
        raise LeaseLost(plan.guid, "it was revoked, or another client may have it") from error
    return term.after(record, version)


def _may_be_renewed_to(plan: Plan, term: Term, expire: int) -> bool:
    """Return whether a renewal of the term until now may have set this expiry. It never shortens."""
    remaining = term.ends - clock()
    return term.expire < expire <= term.expire - remaining + plan.ttl_seconds + 1


def _pause_seconds(granted: int, expire: int, renew_at: int | None) -> float:
    """Return how long to wait until a renewal, from the request that granted so many seconds.

    The service says when to renew, in whole seconds. So its time may have come already for a lease of a second. And the
    response may be wrong. So the wait is at least a third of what was granted, and at most three quarters.
    """
    suggested_seconds = granted if renew_at is None else granted - (expire - renew_at)
    return min(max(suggested_seconds, granted / 3), granted * 3 / 4)


def _claim(plan: Plan) -> Flow[Term]:
    """Create the lease, or take over the version of it that has expired."""
    version: int | None = None
    for race in range(1, _RACES + 1):
        put, asked = partial(calls.put, plan.guid, plan.change, FullRecord), clock()
        try:
            record = yield from send(put(if_none_match="*") if version is None else put(if_match=version))
        except _REJECTED as error:
            if _is_gone(error) and race < _RACES:
                version = None
                continue
            if error.record is None or error.version is None:
                raise
            if race == _RACES:
                raise LeaseHeld(error.record) from error
            version = error.version
            if not plan.may_take_over(error.record):  # otherwise a response was lost, or a release has failed
                version = yield from _version_to_take_over(plan, version)
        else:
            ends = asked + plan.ttl_seconds
            renews = asked + _pause_seconds(plan.ttl_seconds, record.expire, record.renew_at)
            return Term(record.version, record.expire, ends, renews, record.metadata)
    raise AssertionError("the last race returns or raises")


def _is_gone(error: PreconditionFailed | OutcomeUnknown) -> bool:
    """Return whether there is no record any more: an earlier block has deleted it, or its retention has ended."""
    return isinstance(error, PreconditionFailed) and error.record is None and error.version is None


def _version_to_take_over(plan: Plan, version: int) -> Flow[int | None]:
    """Return the version if it has expired, or None if there is no record any more. LeaseHeld if it is live."""
    try:
        record = yield from send(calls.get(plan.guid, Record))
    except Expired:
        return version
    except NotFound:
        return None
    raise LeaseHeld(record)
