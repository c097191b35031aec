"""The calls about GUIDs and about the service itself."""

from collections.abc import Mapping
from http.client import NOT_MODIFIED, SERVICE_UNAVAILABLE
from typing import Any, Literal, NoReturn, TypedDict, TypeVar

from guidsvc_client.errors import RecordWithheld
from guidsvc_client.key_models import Identity
from guidsvc_client.models import FullRecord, Page, Readiness, Record, Renewal, Statistics, cursor_of, integer
from guidsvc_client.problems import NotFound, PreconditionFailed, Problem, unknown_outcome
from guidsvc_client.protocol.call import (
    MERGE_PATCH,
    NDJSON,
    Call,
    Reply,
    read_nothing,
    record_reader,
    with_json,
    with_key,
)
from guidsvc_client.protocol.values import (
    Duration,
    Guid,
    Moment,
    Version,
    etag_of,
    expiry_of,
    guid_of,
    seconds_of,
    wire_members,
)

RecordT = TypeVar("RecordT", bound=Record)
FULL = {"view": "full"}
_HEADERS = {"if_match": "If-Match", "if_none_match": "If-None-Match"}
_BOUNDS = frozenset({"expires_before", "expires_after"})
"""The parameters of a list that are times."""


class Change(TypedDict, total=False):
    """The members of a record to set. `ttl` is the lifetime, instead of `expire`; `spread` is its random part."""

    user: str
    expire: Moment
    ttl: Duration
    spread: Duration
    metadata: Mapping[str, Any]


class PutChange(Change, total=False):
    """The members of a put. With `revive=False`, it changes no record that has expired: then Expired."""

    revive: bool


class Terms(TypedDict, total=False):
    """The terms of a renewal, in the words of the interface."""

    ttl: Duration
    if_below: Duration
    at_least: Duration
    revive: bool


class Filter(TypedDict, total=False):
    """The filter of a list. The bounds also accept the forms of the interface, such as "+24h"."""

    user: str
    owner: str
    state: Literal["live", "expired", "all"]
    expires_before: Moment | str
    expires_after: Moment | str
    sort: Literal["guid", "expire"]


def get(
    guid: Guid, kind: type[RecordT], valid_for: Duration | None = None, known: RecordT | None = None
) -> Call[RecordT]:
    """Read a record; with `known`, return that one if it has not changed."""

    def read(reply: Reply) -> RecordT:
        return known if known and reply.status == NOT_MODIFIED else record_reader(kind)(reply)

    return Call(
        method="GET",
        path=_path(guid),
        read=read,
        query=_view(kind) | ({} if valid_for is None else {"valid_for": str(seconds_of(valid_for, "valid_for"))}),
        headers={"If-None-Match": etag_of(known.version)} if known and known.version else {},
        accepts=frozenset({NOT_MODIFIED}),
    )


def create(key: str | None, change: Change) -> Call[Record]:
    """Create a record under a GUID that the service generates."""
    call = Call(method="POST", path="/guid", read=record_reader(Record))
    return with_key(with_json(call, wire_members(change)), key)


def put(
    guid: Guid,
    change: PutChange,
    kind: type[RecordT],
    if_match: Version | None = None,
    if_none_match: Version | None = None,
) -> Call[RecordT]:
    """Create a record, or merge members into it.

    Another program may have written the same values. So a rejected repetition is in doubt, whatever the record shows.
    """
    call = Call(
        method="PUT",
        path=_path(guid),
        read=record_reader(kind),
        query=_view(kind),
        headers=_preconditions(if_match, if_none_match),
        settle=_settle,
    )
    return with_json(call, wire_members(change))


def patch(guid: Guid, changes: Mapping[str, Any], if_match: Version | None) -> Call[Record]:
    """Apply a merge patch. Without a version, a repetition could undo the change of another client."""
    call = Call(
        method="PATCH",
        path=_path(guid),
        read=record_reader(Record),
        headers=_preconditions(if_match),
        is_repeatable=isinstance(if_match, int),
        settle=_settle,
    )
    return with_json(call, wire_members(changes), MERGE_PATCH)


