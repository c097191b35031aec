"""The HTTP actions on the record of one GUID.

Both the handler (`guidsvc.api.resources.guid`) and the fast path (`guidsvc.api.fast_path.direct_request`) call them.
"""

from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http.client import CREATED, NO_CONTENT, NOT_MODIFIED, OK
from typing import NamedTuple

from pydantic_core import to_json

from guidsvc.api.parsing import body
from guidsvc.api.parsing import conditional as conditions
from guidsvc.domain.caller import DELETE, READ, WRITE, Scope
from guidsvc.domain.commands import CreateCommand, PatchCommand, PutCommand, RenewCommand
from guidsvc.domain.leases.renewal import Renewal, renew_at
from guidsvc.domain.preconditions import Conditions, etag_of
from guidsvc.domain.record import Record, parse_guid
from guidsvc.http import constants
from guidsvc.http.headers import prefer as preferences
from guidsvc.http.response import Response
from guidsvc.services.guid_service import BegunGet, GuidService, Read
from guidsvc.services.idempotency import GuidFactory

COLLECTION_ROUTE = "/guid"
"""The path of the collection of all GUIDs."""
ROUTE = "/guid/{guid}"
"""The path template of a record."""
RENEWAL_ROUTE = "/guid/{guid}/renewal"
"""The path template of the renewal of a record."""
_CACHEABLE = {"Vary": "Accept, Authorization"}
"""Sent if clients may cache records: a cache must not return a record to another key, or JSON instead of a page."""
_MINIMAL = {"Preference-Applied": "return=minimal"}


class GuidRequest(NamedTuple):
    """A request for the GUID in its path, as text; `full` asks for the full representation of the record.

    The request that creates a record under a generated GUID has none.
    """

    method: str
    guid: str
    headers: Mapping[str, str]
    body: Callable[[], bytes]
    """Returns the body, or raises TooLarge."""
    full: bool = False
    valid_for: int | None = None
    """Seconds for which the record of a read must stay valid."""
    max_age: int = 0
    """Seconds for which the client may cache the response to a read."""
    has_large_body: bool = False
    """Whether the body has more than SMALL_BYTES, so that decoding it takes a turn."""
    begun: BegunGet | None = None
    """The read of the record, if it has begun."""


async def get(service: GuidService, request: GuidRequest) -> Response:
    """Return the record of a live GUID. An expired one is 410, whatever the preconditions."""
    guid, preconditions = parse_guid(request.guid), conditions.parse(request.headers)
    return _read(service, request, await service.get(guid, preconditions, request.valid_for, request.begun))


def get_nowait(service: GuidService, request: GuidRequest) -> Response | None:
    """Return the response of `get` if it is available without waiting; else None."""
    read = service.get_at_hand(parse_guid(request.guid), conditions.parse(request.headers), request.valid_for)
    return None if read is None else _read(service, request, read)


def _read(service: GuidService, request: GuidRequest, read: Read) -> Response:
    return record_response(service, request, OK if read.modified else NOT_MODIFIED, read.record)


async def put(service: GuidService, request: GuidRequest) -> Response:
    """Create the GUID, or merge the given members into its record."""
    guid = parse_guid(request.guid)
    command = body.read(request.method, request.headers, request.body, PutCommand, (constants.JSON,), guid)
    record, created = await service.put(guid, command, conditions.parse(request.headers))
    return record_response(service, request, CREATED if created else OK, record, is_own=created)


async def create(service: GuidService, request: GuidRequest) -> Response:
    """Create a record under a GUID that the service generates."""
    return await execute_creation(service, request, *read_creation(request))


def read_creation(request: GuidRequest) -> tuple[CreateCommand, Conditions]:
    """Return the command of a creation under a generated GUID, and its preconditions."""
    command = body.read(request.method, request.headers, request.body, CreateCommand, (constants.JSON,), None)
    return command, conditions.parse(request.headers)


async def execute_creation(
    service: GuidService,
    request: GuidRequest,
    command: CreateCommand,
    preconditions: Conditions,
    guid_factory: GuidFactory | None = None,
) -> Response:
    """Execute a creation whose body has been read. With a factory, it may be a repetition."""
    record = await service.create(command, preconditions, generator=guid_factory and guid_factory(0))
    return record_response(service, request, CREATED, record, is_own=service.may_show(record))


async def patch(service: GuidService, request: GuidRequest) -> Response:
    """Apply a JSON merge patch to the record of the GUID, which must exist."""
    guid = parse_guid(request.guid)
    command = body.read(request.method, request.headers, request.body, PatchCommand, constants.PATCHES, guid)
    return record_response(service, request, OK, await service.patch(guid, command, conditions.parse(request.headers)))


async def delete(service: GuidService, request: GuidRequest) -> Response:
    """Delete the GUID, live or expired."""
    await service.delete(parse_guid(request.guid), conditions.parse(request.headers))
    return Response(NO_CONTENT, {}, None)


async def renew(service: GuidService, request: GuidRequest) -> Response:
    """Move the expiry of the record of a GUID, never back."""
    return await execute_renewal(service, request, read_renewal(request), conditions.parse(request.headers))


