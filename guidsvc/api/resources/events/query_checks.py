"""Checks of the query of `/events` beyond single parameters: exclusive parameters, and types that are never logged."""

from collections.abc import Iterator

from guidsvc.domain.events.entry import event_type
from guidsvc.domain.events.query import EventQuery
from guidsvc.domain.events.schedule import EventPolicy
from guidsvc.errors import InvalidField, InvalidRequest
from guidsvc.http import constants


def check_query(query: EventQuery, policy: EventPolicy, content_type: str) -> None:
    """Raise InvalidRequest if parameters would have no effect in the form of this type, or nothing could match them."""
    faults = [*_unlogged(query, policy), *_without_effect(query, content_type)]
    if faults:
        raise InvalidRequest(*faults)


def _unlogged(query: EventQuery, policy: EventPolicy) -> Iterator[InvalidField]:
    """Yield a fault for types of events that the log does not hold."""
    for kind in sorted(query.type or ()):
        setting = policy.exclusion(kind)
        if setting is not None:
            detail = f"selects {event_type(kind)}, which this service does not log ({setting}); leave that type out"
            yield InvalidField("", detail, parameter="type")


def _without_effect(query: EventQuery, content_type: str) -> Iterator[InvalidField]:
    named = query.model_fields_set
    is_sse = content_type == constants.EVENT_STREAM
    if "cursor" in named and "begin" in named:
        yield InvalidField("", "has no effect beside `cursor`, which says where to begin; leave it out", "from")
    if content_type == constants.JSON and query.follow == "true":
        detail = f"needs a stream; send Accept: {constants.NDJSON}, or {constants.EVENT_STREAM}"
        yield InvalidField("", detail, parameter="follow")
    if is_sse and "follow" in named and query.follow == "false":
        detail = f"has no effect with Accept: {constants.EVENT_STREAM}, which always follows; leave it out"
        yield InvalidField("", detail, parameter="follow")
    if query.wait and (is_sse or (content_type == constants.NDJSON and query.follow == "true")):
        yield InvalidField("", "has no effect on a stream that follows, which always waits; leave it out", "wait")