def delete(guid: Guid, if_match: Version | None) -> Call[None]:
    """Delete a record. A repetition that finds none has been successful before."""

    def settle(problem: Problem) -> None:
        if not isinstance(problem, NotFound):
            raise _unknown_if_rejected(problem)

    return Call(method="DELETE", path=_path(guid), read=read_nothing, headers=_preconditions(if_match), settle=settle)


def renew(guid: Guid, terms: Terms, if_match: Version | None = None) -> Call[Renewal]:
    """Renew a record. A repetition does no harm, as a renewal never shortens."""

    def read(reply: Reply) -> Renewal:
        if not reply.content:
            raise RecordWithheld(reply.version)
        return Renewal.from_wire(reply.json, reply.version)

    path, headers = f"{_path(guid)}/renewal", _preconditions(if_match)
    call = Call(method="POST", path=path, read=read, headers=headers, settle=_settle)
    return with_json(call, wire_members(terms))


def list_page(
    filters: Filter, kind: type[RecordT], limit: int, cursor: str | None, *, has_total: bool
) -> Call[Page[RecordT]]:
    """Read a page of a list."""

    def read(reply: Reply) -> Page[RecordT]:
        document = reply.json
        items = [kind.from_wire(each) for each in document["items"]]
        return Page(items, cursor_of(document), integer(document.get("total")))

    query = _filters(filters) | _view(kind) | {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
    headers = {"Prefer": "return=total-count"} if has_total else {}
    return Call(method="GET", path="/guid", read=read, query=query, headers=headers)


def stream(filters: Filter, kind: type[RecordT], limit: int | None) -> Call[None]:
    """Open a stream of records, one per line."""
    query = _filters(filters) | _view(kind) | ({} if limit is None else {"limit": str(limit)})
    return Call(method="GET", path="/guid", read=read_nothing, query=query, headers={"Accept": NDJSON})


def whoami() -> Call[Identity]:
    """Read the identity of the client's key."""
    return Call(method="GET", path="/keys/self", read=lambda reply: Identity.from_wire(reply.json))


def stats() -> Call[Statistics]:
    """Count all GUIDs."""
    return Call(method="GET", path="/stats", read=lambda reply: Statistics.from_wire(reply.json))


def version() -> Call[str]:
    """Read the version of the service."""
    return Call(method="GET", path="/version", read=lambda reply: str(reply.json["version"]))


def ready() -> Call[Readiness]:
    """Read the state of the service. A service that is not ready responds with 503."""

    def read(reply: Reply) -> Readiness:
        document = reply.json
        if "ready" not in document:
            reply.check()
        status = "unavailable" if reply.status == SERVICE_UNAVAILABLE else document["status"]
        parts = {name: document[name] for name in ("store", "cache", "age_ms")}
        parts |= {name: document.get(name) for name in ("workers", "clock", "damage")}
        return Readiness(is_ready=document["ready"], status=status, **parts)

    return Call(method="GET", path="/readyz", read=read, accepts=frozenset({SERVICE_UNAVAILABLE}))


def _path(guid: Guid) -> str:
    return f"/guid/{guid_of(guid)}"


def _view(kind: type[Record]) -> dict[str, str]:
    return FULL if issubclass(kind, FullRecord) else {}


def _filters(filters: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else _bound(value, name) for name, value in filters.items()}


def _bound(value: Any, name: str) -> str:
    if name not in _BOUNDS:
        raise TypeError(f"{name} must be a string, not {value!r}")
    return str(expiry_of(value, name))


def _preconditions(if_match: Version | None, if_none_match: Version | None = None) -> dict[str, str]:
    given: dict[str, Version | None] = {"if_match": if_match, "if_none_match": if_none_match}
    return {_HEADERS[name]: etag_of(each, name) for name, each in given.items() if each is not None}


def _settle(problem: Problem) -> NoReturn:
    raise _unknown_if_rejected(problem)


def _unknown_if_rejected(problem: Problem) -> Problem:
    """Return the error of a repetition: another version may be that of its own first attempt."""
    return unknown_outcome(problem) if isinstance(problem, PreconditionFailed) else problem