async def execute_renewal(
    service: GuidService, request: GuidRequest, asked: RenewCommand, preconditions: Conditions
) -> Response:
    """Execute a renewal whose body has been read."""
    renewal = await renew_lease(service, request.guid, asked, preconditions)
    return renewal_response(request, renewal, is_shown=service.may_read)


async def renew_lease(service: GuidService, guid: str, asked: RenewCommand, preconditions: Conditions) -> Renewal:
    """Renew a GUID, from the cache alone if that shows that nothing changes."""
    renewal = service.renewer.at_hand(guid, service.renewal_terms(asked, preconditions))
    if renewal is None:
        return await service.renew(guid, asked, preconditions)
    service.renewer.count_unchanged()
    return renewal


def read_renewal(request: GuidRequest) -> RenewCommand:
    """Return the command of a renewal."""
    parse_guid(request.guid)
    return body.read(request.method, request.headers, request.body, RenewCommand, (constants.JSON,), None)


class Action(NamedTuple):
    """The effect of a method on the record of a GUID, and the required scope."""

    run: Callable[[GuidService, GuidRequest], Awaitable[Response]]
    scope: Scope


ACTIONS: Mapping[str, Action] = {
    "GET": Action(get, READ),
    "HEAD": Action(get, READ),
    "PUT": Action(put, WRITE),
    "PATCH": Action(patch, WRITE),
    "DELETE": Action(delete, DELETE),
}
"""The actions by method, for handlers, the fast path and batches."""
CREATION = Action(create, WRITE)
"""The action of a POST or PUT to the collection."""
RENEWAL = Action(renew, WRITE)
"""The action of a POST to the renewal of a GUID."""
OPERATION_SCOPES: Mapping[str, Scope] = {
    "put": ACTIONS["PUT"].scope,
    "get": ACTIONS["GET"].scope,
    "delete": ACTIONS["DELETE"].scope,
    "renew": RENEWAL.scope,
}
"""The scopes that the operations of a batch require."""


def record_response(
    service: GuidService, request: GuidRequest, status: int, record: Record, *, is_own: bool = False
) -> Response:
    """Return the response for a record, honouring the client's preferences.

    `is_own` if the record holds only what the caller wrote, so that it needs no scope to be shown.
    """
    headers = headers_of(record)
    if request.max_age and request.method in {"GET", "HEAD"}:
        headers = _CACHEABLE | headers
        if service.lives_for(record, request.max_age + (request.valid_for or 0)):
            headers["Cache-Control"] = max_age_control(request.max_age)
    if status == CREATED:
        headers["Location"] = f"/guid/{record.guid}"
    if status == NOT_MODIFIED:
        return Response(status, headers, None)
    if request.method not in {"GET", "HEAD"}:
        if _is_minimal(request):
            return Response(NO_CONTENT if status == OK else status, headers | _MINIMAL, None)
        if not is_own and not service.may_read:
            return Response(NO_CONTENT if status == OK else status, headers, None)
    json_text = service.full(record) if request.full else record.json_body
    return Response(status, headers, json_text)


def max_age_control(seconds: int) -> str:
    """Return the Cache-Control of a record that the client may cache for this number of seconds."""
    return f"private, max-age={seconds}"


def renewal_response(request: GuidRequest, renewal: Renewal, *, is_shown: bool) -> Response:
    """Return the response to a renewal, honouring the client's preferences. `is_shown` if the caller may see it."""
    return preferred_renewal(request, headers_of(renewal.record), renewal_json(renewal) if is_shown else None)


def preferred_renewal(request: GuidRequest, headers: dict[str, str], body: bytes | None) -> Response:
    """Return the response to a renewal in the form that the client prefers. `body` is None if it may not be shown."""
    if _is_minimal(request):
        return Response(NO_CONTENT, headers | _MINIMAL, None)
    return Response(NO_CONTENT if body is None else OK, headers, body)


def renewal_json(renewal: Renewal) -> bytes:
    """Return a renewal as clients see it: a JSON object."""
    return to_json(renewal_members(renewal))


def renewal_members(renewal: Renewal) -> dict[str, str | bool | None]:
    """Return the members of a renewal as clients see it. Times and durations are strings of digits."""
    record, next_time = renewal.record, renew_at(renewal.record)
    return {
        "guid": record.guid,
        "expire": str(record.expire),
        "renewed": renewal.renewed,
        "granted": str(renewal.granted),
        "capped": renewal.capped,
        "max_expire": None if renewal.max_expire is None else str(renewal.max_expire),
        "renew_at": None if next_time is None else str(next_time),
    }


def headers_of(record: Record) -> dict[str, str]:
    """Return the headers of a response with a record, or about it."""
    return {
        "ETag": f'"{etag_of(record)}"',
        "Last-Modified": _date_of(record.updated // 1000),
        "Cache-Control": "private, no-cache",
    }


def _is_minimal(request: GuidRequest) -> bool:
    prefer = request.headers.get("Prefer")
    return prefer is not None and preferences.parse(prefer).get("return") == "minimal"


@lru_cache(16)
def _date_of(second: int) -> str:
    """Return an HTTP date. Cached, because most writes are of the current second."""
    return formatdate(second, usegmt=True)


def requires_admission(target: bytes) -> bool:
    """Whether a request for this target needs an admission slot; only GUID requests do."""
    return target.startswith(b"/guid")
