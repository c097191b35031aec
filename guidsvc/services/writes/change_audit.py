"""What the audit log and the event log say about a change of a record."""

from typing import Literal, Protocol

from guidsvc.domain.caller import ANYONE, Caller
from guidsvc.domain.events.entry import Origin
from guidsvc.domain.record import Record
from guidsvc.errors import GuidsvcError, OutcomeUnknown
from guidsvc.telemetry.tracing import CURRENT

Action = Literal["create", "update", "delete"]
Outcome = Literal["done", "found", "unknown"]
"""The outcome of a write: `found` if an earlier attempt of the same request had created the record, `unknown` if the
store did not confirm the write."""


class ChangeAudit(Protocol):
    """The audit log of changes of records."""

    def __call__(self, action: Action, record: Record, caller: Caller, outcome: Outcome, /) -> None:
        """Log an action of a caller, with the new record, or the deleted one."""


def origin_of(caller: Caller) -> Origin:
    """Return the caller and the request for the entries of a change."""
    trace = CURRENT.get()
    return Origin("" if caller is ANYONE else caller.name, "" if trace is None else trace.request_id)


def action_of(old: Record | None, new: Record) -> Action:
    """Classify a swap as create, update or delete. The caller passes None for a record past its retention."""
    if old is None:
        return "create"
    return "delete" if new.is_deleted else "update"


def is_unknown(error: BaseException) -> bool:
    """Whether a write that failed with this error may have taken effect."""
    return isinstance(error, OutcomeUnknown) or not isinstance(error, GuidsvcError)
