"""The flows of a lease: acquire, renew, release. docs/leases.md says why they are safe.

A lease is a record whose metadata have a random `holder`, a new one for each block. After a lost response, it
distinguishes writes of this block from those of other blocks and clients. All renewals carry the version in `If-Match`,
so they never renew the lease of a successor. All times are counted from before the request, by a clock of this host.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from socket import gethostname
from typing import Any, Required, TypedDict
from uuid import uuid4

from guidsvc_client.clock import clock
from guidsvc_client.errors import GuidsvcError, LeaseHeld, LeaseLost
from guidsvc_client.models import FullRecord, Record
from guidsvc_client.problems import Expired, Forbidden, NotFound, OutcomeUnknown, PreconditionFailed
from guidsvc_client.protocol import calls
from guidsvc_client.protocol.call import Call, Flow, Pause, send
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
        return {"user": self.user, "ttl": self.ttl_seconds, "metadata": {**self.metadata, HOLDER: self.holders[-1]}}

    def for_next_block(self) -> "Plan":
        """Return the plan of the next block, with a new holder: what outlasts this block does not recognise it."""
        return replace(self, holders=(*self.holders, uuid4().hex)[-_MAX_HOLDERS:])

    def has_written(self, record: Record | None) -> bool:
        """Return whether a record was written in the current block."""
        return record is not None and record.metadata.get(HOLDER) == self.holders[-1]

    def may_take_over(self, record: Record) -> bool:
        """Return whether a record was written in the current block, or in an earlier one, which needs it no more."""
        return record.metadata.get(HOLDER) in self.holders


@dataclass(frozen=True, slots=True)
class Term:
    """A lease that is granted until `ends`, and should be renewed at `renews`, by the clock of this host."""

    version: int
    expire: int
    ends: float
    renews: float


def plan_of(guid: Guid | None, options: LeaseOptions) -> Plan:
    """Return the plan of a lease."""
    ttl_seconds = seconds_of(options["ttl"])
    if ttl_seconds < 1:
        raise ValueError("the ttl of a lease is less than a second; pass a timedelta or seconds, such as 15")
    return Plan(
        guid=guid_of(guid or uuid4()),
        ttl_seconds=ttl_seconds,
        user=options.get("user") or gethostname(),
        metadata=options.get("metadata", {}),
        wait_seconds=seconds_of(options.get("wait", 0)),
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


def renew(plan: Plan, version: int) -> Flow[Term]:
    """Renew the lease. LeaseLost if this holder no longer has it."""
    for _ in range(_RACES):
        asked = clock()
        try:
            renewal = yield from send(calls.renew(plan.guid, {"ttl": plan.ttl_seconds}, version))
        except _REJECTED as error:
            if not plan.has_written(error.record) or error.version is None:
                raise LeaseLost(plan.guid, "another client has it") from error
            version = error.version  # an earlier renewal, whose response was lost, or somebody has added to the record
        except (NotFound, Expired) as error:
            raise LeaseLost(plan.guid, "a renewal came too late") from error
        else:
            ends = asked + renewal.granted
            return Term(renewal.version or version, renewal.expire, ends, ends - (renewal.expire - renewal.renew_at))
    raise LeaseLost(plan.guid, "other clients change its record all the time")


def release(plan: Plan, version: int) -> Flow[None]:
    """Revoke or delete the lease. LeaseLost if this holder no longer had it."""
    is_deleted = plan.is_deleted
    for _ in range(_RACES):
        change: PutChange = {"expire": 0}
        call = calls.delete(plan.guid, version) if is_deleted else calls.put(plan.guid, change, Record, version)
        try:
            return (yield from send(_without_result(call)))
        except Forbidden:  # the key may not delete
            if not is_deleted:
                raise
            is_deleted = False
        except OutcomeUnknown as error:
            if not plan.has_written(error.record) or error.version is None:
                return None  # released by an attempt whose response was lost, and another client has it since
            version = error.version
        except PreconditionFailed as error:
            if not plan.has_written(error.record) or error.version is None:
                raise LeaseLost(plan.guid, "another client has it") from error
            version = error.version
        except NotFound as error:
            raise LeaseLost(plan.guid, "it was deleted") from error
    return None


def _without_result(call: Call[Any]) -> Call[None]:
    return call


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
            if not plan.may_take_over(error.record):  # else a response was lost, or a release has failed
                version = yield from _version_to_take_over(plan, version)
        else:
            ends = asked + plan.ttl_seconds
            renews = ends - (record.expire - (record.renew_at or record.expire))
            return Term(record.version, record.expire, ends, renews)
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
