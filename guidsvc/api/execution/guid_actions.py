"""What can be done with the record of one GUID over HTTP, whoever has read the request.

Both handlers (`guidsvc.api.resources.guid`) and the fast path (`guidsvc.api.fast_path.direct_request`) call these
functions.
"""

from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http.client import CREATED, NO_CONTENT, NOT_MODIFIED, OK
from typing import NamedTuple

from guidsvc.api.parsing import body
from guidsvc.api.parsing import conditional as conditions
from guidsvc.domain.commands import PatchCommand, PutCommand
from guidsvc.domain.preconditions import etag_of
from guidsvc.domain.record import Record, parse_guid
from guidsvc.http import constants
from guidsvc.http.headers import prefer as preferences
from guidsvc.http.response import Response
from guidsvc.services.guid_service import GuidService, Read

ROUTE = "/guid/{guid}"
"""Where the record of a GUID is."""


class GuidRequest(NamedTuple):
    """A request about the GUID that stands in its path, as text; `full` says that records are wanted in full."""

    method: str
    guid: str
    headers: Mapping[str, str]
    body: Callable[[], bytes]
    """Returns the body, or raises TooLarge."""
    full: bool = False


async def get(service: GuidService, asked: GuidRequest) -> Response:
    """Answer with the record of a live GUID; one that has expired is 410, whatever is asked of it."""
    return _read(service, asked, await service.get(parse_guid(asked.guid), conditions.parse(asked.headers)))


def get_nowait(service: GuidService, asked: GuidRequest) -> Response | None:
    """Answer as `get` does, if that can be done at once; else None."""
    read = service.get_at_hand(parse_guid(asked.guid), conditions.parse(asked.headers))
    return None if read is None else _read(service, asked, read)


def _read(service: GuidService, asked: GuidRequest, read: Read) -> Response:
    return record_response(service, asked, OK if read.modified else NOT_MODIFIED, read.record)


async def put(service: GuidService, asked: GuidRequest) -> Response:
    """Create the GUID, or merge the members that are given into its record."""
    guid = parse_guid(asked.guid)
    change = body.read(asked.method, asked.headers, asked.body, PutCommand, (constants.JSON,), guid)
    record, created = await service.put(guid, change, conditions.parse(asked.headers))
    return record_response(service, asked, CREATED if created else OK, record)


async def patch(service: GuidService, asked: GuidRequest) -> Response:
    """Apply a JSON merge patch to the record of the GUID, which must exist."""
    guid = parse_guid(asked.guid)
    change = body.read(asked.method, asked.headers, asked.body, PatchCommand, constants.PATCHES, guid)
    return record_response(service, asked, OK, await service.patch(guid, change, conditions.parse(asked.headers)))


async def delete(service: GuidService, asked: GuidRequest) -> Response:
    """Delete the GUID, live or expired."""
    await service.delete(parse_guid(asked.guid), conditions.parse(asked.headers))
    return Response(NO_CONTENT, {}, None)


Action = Callable[[GuidService, GuidRequest], Awaitable[Response]]
ACTIONS: Mapping[str, Action] = {"GET": get, "HEAD": get, "PUT": put, "PATCH": patch, "DELETE": delete}
"""What is done, by method."""


def record_response(service: GuidService, asked: GuidRequest, status: int, record: Record) -> Response:
    """Return the answer that a record makes, as the client would like it."""
    headers = {
        "ETag": f'"{etag_of(record)}"',
        "Last-Modified": _date_of(record.updated // 1000),
        "Cache-Control": "private, no-cache",
    }
    if status == CREATED:
        headers["Location"] = f"/guid/{record.guid}"
    if status == NOT_MODIFIED:
        return Response(status, headers, None)
    if asked.method not in {"GET", "HEAD"}:
        prefer = asked.headers.get("Prefer")
        if prefer is not None and preferences.parse(prefer).get("return") == "minimal":
            applied = {"Preference-Applied": "return=minimal"}
            return Response(NO_CONTENT if status == OK else status, headers | applied, None)
        if status == OK and not service.may_read:  # others may have written what this request left as it was
            return Response(NO_CONTENT, headers, None)
    wire = service.full(record) if asked.full else record.json_body
    return Response(status, headers, wire.decode())


@lru_cache(16)
def _date_of(second: int) -> str:
    """Return a time as HTTP has it: most of what is written was written just now."""
    return formatdate(second, usegmt=True)


def requires_admission(target: bytes) -> bool:
    """Whether what is asked of this target takes a place: what is about GUIDs, and nothing else."""
    return target.startswith(b"/guid")
